"""What is read from a kernel package, and the archive that is made of it."""

from __future__ import annotations

import gzip
import json
import lzma
import struct
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from twinhull.errors import PermanentError, UnsupportedError
from twinhull.instance.vm import assets, cpio, kernel

_ELF = b"\x7fELF\x02\x01\x01" + b"\0" * 57


def _module(modinfo: bytes) -> bytes:
    """A 64-bit ELF file with sections null, .modinfo and names."""
    names = b"\0.modinfo\0.shstrtab\0"
    start = 64
    table = start + len(modinfo) + len(names)
    header = bytearray(_ELF)
    struct.pack_into("<Q", header, 0x28, table)
    struct.pack_into("<HHH", header, 0x3A, 64, 3, 2)
    sections = [(0, 0, 0), (1, start, len(modinfo)), (10, start + len(modinfo), len(names))]
    raw = b"".join(struct.pack("<IIQQQQ", name, 1, 0, 0, offset, size) + b"\0" * 24 for name, offset, size in sections)
    return bytes(header) + modinfo + names + raw


def _bzimage(payload: bytes) -> bytes:
    """Two setup sectors, then eight bytes, then the payload and the four bytes of size that Linux appends."""
    image = bytearray(3 * 512)
    image[0x1F1] = 2
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 8, len(payload) + 4)
    return bytes(image) + b"\x90" * 8 + payload + b"\x2a\0\0\0"


@pytest.mark.parametrize(
    "pack", [gzip.compress, lambda d: lzma.compress(d, lzma.FORMAT_XZ), lambda d: _cli("lz4", d), lambda d: _cli("zstd", d)]
)
def test_the_kernel_comes_out_of_every_packing(pack: object) -> None:
    elf = _ELF + bytes(range(256)) * 100
    assert kernel.vmlinux(_bzimage(pack(elf))) == elf  # type: ignore[operator]


def _cli(program: str, data: bytes) -> bytes:
    extra = ["-l"] if program == "lz4" else []  # Linux uses lz4's legacy frames
    return subprocess.run([program, *extra, "-c", "-q"], input=data, capture_output=True, check=True).stdout


def test_what_is_no_kernel_is_refused() -> None:
    for image in (b"", b"\0" * 2000, _bzimage(b"garbage of no known kind"), _bzimage(gzip.compress(b"no ELF"))):
        with pytest.raises(PermanentError):
            kernel.vmlinux(image)


def test_modules_are_loaded_after_what_they_need(tmp_path: Path) -> None:
    texts = {
        "top": b"license=GPL\0depends=middle,built-in\0softdep=pre: extra gone post: later\0",
        "middle": b"depends=low_one\0",
        "low-one": b"depends=\0",
        "extra": b"",
        "later": b"",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.ko").write_bytes(_module(text))
    (tmp_path / "modules.builtin").write_text("kernel/lib/built-in.ko\n")
    order = kernel.load_order(("top",), kernel.find_modules(tmp_path), kernel.builtin(tmp_path))
    assert [module.name for module in order] == ["low_one", "middle", "extra", "top"]


def test_modules_that_need_each_other_end(tmp_path: Path) -> None:
    for name, text in {"a": b"depends=b\0", "b": b"depends=a\0"}.items():
        (tmp_path / f"{name}.ko.xz").write_bytes(lzma.compress(_module(text)))
    assert len(kernel.load_order(("a",), kernel.find_modules(tmp_path), frozenset())) == 2


def test_a_missing_module_is_named() -> None:
    with pytest.raises(PermanentError, match="no module erofs"):
        kernel.load_order(("erofs",), {}, frozenset())


def test_the_archive_is_what_busybox_unpacks(tmp_path: Path) -> None:
    entries = [cpio.folder("d"), cpio.file("d/f", b"content", 0o640), cpio.file("odd", b"x"), cpio.file("empty", b"")]
    subprocess.run(["busybox", "cpio", "-i"], input=cpio.archive(entries), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "d" / "f").read_bytes() == b"content"
    assert (tmp_path / "d" / "f").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "empty", "odd"]


def test_the_initrd_is_the_same_for_the_same_content() -> None:
    first, second = (assets.initrd_of(b"agent", [("virtio", b"m")]) for _ in range(2))
    assert first == second != assets.initrd_of(b"agent2", [("virtio", b"m")])
    assert b"/modules/virtio.ko\n" in first


@pytest.mark.parametrize(
    ("control", "names"),
    [
        ("Package: linux-image-amd64\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n", ["linux-image-6.1.0-56-amd64"]),
        (
            "Depends: linux-image-6.8.0-49-generic, linux-modules-extra-6.8.0-49-generic, linux-firmware, wireless-regdb\n",
            ["linux-image-6.8.0-49-generic", "linux-modules-extra-6.8.0-49-generic"],
        ),
        ("Depends: linux-modules-6.8.0-49-generic | other, kmod\n", ["linux-modules-6.8.0-49-generic"]),
        ("Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool\n", []),
    ],
)
def test_packages_behind_the_meta_package(control: str, names: list[str]) -> None:
    assert assets.kernel_parts(control) == names


def _whole(folder: Path) -> assets.Manifest:
    """A folder as `build` leaves it, without a download."""
    (folder / "modules").mkdir()
    (folder / "modules" / "virtio.ko").write_bytes(b"m")
    (folder / "vmlinux").write_bytes(_ELF)
    (folder / "agent").write_bytes(b"first agent")
    manifest = assets.Manifest(1, ("k.deb",), "6.1", ("virtio",), assets._digest(_ELF), "", "")
    (folder / "manifest.json").write_text(json.dumps(asdict(manifest)))
    return assets.build(folder, say=lambda line: None)


def test_a_new_agent_makes_a_new_initrd_and_nothing_else(tmp_path: Path) -> None:
    first = _whole(tmp_path)
    key = assets.load(tmp_path).key
    said: list[str] = []
    assert assets.build(tmp_path, say=said.append) == first
    assert said == ["guest assets are up to date: kernel 6.1, 1 modules"]
    (tmp_path / "agent").write_bytes(b"second agent")
    second = assets.build(tmp_path, say=lambda line: None)
    assert (second.vmlinux, second.initrd == first.initrd) == (first.vmlinux, False)
    assert assets.load(tmp_path).key != key


def test_a_damaged_initrd_is_made_again(tmp_path: Path) -> None:
    _whole(tmp_path)
    good = (tmp_path / "initrd").read_bytes()
    (tmp_path / "initrd").write_bytes(b"torn")
    assets.build(tmp_path, say=lambda line: None)
    assert (tmp_path / "initrd").read_bytes() == good


def test_nothing_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        assets.load(tmp_path)
    assert "make setup" in caught.value.hint
    with pytest.raises(PermanentError, match="no agent"):
        assets.build(tmp_path / "new", say=lambda line: None)
