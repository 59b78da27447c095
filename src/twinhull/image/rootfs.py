"""One erofs file per image, for VMs: made once, by whoever comes first, and never half.

Invariant: a file at `path` is complete and never changes; makers in this and other processes wait for each other by a lock file,
which the kernel frees when its holder dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from twinhull.errors import PermanentError
from twinhull.home import Home
from twinhull.image import scratch
from twinhull.sys import proc

_POLL = 0.02
"""Seconds between two tries for the lock: a maker takes about a second."""


def folder(home: Home) -> Path:
    """Where the files lie."""
    return home.cache / "erofs"


def path(home: Home, image_id: str) -> Path:
    """Where an image's file is, or would be."""
    return folder(home) / f"{image_id}.erofs"


async def ensure(home: Home, image_id: str, layers: Sequence[Path], created: float) -> Path:
    """The image's file, made if it isn't there. `layers`: topmost first; `created`: the image's time, seconds since 1970."""
    target = path(home, image_id)
    if target.exists():
        return target
    folder(home).mkdir(parents=True, exist_ok=True)
    async with _locked(folder(home) / f".{image_id}.lock"):
        if not target.exists():
            await _make(home, image_id, layers, int(created))
    return target


def collect(home: Home, keep: set[str]) -> tuple[str, ...]:
    """Remove the files of all images but these; the ids removed."""
    removed = []
    for file in list(folder(home).glob("*.erofs")) if folder(home).exists() else []:
        if file.stem not in keep:
            file.unlink(missing_ok=True)
            removed.append(file.stem)
    return tuple(removed)


def size(home: Home) -> int:
    """Bytes on the disk."""
    return sum(file.stat().st_blocks * 512 for file in folder(home).glob("*.erofs")) if folder(home).exists() else 0


async def _make(home: Home, image_id: str, layers: Sequence[Path], created: int) -> None:
    with scratch.scratch(home) as work:
        part = work / "root.erofs"
        argv = [sys.executable, "-m", "twinhull.image.erofs", str(part), image_id[:32], str(created), *map(str, layers)]
        result = await proc.run(argv, check=False)
        if result.status == os.EX_TEMPFAIL:
            raise scratch.disk_full(folder(home))
        if result.status != 0:
            tail = result.stderr.decode("utf-8", "replace").strip()[-1000:]
            raise PermanentError(f"make the VM root of image {image_id[:12]}: {tail or f'exit status {result.status}'}")
        os.chmod(part, 0o400)  # it holds files that the image keeps from its users; VMs get a descriptor
        os.rename(part, path(home, image_id))


@contextlib.asynccontextmanager
async def _locked(lock: Path) -> AsyncIterator[None]:
    """Hold the lock file; it is removed again unless another waits for it."""
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
