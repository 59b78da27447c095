"""Folders for what is half made, below the home's cache; gone with the work, also when the daemon was killed meanwhile.

Invariant: a folder here is in use exactly while its lock is held, and the kernel drops the lock with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from twinhull.errors import PermanentError
from twinhull.home import Home
from twinhull.sys import fs

_POLL = 0.02
"""Seconds between two tries for a lock that another holds."""
_RESERVE_SHARE = 50
_RESERVE_MAX = 1 << 30
"""Space left for others while unpacking: a fiftieth of the file system, at most this many bytes."""


def folder(home: Home) -> Path:
    """Where scratch folders lie."""
    return home.cache / "scratch"


@contextlib.contextmanager
def scratch(home: Home) -> Iterator[Path]:
    """A new folder, removed at the end."""
    path, lock = _new(home)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def sweep(home: Home) -> None:
    """Remove what killed processes left."""
    with contextlib.suppress(FileNotFoundError):
        for path, lock in _abandoned(folder(home)):
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _new(home: Home) -> tuple[Path, int]:
    """A folder and its lock. The parent's shared lock keeps a sweep from coming between the two."""
    parent = folder(home)
    parent.mkdir(parents=True, exist_ok=True)
    with fs.folder(parent) as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
        path = Path(tempfile.mkdtemp(dir=parent))
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return path, lock


def _abandoned(parent: Path) -> list[tuple[Path, int]]:
    """Folders whose lock nobody holds, locked now."""
    found = []
    with fs.folder(parent) as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for path in parent.iterdir():
            lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append((path, lock))
            except BlockingIOError:
                os.close(lock)
    return found


@contextlib.asynccontextmanager
async def locked(lock: Path) -> AsyncIterator[None]:
    """Hold a lock file, against this and other processes; it is gone when nobody wants it."""
    descriptor = await _acquire(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # a waiter sees that its descriptor is of a removed file, and opens the new one
        os.close(descriptor)


async def _acquire(lock: Path) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(descriptor, lock):
                return descriptor
        except BlockingIOError:
            pass
        os.close(descriptor)
        await asyncio.sleep(_POLL)


def _same(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock))
    except FileNotFoundError:
        return False


def check_space(path: Path, wanted: int) -> None:
    """Raise `disk_full` unless `wanted` bytes fit and something is left for others."""
    status = os.statvfs(path)
    reserve = min(_RESERVE_MAX, status.f_blocks * status.f_frsize // _RESERVE_SHARE)
    if status.f_bavail * status.f_frsize < wanted + reserve:
        raise disk_full(path, wanted)


def disk_full(path: Path, wanted: int = 0) -> PermanentError:
    """The one error for a full disk."""
    need = f", {wanted} bytes are needed" if wanted else ""
    return PermanentError(
        f"no space left on the file system of {path}{need}", "free some with `twinhull system prune` or `twinhull image prune`"
    )


def is_disk_full(error: OSError) -> bool:
    """Whether it means that no more fits: disk or quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


async def spool(stream: AsyncIterator[bytes], path: Path) -> int:
    """Write a stream to a new file; its size is returned. Raises `disk_full` with nothing but the scratch folder to clean."""
    size = 0
    try:
        with path.open("xb") as file:
            async for data in stream:
                size += len(data)
                await asyncio.to_thread(file.write, data)
                if size >> 26 != size - len(data) >> 26:
                    check_space(path.parent, 0)
    except OSError as error:
        raise (disk_full(path.parent) if is_disk_full(error) else error) from error
    return size
