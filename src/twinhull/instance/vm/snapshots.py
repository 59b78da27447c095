"""Snapshots of applications that have warmed up: RAM, devices and writable layer of one guest, from which others like it go on.

A snapshot is made from a running guest whose workload is frozen for that moment. QEMU can only write down a guest that was restored with
its RAM, so it is written whole, and another QEMU, which never runs it, turns that into a file of RAM that all clones share and the
devices' state apart, as with templates. No instruction of the workload runs between the freeze and the new identity (agent: RESUME).
That it stands still is written down before it does (record.py), so that whoever comes after a process that was killed lets it go on.

Laws: a snapshot's key says all that it depends on; who gives it (the engine) makes it of the application too, so that no other one can
use it. It is on disk in the state's folder, for root only, for an application's memory is in it. One that fails to come to life twice in
a row is removed, and the instance starts in another way.

    state/snapshots/KEY/{mem,state,scratch.img,about.json,manifest.json}
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import secrets
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from twinhull.errors import NotFoundError, TwinhullError
from twinhull.home import Home
from twinhull.instance.vm import accelerator, assets, memory, migration, placeholders, qemu, scratch, shape, template, trial
from twinhull.instance.vm.agent import AgentClient
from twinhull.instance.vm.assets import Assets
from twinhull.instance.vm.frames import GuestState
from twinhull.instance.vm.qmp import Monitor
from twinhull.instance.vm.shape import Shape
from twinhull.instance.vm.shelf import Loaded, Manifest, Shelf
from twinhull.sys import fs, trees

KIND = "snapshot"
KEEP = 32
"""Snapshots on disk at most; those that weren't used for longest go."""
OPEN = 4
"""Snapshots that this process keeps in memory."""
_ABOUT, _DISK = "about.json", "scratch.img"
_FILL_SECONDS = _WRITE_SECONDS = 60.0
_RELEASE_SECONDS = 20.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class About:
    """What people are told. `created`: seconds since the epoch. `root`: the image's erofs file. `size`: bytes on disk."""

    key: str
    app: str
    image: str
    image_id: str
    argv: tuple[str, ...]
    created: float
    root: str
    size: int = 0


@dataclass(eq=False)
class Snapshot:
    """In memory. Used as `template.Template` is."""

    key: str
    loaded: Loaded
    disk: Path
    """The writable layer at that moment, read-only."""
    root: Path
    used: int = 0
    failures: int = 0

    def saved(self, stack: ExitStack) -> qemu.Saved:
        """Descriptors for one QEMU, closed with the stack."""
        ram, state = os.dup(self.loaded.memory), memory.reader(self.loaded.state)
        stack.callback(os.close, ram)
        stack.callback(os.close, state)
        return qemu.Saved(ram, state, restore=True)

    def close(self) -> None:
        """Let go of the memory; guests that use it keep it."""
        os.close(self.loaded.memory)
        os.close(self.loaded.state)


@dataclass(frozen=True, slots=True)
class Resume:
    """What an instance goes on from. `signal`: what its workload gets when it has its new identity; 0: nothing."""

    snapshot: Snapshot
    store: Snapshots
    signal: int = 0


class _Folder(Shelf):
    def __init__(self, home: Home) -> None:
        super().__init__(home.cache, KEEP)
        self.folder = home.state / "snapshots"


@dataclass(eq=False)
class Snapshots:
    """All of a home."""

    home: Home
    made: int = 0
    resumed: int = 0
    failed: int = 0
    last_failure: str = ""
    _open: dict[str, Snapshot] = field(default_factory=dict)
    _clock: itertools.count[int] = field(default_factory=itertools.count)

    def has(self, key: str) -> bool:
        """Whether there is one on disk."""
        return (_Folder(self.home).folder / key / _ABOUT).exists()

    async def obtain(self, key: str) -> Snapshot | None:
        """One of that key, or None."""
        found = self._open.get(key)
        if found is None and self.has(key):
            found = await asyncio.to_thread(self._load, key)
        if found is not None:
            found.used = next(self._clock)
        return found

    def _load(self, key: str) -> Snapshot | None:
        shelf = _Folder(self.home)
        loaded = shelf.take(key)
        if loaded is None or loaded.manifest.inputs != _inputs():
            shelf.remove(key)
            return None
        while len(self._open) >= OPEN:
            oldest = min(self._open.values(), key=lambda one: one.used)
            self._open.pop(oldest.key).close()
        about = _read(shelf.folder / key)
        if about is None:
            shelf.remove(key)
            return None
        made = self._open[key] = Snapshot(key, loaded, shelf.folder / key / _DISK, Path(about.root))
        return made

    def succeeded(self, snapshot: Snapshot) -> None:
        """A guest went on from it."""
        snapshot.failures = 0
        self.resumed += 1

    def failure(self, snapshot: Snapshot, reason: str) -> None:
        """A guest didn't come to life from it."""
        self.failed += 1
        self.last_failure = reason
        snapshot.failures += 1
        _log.warning("resume from snapshot %s: %s", snapshot.key[:12], reason)
        if snapshot.failures > 1:
            self.remove(snapshot.key)

    def list(self) -> tuple[About, ...]:
        """All, the latest first."""
        found = [about for place in _Folder(self.home).folder.glob("[0-9a-f]*") if (about := _read(place)) is not None]
        return tuple(sorted(found, key=lambda about: -about.created))

    def find(self, ref: str) -> About:
        """By a key's unambiguous beginning. Raises NotFoundError."""
        found = [about for about in self.list() if ref and about.key.startswith(ref)]
        if len(found) != 1:
            raise NotFoundError(f"no such snapshot: {ref}" if not found else f"{ref} is the beginning of {len(found)} snapshots")
        return found[0]

    def remove(self, key: str) -> None:
        """Take it away; guests that went on from it live."""
        gone = self._open.pop(key, None)
        if gone is not None:
            gone.close()
        _Folder(self.home).remove(key)

    def collect(self) -> None:
        """Remove those that depend on what has changed (QEMU, kernel, agent, machine), and what a killed process left half-made.

        Where QEMU or the kernel are missing, nothing is known to have changed.
        """
        inputs = ""
        with contextlib.suppress(OSError, TwinhullError):
            inputs = _inputs()
        _Folder(self.home).collect(inputs)

    def close(self) -> None:
        """Let go of all in memory."""
        while self._open:
            self._open.popitem()[1].close()

    def statistics(self) -> dict[str, int | str]:
        """Since this process started: made, resumed from, failures."""
        return {"made": self.made, "resumed": self.resumed, "failed": self.failed, "last_failure": self.last_failure}

    async def keep(self, about: About, whole: Whole) -> None:
        """Turn a guest that was written whole into a snapshot. `whole` is closed. Raises TwinhullError, OSError, TimeoutError."""
        guest = assets.load()
        with ExitStack() as stack:
            stack.callback(whole.close)
            loaded = await _convert(self.home, guest, whole)
            stack.callback(os.close, loaded.memory)
            stack.callback(os.close, loaded.state)
            await asyncio.to_thread(self._write, about, loaded, whole.disk)
        self.made += 1

    def _write(self, about: About, loaded: Loaded, disk: Path) -> None:
        shelf = _Folder(self.home)
        shelf.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        shelf.folder.chmod(0o700)
        draft = shelf.draft(loaded)
        try:
            os.rename(disk, draft.folder / _DISK)
            os.chmod(draft.folder / _DISK, 0o400)
            fs.write_atomic(draft.folder / _ABOUT, json.dumps(asdict(about)), 0o400)
            self.remove(about.key)
            shelf.publish(draft, about.key)
        finally:
            draft.discard()


@dataclass(eq=False)
class Whole:
    """A guest as it was written: all of its state and RAM in `stream`, its writable layer in `disk`."""

    shape: Shape
    stream: int
    disk: Path

    def close(self) -> None:
        """Let go, and remove the disk if nobody took it."""
        if self.stream >= 0:
            os.close(self.stream)
            self.stream = -1
        self.disk.unlink(missing_ok=True)


def _draft_disk(home: Home) -> Path:
    """Where a guest's writable layer is copied to before it has its place; see `recover`."""
    folder = home.state / "snapshots"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder / f".disk-{secrets.token_hex(6)}"


@dataclass(frozen=True, slots=True)
class Source:
    """A running guest. `disk`: the file of its writable layer."""

    shape: Shape
    monitor: Monitor
    agent: AgentClient
    disk: Path


async def write(source: Source, home: Home) -> Whole:
    """Bring its workload to a standstill and write it down; `release` ends the standstill, however this ended.

    Raises TwinhullError (ConflictError if a volume is in use), OSError, TimeoutError.
    """
    monitor, agent = source.monitor, source.agent
    whole = Whole(source.shape, memory.create("whole"), _draft_disk(home))
    try:
        async with asyncio.timeout(_WRITE_SECONDS):
            await agent.freeze(frozen=True)
            if source.shape.volumes:
                await agent.volumes(mounted=False)
            await monitor.execute("stop")
            await migration.save_whole(monitor, whole.stream)
            await asyncio.to_thread(copy_disk, source.disk, whole.disk)
    except BaseException:
        whole.close()
        raise
    return whole


async def release(source: Source) -> None:
    """Let it go on, however far `write` came; once more does no harm. Raises TwinhullError, TimeoutError: then it must be tried again."""
    async with asyncio.timeout(_RELEASE_SECONDS):
        await migration.go_on(source.monitor)
        await source.agent.set_clock()
        await thaw(source.agent, volumes=bool(source.shape.volumes))


async def thaw(agent: AgentClient, *, volumes: bool) -> None:
    """The part of `release` inside a guest that runs: its volumes, then the workload. One that has ended needs neither."""
    if agent.state is GuestState.EXITED:
        return
    if volumes:
        await agent.volumes(mounted=True)
    await agent.freeze(frozen=False)


async def recover(home: Home) -> None:
    """Remove what a process that was killed left of a snapshot in the making; `Snapshots.collect` does of one that is in its place."""
    await trial.sweep(home, KIND)
    for disk in (home.state / "snapshots").glob(".disk-*"):
        disk.unlink(missing_ok=True)


def copy_disk(source: Path, target: Path) -> None:
    """A writable layer with its holes. `target` is made anew."""
    with open(source, "rb") as file, open(target, "xb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        scratch.copy_sparse(file.fileno(), copy.fileno())


async def _convert(home: Home, guest: Assets, whole: Whole) -> Loaded:
    with ExitStack() as stack:
        ram, state = memory.create("ram", whole.shape.memory), memory.create("state")
        undo = stack.enter_context(ExitStack())
        undo.callback(os.close, ram)
        undo.callback(os.close, state)
        stream = memory.reader(whole.stream)
        stack.callback(os.close, stream)
        parts = await asyncio.to_thread(placeholders.parts, whole.shape, stack)

        def describe(name: str, channels: qemu.Channels) -> qemu.Vm:
            return shape.machine(whole.shape, name, channels, parts, qemu.Saved(ram, stream, restore=True, shared=True))

        async with trial.running(home, KIND, guest, describe) as one:
            async with asyncio.timeout(_FILL_SECONDS):
                monitor = await one.monitor()
                try:
                    await one.unless_ended(migration.fill(monitor, stream))
                    await one.unless_ended(migration.save(monitor, state))
                finally:
                    await monitor.close()
            await one.vmm.kill()  # it has the RAM mapped for writing
        await template.seal(ram)
        await template.seal(state)
        undo.pop_all()
    khz = whole.shape.cpu.tsc_khz
    return Loaded(Manifest(_inputs(), khz, whole.shape.memory, os.fstat(state).st_size), ram, state)


def _inputs() -> str:
    return template.build_key(accelerator.binary(), assets.load())


def _read(place: Path) -> About | None:
    try:
        raw: dict[str, Any] = json.loads((place / _ABOUT).read_text())
        return About(**{**raw, "argv": tuple(raw["argv"]), "size": trees.size(place)})
    except (OSError, ValueError, TypeError, KeyError):
        return None
