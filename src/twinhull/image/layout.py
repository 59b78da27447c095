"""An image put together by hand: layers that are there already, at most one new one, and a configuration.

Written as skopeo's `dir:` (files named by digest) in Docker's schema 2, because an OCI manifest makes other tools ignore HEALTHCHECK.
Blobs of layers that the storage has are left out: containers/storage finds them by the digest in the manifest.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer's uncompressed tar: its SHA-256 ("sha256:…") and size in bytes; `path` None: the storage has it."""

    digest: str
    size: int
    path: Path | None = None


def empty_config(architecture: str) -> dict[str, Any]:
    """The configuration of an image without layers."""
    return {"architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}, "history": []}


def appended(base: dict[str, Any], layer: Blob, config: dict[str, Any], *, created: float, note: dict[str, str]) -> dict[str, Any]:
    """The image configuration after one more layer. `note`: created_by, comment, author of its history entry."""
    result: dict[str, Any] = json.loads(json.dumps(base))
    moment = timestamp(created)
    result["config"], result["created"] = config, moment
    result.setdefault("rootfs", {"type": "layers"}).setdefault("diff_ids", []).append(layer.digest)
    history = result.get("history") or []
    result["history"] = [*history, {"created": moment, **{key: text for key, text in note.items() if text}}]
    result.pop("id", None)
    result.pop("container", None)
    result.pop("container_config", None)
    return result


def write(folder: Path, config: dict[str, Any], layers: list[Blob]) -> str:
    """Write the layout into a new folder; the image's id is returned. New blobs are moved there."""
    folder.mkdir()
    raw = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    identity = hashlib.sha256(raw).hexdigest()
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    (folder / identity).write_bytes(raw)
    for layer in layers:
        if layer.path is not None:
            os.rename(layer.path, folder / layer.digest.removeprefix("sha256:"))
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": _CONFIG, "size": len(raw), "digest": f"sha256:{identity}"},
        "layers": [{"mediaType": _LAYER, "size": layer.size, "digest": layer.digest} for layer in layers],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return identity


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").replace(".000000Z", "Z")
