"""Images as one archive: skopeo lays each out in the scratch folder, and the tar is written here: several images fit into either format.

The configuration goes out byte for byte as it is stored: the id is the same wherever the archive is loaded, and a HEALTHCHECK survives.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from twinhull.image import tools

FORMATS = ("docker-archive", "oci-archive")
_PIECE = 1 << 20
_OCI = "application/vnd.oci.image"
Names = Mapping[str, tuple[str, ...]]
_Entry = tuple[str, bytes | Path]


def copy(image_id: str) -> list[str]:
    """argv that lays one image out in a folder called by its id, below the scratch folder; layers come out uncompressed."""
    return tools.skopeo("copy", "--quiet", f"containers-storage:@{image_id}", f"dir:{image_id}", local=True)


async def stream(format_: str, work: Path, wanted: Names) -> AsyncIterator[bytes]:
    """The tar, from what `copy` made. A blob that several images share is there once."""
    written: set[str] = set()
    for name, source in (_docker if format_ == "docker-archive" else _oci)(work, wanted):
        if name in written:
            continue
        written.add(name)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        yield _header(name, size)
        async for data in _content(source):
            yield data
        yield bytes(-size % 512)
    yield bytes(1024)


def _docker(work: Path, wanted: Names) -> Iterator[_Entry]:
    """As `docker save` lays it out."""
    entries = []
    for image_id, names in wanted.items():
        config, layers = _blobs(work / image_id)
        entries.append({"Config": f"{config}.json", "RepoTags": list(names), "Layers": [f"{layer}.tar" for layer in layers]})
        yield f"{config}.json", work / image_id / config
        yield from ((f"{layer}.tar", work / image_id / layer) for layer in layers)
    yield "manifest.json", json.dumps(entries).encode()


def _oci(work: Path, wanted: Names) -> Iterator[_Entry]:
    """An OCI image layout."""
    entries: list[dict[str, Any]] = []
    for image_id, names in wanted.items():
        folder = work / image_id
        config, layers = _blobs(folder)
        parts = [_descriptor(f"{_OCI}.layer.v1.tar", layer, (folder / layer).stat().st_size) for layer in layers]
        head = _descriptor(f"{_OCI}.config.v1+json", config, (folder / config).stat().st_size)
        body = {"schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json", "config": head, "layers": parts}
        raw = json.dumps(body).encode()
        digest = hashlib.sha256(raw).hexdigest()
        manifest = _descriptor(f"{_OCI}.manifest.v1+json", digest, len(raw))
        entries += [manifest | {"annotations": {"org.opencontainers.image.ref.name": name}} for name in names] or [manifest]
        yield from ((f"blobs/sha256/{blob}", folder / blob) for blob in (config, *layers))
        yield f"blobs/sha256/{digest}", raw
    yield "oci-layout", b'{"imageLayoutVersion": "1.0.0"}'
    yield "index.json", json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}


def _blobs(folder: Path) -> tuple[str, list[str]]:
    """The configuration's and the layers' digests, which are their file names."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    layers = [layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
    return manifest["config"]["digest"].removeprefix("sha256:"), layers


async def _content(source: bytes | Path) -> AsyncIterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while data := await asyncio.to_thread(file.read, _PIECE):
            yield data


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.GNU_FORMAT)
