"""Templates on disk: KEY/{mem,state,manifest.json} in one folder of the cache, so that a daemon's start needn't make them again.

Invariant: a folder under its key is whole and proven, its files are read-only, and nobody changes them. Restored guests don't use them:
they are copied into memory first (memory.py), so that any of them may be removed at any time. What is being written has a temporary name
and is locked by its writer; one that isn't locked was left by a process that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from twinhull.instance.vm import memory
from twinhull.sys import fs, trees

KEEP = 8
"""Templates at most; those that weren't used for longest go."""
_DRAFT = ".new-"
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """`inputs`: see shape.key. `tsc_khz`: 0 where the guest measured it itself. `memory`, `state`: sizes in bytes."""

    inputs: str
    tsc_khz: int
    memory: int
    state: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """Two sealed descriptors, and what they are."""

    manifest: Manifest
    memory: int
    state: int


class Draft:
    """A template that is on disk and has yet to prove itself. Exactly one of `publish` and `discard` ends it."""

    def __init__(self, folder: Path, lock: int) -> None:
        self._folder, self._lock = folder, lock

    @property
    def folder(self) -> Path:
        """Where it is until then."""
        return self._folder

    def publish(self, target: Path) -> None:
        """Give it its name; one that is there already stays."""
        with contextlib.suppress(OSError):  # ENOTEMPTY: another process was first
            os.rename(self._folder, target)
        self.discard()

    def discard(self) -> None:
        """Remove what is left under the temporary name. Idempotent."""
        if self._lock >= 0:
            trees.remove(self._folder)
            os.close(self._lock)
            self._lock = -1


class Shelf:
    """The folder. All methods block; none fails because of what it finds there."""

    def __init__(self, cache: Path, keep: int = KEEP) -> None:
        self.folder = cache / "vm" / "templates"
        self._keep = keep

    def take(self, key: str) -> Loaded | None:
        """A template's copy in memory; None if there's none that is whole."""
        place = self.folder / key
        manifest = _read(place)
        if manifest is None or not _fits(place, manifest):
            return None
        ram = state = -1
        try:
            ram = memory.load(place / "mem", "ram")
            state = memory.load(place / "state", "state")
            os.utime(place)
        except OSError:
            for descriptor in (ram, state):
                if descriptor >= 0:
                    os.close(descriptor)
            return None
        return Loaded(manifest, ram, state)

    def draft(self, found: Loaded) -> Draft:
        """Write one down under a temporary name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.folder))
        draft = Draft(folder, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            fcntl.flock(draft._lock, fcntl.LOCK_EX)
            memory.store(found.memory, folder / "mem")
            memory.store(found.state, folder / "state")
            fs.write_atomic(folder / _MANIFEST, json.dumps(asdict(found.manifest)), 0o400)
        except BaseException:
            draft.discard()
            raise
        return draft

    def publish(self, draft: Draft, key: str) -> None:
        """Put a draft in its place, and tidy up."""
        draft.publish(self.folder / key)
        self.collect()

    def remove(self, key: str) -> None:
        """Take one away, whole: what a killed process doesn't get to is an abandoned draft."""
        with contextlib.suppress(FileNotFoundError):
            gone = self.folder / f"{_DRAFT}{secrets.token_hex(6)}"
            os.rename(self.folder / key, gone)
            _remove_abandoned(gone)

    def keys(self) -> list[str]:
        """All that are there, the latest used first."""
        return [place.name for place in sorted(self._places(), key=_used, reverse=True)]

    def collect(self, inputs: str = "") -> None:
        """Remove the oldest above KEEP, what isn't whole, what was made from other `inputs` (if given), and abandoned drafts."""
        for number, key in enumerate(self.keys()):
            place = self.folder / key
            manifest = _read(place)
            if number >= self._keep or manifest is None or not _fits(place, manifest) or (inputs and manifest.inputs != inputs):
                self.remove(key)
        for draft in self.folder.glob(f"{_DRAFT}*"):
            _remove_abandoned(draft)

    def _places(self) -> Iterator[Path]:
        return self.folder.glob("[0-9a-f]*")


def _remove_abandoned(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                trees.remove(folder)
        finally:
            os.close(descriptor)


def _read(place: Path) -> Manifest | None:
    try:
        return Manifest(**json.loads((place / _MANIFEST).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _fits(place: Path, manifest: Manifest) -> bool:
    try:
        return (os.stat(place / "mem").st_size, os.stat(place / "state").st_size) == (manifest.memory, manifest.state)
    except OSError:
        return False


def _used(place: Path) -> float:
    try:
        return os.stat(place).st_mtime
    except OSError:
        return 0.0
