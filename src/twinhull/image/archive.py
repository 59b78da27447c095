"""Archives that come from outside: unpacked with a limit, checked whole before anything is made from them.

Laws: nothing here writes outside the scratch folder it is given; an archive that is cut short, damaged, or that names a place outside its
root is refused with one UserError; memory use doesn't depend on what the archive claims.
What a layer may contain is Docker's: also device nodes, set-user-id files and links to anywhere (they are resolved inside the root,
and unpacking is done by containers/storage in a chroot).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from twinhull.errors import UnsupportedError, UserError
from twinhull.image import scratch

_PIECE = 1 << 20
_CHECK_EVERY = 64
"""Pieces between two looks at the free space."""
_HEADER_LIMIT = 4 << 20
"""Bytes of one extended header (long names, xattrs); the kernel's own limits allow less."""
_MANIFEST_LIMIT = 16 << 20
_ENTRIES_LIMIT = 4_000_000
_ID_MAX = 2**32 - 2
_MAGICS = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)


class _Member(tarfile.TarInfo):
    """Refuses extended headers that would be read into memory whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if member.type in extended and not 0 <= member.size <= _HEADER_LIMIT:
            raise tarfile.ReadError(f"an extended header claims {member.size} bytes")
        return member


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checked tar needs. `size`: bytes unpacked, holes filled."""

    entries: int
    size: int


def plain(path: Path, what: str) -> Path:
    """The archive uncompressed (the same path if it was already). Raises UserError, or disk_full."""
    with path.open("rb") as source:
        kind = _kind(source.read(8))
        source.seek(0)
        if not kind:
            return path
        target = path.with_name(path.name + ".plain")
        try:
            with _reader(source, kind) as data, target.open("xb") as out:
                _pump(data, out)
        except _DAMAGED as error:
            if isinstance(error, OSError) and scratch.is_disk_full(error):
                raise scratch.disk_full(path.parent) from error
            raise UserError(f"{what}: damaged {kind} data: {error}") from error
    path.unlink()
    return target


def check(path: Path, what: str) -> Contents:
    """Walk an uncompressed tar to its end. Raises UserError for whatever is wrong with it."""
    entries = size = 0
    seen: set[bytes] = set()
    try:
        with path.open("rb") as file, _open_tar(file) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                entries += 1
                if entries > _ENTRIES_LIMIT:
                    raise UserError(f"{what}: more than {_ENTRIES_LIMIT} entries")
                size += -(-member.size // 4096) * 4096 if member.isreg() else 0
                _check_member(member, seen, what)
            _check_end(file, tar.offset, what)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{what}: not a tar archive, or damaged: {error}", "is the file complete?") from error
    return Contents(entries, size)


def _open_tar(file: IO[bytes]) -> tarfile.TarFile:
    return tarfile.TarFile(fileobj=file, mode="r", tarinfo=_Member, encoding="utf-8", errors="surrogateescape")


def _check_end(file: IO[bytes], offset: int, what: str) -> None:
    """A tar ends with a block of zeros; anything else is a cut or a damaged header, which tarfile passes over."""
    file.seek(offset)
    block = file.read(512)
    if len(block) < 512:
        raise UserError(f"{what}: the archive is cut short at byte {offset + len(block)}", "is the file complete?")
    if block.strip(b"\0"):
        raise UserError(f"{what}: the archive is damaged at byte {offset}")


def _check_member(member: tarfile.TarInfo, seen: set[bytes], what: str) -> None:
    name = _normal(member.name, what)
    if not (0 <= member.uid <= _ID_MAX and 0 <= member.gid <= _ID_MAX and member.size >= 0):
        raise UserError(f"{what}: {_shown(member.name)}: owner or size out of range")
    target = _normal(member.linkname, what) if member.islnk() else None
    if target is not None and target not in seen:
        raise UserError(f"{what}: {_shown(member.name)} is a hard link to {_shown(member.linkname)}, which isn't in the archive before it")
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk() or member.isdev()):
        raise UserError(f"{what}: {_shown(member.name)} is of the unknown type {member.type!r}")
    seen.add(name)


def _normal(name: str, what: str) -> bytes:
    """The path below the root, without "." and ".."; one that climbs above the root is refused."""
    parts: list[bytes] = []
    for part in os.fsencode(name).split(b"/"):
        if part == b"..":
            if not parts:
                raise UserError(f"{what}: {_shown(name)} points outside the archive's root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "…")


@dataclass(frozen=True, slots=True)
class Source:
    """One image inside an archive, as skopeo names it (relative to the scratch folder), and the names it is to get."""

    name: str
    names: tuple[str, ...]
    id: str


def images(path: Path, what: str) -> list[Source]:
    """The images in an uncompressed archive by `docker save`, `podman save` or skopeo. An OCI layout is unpacked beside it."""
    with path.open("rb") as file, _open_tar(file) as tar:
        members = {os.fsdecode(_normal(member.name, what)): member for member in tar}
        if "manifest.json" in members:
            return list(_docker_images(tar, members, path.name, what))
        if "index.json" in members and "oci-layout" in members:
            return _oci_images(tar, members, path.parent / "layout", what)
    raise UserError(f"{what}: neither a docker nor an OCI archive", "a root file system's tar is taken in with `twinhull image import`")


def _docker_images(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], file: str, what: str) -> Iterator[Source]:
    manifest = _json(tar, members, "manifest.json", what)
    if not isinstance(manifest, list) or not manifest:
        raise UserError(f"{what}: manifest.json lists no images")
    for number, entry in enumerate(manifest):
        parts = [str(entry.get("Config")), *map(str, entry.get("Layers") or ())] if isinstance(entry, dict) else [""]
        if missing := [part for part in parts if part not in members]:
            raise UserError(f"{what}: {_shown(missing[0])} is missing from the archive")
        raw = _read(tar, members[parts[0]], what)
        _config(raw, what)
        yield Source(f"docker-archive:{file}:@{number}", tuple(map(str, entry.get("RepoTags") or ())), hashlib.sha256(raw).hexdigest())


def _oci_images(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], folder: Path, what: str) -> list[Source]:
    index = _json(tar, members, "index.json", what)
    entries = index.get("manifests") if isinstance(index, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{what}: index.json lists no images")
    sources = []
    for number, entry in enumerate(entries):
        notes = entry.get("annotations") or {}
        name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name") or ""
        sources.append(Source(f"oci:layout:i{number}", (name,) if name else (), _oci_id(tar, members, entry, what)))
        entry["annotations"] = {"org.opencontainers.image.ref.name": f"i{number}"}
    _unpack_layout(tar, members, folder)
    (folder / "index.json").write_text(json.dumps(index))
    return sources


def _oci_id(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], entry: dict[str, Any], what: str) -> str:
    """The id of the image behind a descriptor: its configuration's digest. An index leads to this machine's architecture."""
    manifest = _json(tar, members, _blob(entry, what), what)
    if "manifests" in manifest:
        chosen = [item for item in manifest["manifests"] if (item.get("platform") or {}).get("architecture") == architecture()]
        if not chosen:
            raise UserError(f"{what}: no image for {architecture()} in it")
        manifest = _json(tar, members, _blob(chosen[0], what), what)
    for part in [manifest.get("config") or {}, *(manifest.get("layers") or [])]:
        if _blob(part, what) not in members:
            raise UserError(f"{what}: {_shown(_blob(part, what))} is missing from the archive")
    _config(_read(tar, members[_blob(manifest["config"], what)], what), what)
    return str(manifest["config"]["digest"]).removeprefix("sha256:")


def _unpack_layout(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], folder: Path) -> None:
    """Only regular files called blobs/sha256/<hex>, and only by that name: no other path of the archive is used."""
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    for name, member in members.items():
        head, _, digest = name.rpartition("/")
        if head == "blobs/sha256" and member.isreg() and len(digest) == 64 and digest.isalnum():
            data = tar.extractfile(member)
            assert data is not None
            with (folder / "blobs" / "sha256" / digest).open("xb") as out:
                shutil.copyfileobj(data, out, _PIECE)


def _blob(entry: dict[str, Any], what: str) -> str:
    digest = str(entry.get("digest"))
    if not digest.startswith("sha256:") or not digest[7:].isalnum() or len(digest) != 71:
        raise UserError(f"{what}: {_shown(digest)} isn't a SHA-256 digest")
    return f"blobs/sha256/{digest[7:]}"


def _config(raw: bytes, what: str) -> None:
    try:
        good = isinstance(json.loads(raw)["rootfs"]["diff_ids"], list)
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise UserError(f"{what}: an image's configuration is damaged")


def _json(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str, what: str) -> Any:
    if name not in members:
        raise UserError(f"{what}: {_shown(name)} is missing from the archive")
    try:
        return json.loads(_read(tar, members[name], what))
    except ValueError as error:
        raise UserError(f"{what}: {name} is no JSON: {error}") from error


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, what: str) -> bytes:
    if not member.isreg() or member.size > _MANIFEST_LIMIT:
        raise UserError(f"{what}: {_shown(member.name)} isn't a file of a sensible size")
    data = tar.extractfile(member)
    assert data is not None
    return data.read()


def architecture() -> str:
    """This machine's, as images name it."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _kind(head: bytes) -> str:
    return next((kind for magic, kind in _MAGICS if head.startswith(magic)), "")


def _reader(source: IO[bytes], kind: str) -> IO[bytes]:
    match kind:
        case "gzip":
            return gzip.GzipFile(fileobj=source)  # type: ignore[return-value]
        case "bzip2":
            return bz2.BZ2File(source)
        case "xz":
            return lzma.LZMAFile(source)
    raise UnsupportedError(f"{kind} compression can't be read here", f"unpack it first: {kind} -d")


def _pump(data: IO[bytes], out: IO[bytes]) -> None:
    """Copy to the end, and stop before the disk is full: a small file may unpack to anything."""
    count = 0
    while piece := data.read(_PIECE):
        out.write(piece)
        count += 1
        if count % _CHECK_EVERY == 0:
            scratch.check_space(Path(out.name).parent, 0)


def digest(file: IO[bytes]) -> str:
    """SHA-256 from the file's position to its end, hexadecimal."""
    state = hashlib.sha256()
    while piece := file.read(_PIECE):
        state.update(piece)
    return state.hexdigest()
