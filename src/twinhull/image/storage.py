"""Reads containers/storage's own JSON: which images, layers and configurations are there. Starts no program, writes nothing.

containers/storage replaces its files by rename, so that a file is always whole; a table read here is good until the file's stamp changes.
Laws: the answer for an unchanged storage comes from memory (one stat per root); an id's configuration and layers never change.
Called by `store.py` for everything that only looks.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinhull.errors import PermanentError
from twinhull.image.base import ImageView

_SYSTEM_FILES = (Path("/etc/containers/storage.conf"), Path("/usr/share/containers/storage.conf"))
_SYSTEM_ROOT = Path("/var/lib/containers/storage")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Stored:
    """One image's entry. `layer`: the topmost; "" for an image without any."""

    id: str
    names: tuple[str, ...]
    layer: str
    created: str
    digests: tuple[str, ...]
    root: Path
    data_names: tuple[str, ...] = ()

    def image_view(self, config: dict[str, Any], size: int) -> ImageView:
        """What users see of it."""
        repositories = dict.fromkeys(_repository(name) for name in self.names)
        digests = dict.fromkeys(f"{repository}@{digest}" for repository in repositories for digest in self.digests)
        return ImageView(
            id=self.id,
            names=tuple(name for name in self.names if "@" not in name),
            digests=tuple(digests),
            created_at=seconds(config.get("created") or self.created),
            size=size,
            architecture=config.get("architecture", ""),
            config=config.get("config") or {},
            layers=tuple((config.get("rootfs") or {}).get("diff_ids") or ()),
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's entry. `size`: of its files, in bytes; `digest`: of its uncompressed tar ("sha256:…")."""

    id: str
    parent: str
    size: int
    digest: str
    root: Path


@dataclass(slots=True)
class Catalog:
    """All images at one moment."""

    images: dict[str, Stored] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """full name → id."""


class Storage:
    """One storage: a root that is written to, and roots that are only read (additionalimagestores)."""

    def __init__(self, roots: tuple[Path, ...], driver: str = "overlay") -> None:
        self.roots = roots
        self.driver = driver
        self._catalog = Catalog()
        self._catalog_stamps: tuple[object, ...] = ()
        self._layers: dict[str, Layer] = {}
        self._layers_stamps: tuple[object, ...] = ()
        self._configs: dict[str, dict[str, Any]] = {}

    @classmethod
    def of_system(cls) -> Storage:
        """The system's own, by its storage.conf."""
        table = _system_table()
        root = Path(table.get("graphroot") or _SYSTEM_ROOT)
        extra = (table.get("options") or {}).get("additionalimagestores") or []
        return cls((root, *map(Path, extra)), table.get("driver") or _driver_in(root))

    def catalog(self) -> Catalog:
        """All images; from memory while nothing changed."""
        files = [root / f"{self.driver}-images" / "images.json" for root in self.roots]
        stamps = tuple(_stamp(file) for file in files)
        if stamps != self._catalog_stamps:
            self._catalog = _read_catalog(files)
            self._catalog_stamps = stamps
        return self._catalog

    def layers(self) -> dict[str, Layer]:
        """All layers; from memory while nothing changed."""
        files = [root / f"{self.driver}-layers" / "layers.json" for root in self.roots]
        stamps = tuple(_stamp(file) for file in files)
        if stamps != self._layers_stamps:
            self._layers = {layer.id: layer for file in reversed(files) for layer in _read_layers(file)}
            self._layers_stamps = stamps
        return self._layers

    def chain(self, image: Stored) -> list[Layer]:
        """The image's layers, topmost first. Raises PermanentError where the storage is damaged."""
        table, chain, current = self.layers(), [], image.layer
        while current:
            if current not in table:
                raise PermanentError(
                    f"read image {image.id[:12]}: layer {current[:12]} is missing", "remove the image and pull or build it again"
                )
            chain.append(table[current])
            current = chain[-1].parent
        return chain

    def folders(self, image: Stored) -> tuple[Path, ...]:
        """The layers' folders, topmost first; lower directories of an overlay."""
        chain = self.chain(image)
        if self.driver == "vfs":
            return tuple(layer.root / "vfs" / "dir" / layer.id for layer in chain[:1])
        return tuple(layer.root / self.driver / layer.id / "diff" for layer in chain)

    def config_bytes(self, image: Stored) -> bytes:
        """The image configuration exactly as it is hashed into the id."""
        try:
            return self._data(image, f"sha256:{image.id}")
        except FileNotFoundError:
            digest = json.loads(self._data(image, "manifest")).get("config", {}).get("digest", "")
            return self._data(image, digest)

    def config(self, image: Stored) -> dict[str, Any]:
        """The image configuration, parsed; kept, because it can't change."""
        known = self._configs.get(image.id)
        if known is None:
            known = self._configs[image.id] = self._read_config(image)
        return known

    def view(self, image: Stored) -> ImageView:
        """What users see of it."""
        return image.image_view(self.config(image), sum(layer.size for layer in self.chain(image)))

    def _read_config(self, image: Stored) -> dict[str, Any]:
        try:
            config = json.loads(self.config_bytes(image))
        except (OSError, ValueError) as error:
            raise PermanentError(
                f"read image {image.id[:12]}: its configuration is damaged: {error}", "remove it and get it again"
            ) from error
        if not isinstance(config, dict):
            raise PermanentError(f"read image {image.id[:12]}: its configuration is no object", "remove it and get it again")
        return config

    def _data(self, image: Stored, key: str) -> bytes:
        name = key if key.isalnum() else "=" + base64.b64encode(key.encode()).decode()
        return (image.root / f"{self.driver}-images" / image.id / name).read_bytes()


def seconds(text: str) -> float:
    """RFC 3339 with up to nanoseconds as seconds since the epoch; 0 for what isn't a time or lies before 1970 (Go's zero time)."""
    match = _TIME.fullmatch(text)
    if not match:
        return 0.0
    whole, fraction, zone = match.groups()
    try:
        moment = datetime.datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone))
        return max(0.0, moment.timestamp() + float(fraction or 0))
    except (ValueError, OverflowError):
        return 0.0


def _repository(name: str) -> str:
    head, slash, last = name.partition("@")[0].rpartition("/")
    return head + slash + last.partition(":")[0]


def _read_catalog(files: list[Path]) -> Catalog:
    catalog = Catalog()
    for file in files:
        for entry in _entries(file):
            image = _stored(entry, file.parent.parent)
            catalog.images.setdefault(image.id, image)
            for name in image.names:
                catalog.names.setdefault(name, image.id)
    return catalog


def _stored(entry: dict[str, Any], root: Path) -> Stored:
    data = entry.get("big-data-digests") or {}
    manifests = [digest for key, digest in data.items() if key == "manifest" or key.startswith("manifest-")]
    digests = [entry["digest"]] if entry.get("digest") else []
    return Stored(
        id=entry["id"],
        names=tuple(entry.get("names") or ()),
        layer=entry.get("layer") or "",
        created=entry.get("created") or "",
        digests=tuple(dict.fromkeys(digests + manifests)),
        root=root,
        data_names=tuple(entry.get("big-data-names") or ()),
    )


def _read_layers(file: Path) -> Iterator[Layer]:
    for entry in _entries(file):
        if not (entry.get("flags") or {}).get("incomplete"):
            digest = entry.get("diff-digest") or ""
            yield Layer(entry["id"], entry.get("parent") or "", entry.get("diff-size") or 0, digest, file.parent.parent)


def _entries(file: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(file.read_bytes() or b"[]") or []
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise PermanentError(f"read {file}: {error}", "containers/storage is damaged: see `podman system reset`") from error


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """Changes with every replacement: a rename brings a new inode."""
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _system_table() -> dict[str, Any]:
    named = os.environ.get("CONTAINERS_STORAGE_CONF")
    for file in [Path(named)] if named else _SYSTEM_FILES:
        try:
            return dict(tomllib.loads(file.read_text()).get("storage") or {})
        except FileNotFoundError:
            continue
        except tomllib.TOMLDecodeError as error:
            raise PermanentError(f"read {file}: {error}") from error
    return {}


def _driver_in(root: Path) -> str:
    """The driver that a storage without configuration is in use with."""
    return "vfs" if (root / "vfs-images").exists() and not (root / "overlay-images").exists() else "overlay"
