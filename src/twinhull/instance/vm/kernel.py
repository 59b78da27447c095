"""What a distribution's kernel package holds, read without running it: the ELF kernel in a bzImage, and modules in their order.

Pure but for decompressors that the standard library lacks (`lz4`, `zstd`). Sources: Linux' Documentation/arch/x86/boot.rst (setup header),
the `.modinfo` section of modules (zero-separated `key=value`), `modules.builtin`.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from twinhull.errors import PermanentError
from twinhull.sys import proc

WANTED = (
    "virtio_mmio",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "crc32c_generic",
    "erofs",
    "overlay",
    "9pnet_virtio",
    "9p",
    "ext4",
    "af_packet",
)
"""Modules that a guest needs, in the order in which they are wanted; dependencies come before each."""

IF_PRESENT = frozenset(("crc32c_generic",))
"""Soft dependency of erofs and ext4 by an alias; without it mounting gives ENODEV. Since Linux 6.14 a library does its work."""

_SETUP_SECTS, _MAGIC, _PAYLOAD = 0x1F1, 0x202, 0x248
_ELF = b"\x7fELF"


def vmlinux(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage (or the image itself, if it is one already)."""
    if image.startswith(_ELF):
        return image
    if image[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise PermanentError("read kernel: neither an ELF file nor a bzImage")
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = ((image[_SETUP_SECTS] or 4) + 1) * 512 + offset
    kernel = decompress(image[start : start + length])
    if not kernel.startswith(_ELF):
        raise PermanentError("read kernel: the payload isn't an ELF file")
    return kernel


def decompress(data: bytes) -> bytes:
    """By magic number: gzip, xz, lz4 (legacy frames too), zstd; ELF files as they are. Bytes after the stream are ignored."""
    for magic, function in _DECOMPRESSORS:
        if data.startswith(magic):
            return function(data)
    raise PermanentError(f"decompress: unknown format, begins with {data[:6].hex()}")


def _xz(data: bytes) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data)


def _gzip(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data)


def _tool(program: str) -> Callable[[bytes], bytes]:
    """Both tools exit with an error for the four bytes of size that Linux' build appends, after having written everything."""

    def run(data: bytes) -> bytes:
        result = proc.run_blocking((program, "-d", "-c", "-q"), stdin=data, check=False)
        if not result.stdout:
            raise proc.ProcessError((program, "-d"), result.status, result.stderr.decode("utf-8", "replace"))
        return result.stdout

    return run


_DECOMPRESSORS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (_ELF, bytes),
    (b"\x1f\x8b", _gzip),
    (b"\xfd7zXZ\x00", _xz),
    (b"\x02\x21\x4c\x18", _tool("lz4")),
    (b"\x04\x22\x4d\x18", _tool("lz4")),
    (b"\x28\xb5\x2f\xfd", _tool("zstd")),
)


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module: its normal name, what must be loaded before it, and its ELF image."""

    name: str
    needs: tuple[str, ...]
    image: bytes


def normal(name: str) -> str:
    """`virtio-rng.ko.xz` → `virtio_rng`: modules are named with either dash, the kernel uses the low one."""
    return name.rsplit("/", 1)[-1].split(".ko", 1)[0].replace("-", "_")


def module(name: str, image: bytes) -> Module:
    """Read the dependencies from `.modinfo`; soft ones (`softdep=pre: a b`) count where they are module names."""
    needs: list[str] = []
    for entry in _modinfo(image):
        key, _, value = entry.partition("=")
        if key == "depends":
            needs += [normal(word) for word in value.split(",") if word]
        elif key == "softdep" and value.startswith("pre:"):
            needs += [normal(word) for word in value.removeprefix("pre:").split(" post:")[0].split()]
    return Module(name, tuple(needs), image)


def _modinfo(image: bytes) -> list[str]:
    """The entries of section `.modinfo` of a 64-bit little-endian ELF file."""
    table, entry_size, count, names_index = _sections(image)
    headers = [struct.unpack_from("<IIQQQQ", image, table + index * entry_size) for index in range(count)]
    names = headers[names_index][4]
    for header in headers:
        start = names + header[0]
        if image[start : image.index(b"\0", start)] == b".modinfo":
            raw = image[header[4] : header[4] + header[5]]
            return [part.decode("utf-8", "replace") for part in raw.split(b"\0") if part]
    return []


def _sections(image: bytes) -> tuple[int, int, int, int]:
    if not image.startswith(_ELF + b"\x02\x01"):
        raise PermanentError("read kernel module: not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", image, 0x28)
    entry_size, count, names = struct.unpack_from("<HHH", image, 0x3A)
    return table, entry_size, count, names


def find_modules(folder: Path) -> dict[str, Path]:
    """Normal name → file, for all modules below `lib/modules/RELEASE`."""
    return {normal(path.name): path for path in sorted(folder.rglob("*.ko*"))}


def builtin(folder: Path) -> frozenset[str]:
    """Names that the kernel carries already."""
    listing = folder / "modules.builtin"
    return frozenset(normal(line) for line in listing.read_text().split()) if listing.exists() else frozenset()


def load_order(wanted: Iterable[str], available: Mapping[str, Path], present: frozenset[str]) -> tuple[Module, ...]:
    """The wanted modules and all they need, each after what it needs. Raises PermanentError for a wanted one that isn't there.

    A soft dependency that is no module (an alias such as `crc32c`) is left out: `WANTED` names those that matter.
    """
    done: dict[str, Module] = {}
    for name in wanted:
        if name not in present and name not in available and name not in IF_PRESENT:
            raise PermanentError(f"build guest assets: this kernel has no module {name}", "use the distribution's generic kernel")
        _visit(name, available, present, done, ())
    return tuple(done.values())


def _visit(name: str, available: Mapping[str, Path], present: frozenset[str], done: dict[str, Module], path: tuple[str, ...]) -> None:
    if name in done or name in present or name not in available or name in path:
        return
    found = module(name, decompress(available[name].read_bytes()))
    for need in found.needs:
        _visit(need, available, present, done, (*path, name))
    done[name] = found
