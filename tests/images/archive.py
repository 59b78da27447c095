"""A docker-archive writer for tests, independent of `twinhull.image` so that it can test it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

EPOCH = 1_760_000_000
"""The time of every file that doesn't choose its own: the same input gives the same bytes."""


@dataclass
class Layer:
    """One layer's tar, in memory. Methods add entries in order; names are relative to the root."""

    data: io.BytesIO = field(default_factory=io.BytesIO)

    def __post_init__(self) -> None:
        self.tar = tarfile.TarFile(fileobj=self.data, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape")

    def add(self, name: str, content: bytes = b"", *, mode: int = 0o644, **fields: object) -> None:
        """A regular file. `fields` are TarInfo's: uid, gid, mtime, type, linkname, devmajor, pax_headers …"""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(content), mode, EPOCH
        for key, value in fields.items():
            setattr(info, key, value)
        self.tar.addfile(info, io.BytesIO(content))

    def directory(self, name: str, mode: int = 0o755, **fields: object) -> None:
        self.add(name, mode=mode, type=tarfile.DIRTYPE, **fields)

    def symlink(self, name: str, target: str, **fields: object) -> None:
        self.add(name, mode=0o777, type=tarfile.SYMTYPE, linkname=target, **fields)

    def link(self, name: str, target: str, **fields: object) -> None:
        self.add(name, type=tarfile.LNKTYPE, linkname=target, **fields)

    def bytes(self) -> bytes:
        self.tar.close()
        return self.data.getvalue()


def layer(fill: Callable[[Layer], None]) -> bytes:
    """The tar that `fill` writes."""
    new = Layer()
    fill(new)
    return new.bytes()


def docker_archive(path: Path, tags: Sequence[str], layers: Sequence[bytes], config: dict[str, object]) -> str:
    """Write an archive as `docker save` does; the image's id is returned."""
    digests = [hashlib.sha256(data).hexdigest() for data in layers]
    body: dict[str, object] = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2025-10-09T08:53:20Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": "2025-10-09T08:53:20Z", "created_by": "twinhull tests"} for _ in layers],
    }
    raw = json.dumps(body, sort_keys=True).encode()
    image = hashlib.sha256(raw).hexdigest()
    names = [f"{digest}.tar" for digest in digests]
    manifest = [{"Config": f"{image}.json", "RepoTags": list(tags), "Layers": names}]
    with tarfile.open(path, "w") as tar:
        for name, data in [*zip(names, layers, strict=True), (f"{image}.json", raw), ("manifest.json", json.dumps(manifest).encode())]:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o644, EPOCH
            tar.addfile(info, io.BytesIO(data))
    return image
