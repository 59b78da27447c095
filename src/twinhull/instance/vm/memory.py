"""Files in memory that hold a saved guest: its RAM, and the state of its devices.

Invariant: what `seal` returned from can't be changed by anyone, also not by a QEMU that its guest has taken over. That is why they are
memory files: QEMU before 8.2 opens its RAM's file for writing even where it only maps private copies of it, and a sealed file is the
only one that can be opened so and yet not be written. Called by `template.py` and `shelf.py`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from twinhull.errors import PermanentError

_F_ADD_SEALS = 1033
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_WRITE = 1, 2, 4, 8
_CHUNK = 1 << 30
"""sendfile takes at most 2 GiB at once."""


def create(name: str, size: int = 0) -> int:
    """A descriptor of a new file of `size` bytes, which are zero and take no memory."""
    descriptor = os.memfd_create(f"twinhull-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    return descriptor


def seal(descriptor: int) -> None:
    """Make it unchangeable for good. Raises OSError (EBUSY) while somebody has it mapped for writing."""
    fcntl.fcntl(descriptor, _F_ADD_SEALS, _F_SEAL_SEAL | _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_WRITE)


def reader(descriptor: int) -> int:
    """Another descriptor of the same file, read-only, at its beginning, and with a position of its own."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def store(descriptor: int, path: Path) -> None:
    """Copy it to a new file on disk, holes kept, synced, for its owner to read only."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        _copy(descriptor, target)
        os.fsync(target)
    finally:
        os.close(target)


def load(path: Path, name: str) -> int:
    """A sealed copy of a file on disk. Raises OSError."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        descriptor = create(name)
        try:
            _copy(source, descriptor)
            seal(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.posix_fadvise(source, 0, 0, os.POSIX_FADV_DONTNEED)  # it is in memory once, that's enough
    finally:
        os.close(source)
    return descriptor


def _copy(source: int, target: int) -> None:
    os.ftruncate(target, os.fstat(source).st_size)
    for start, end in _extents(source):
        os.lseek(target, start, os.SEEK_SET)
        position = start
        while position < end:
            sent = os.sendfile(target, source, position, min(end - position, _CHUNK))
            if sent == 0:
                raise PermanentError("copy a template: it shrank meanwhile")
            position += sent


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what isn't a hole."""
    size = os.fstat(descriptor).st_size
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
