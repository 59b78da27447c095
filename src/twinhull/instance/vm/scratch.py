"""The writable layer of a VM: a sparse ext4 image, copied from a template that is made once for each size.

Invariant: an image that a guest has written is never mounted or parsed on the host; only QEMU opens it. Called by `machine.py`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

from twinhull.errors import PermanentError
from twinhull.sys import proc

SIZE = 64 << 30
"""Bytes that a writable layer may grow to. Only what is written takes space; discards give it back."""

_FICLONE = 0x40049409
_RECIPE = 1
_COPY = 1 << 20
_FLAGS = (
    *("-q", "-F", "-b", "4096", "-m", "0", "-J", "size=32"),
    # no resizing; 1 inode in 16 KiB is 4 million at 64 GiB
    *("-O", "^resize_inode,^orphan_file", "-i", "16384"),
    # the file is all holes: what mke2fs needn't write, the guest needn't write later either
    *("-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"),
)


def ensure(path: Path, cache: Path, size: int = SIZE) -> None:
    """Make the image if it isn't there; an existing one is kept as it is. Blocks for milliseconds (the first time: some 50)."""
    if path.exists():
        return
    source = template(cache, size)
    descriptor, name = tempfile.mkstemp(prefix=".scratch.", dir=path.parent)
    try:
        with open(source, "rb") as file:
            copy_sparse(file.fileno(), descriptor)
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise
    finally:
        os.close(descriptor)


def template(cache: Path, size: int = SIZE) -> Path:
    """The empty file system of a size, made on first need; several makers at once do no harm."""
    path = cache / f"scratch-{_RECIPE}-{size}.img"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".scratch.", dir=cache)
    try:
        os.ftruncate(descriptor, size)
        _format(name)
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise
    finally:
        os.close(descriptor)
    return path


def copy_sparse(source: int, target: int) -> None:
    """Copy a file with its holes: a reflink where the file system has them, else extent by extent."""
    size = os.fstat(source).st_size
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
            raise
    os.ftruncate(target, size)
    position = 0
    while (start := _seek(source, position, os.SEEK_DATA)) is not None:
        end = _seek(source, start, os.SEEK_HOLE) or size
        _copy_range(source, target, start, end)
        position = end


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        copied = os.copy_file_range(source, target, min(end - start, _COPY), start, start)
        if copied == 0:
            raise PermanentError("copy the scratch disk's template: it shrank meanwhile")
        start += copied


def _seek(descriptor: int, position: int, whence: int) -> int | None:
    try:
        return os.lseek(descriptor, position, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data from here to the end
            return None
        raise


def _format(name: str) -> None:
    try:
        proc.run_blocking(("mkfs.ext4", *_FLAGS, name))
    except proc.ProcessError as error:
        if "orphan_file" not in error.stderr and "Invalid filesystem option" not in error.stderr:
            raise
        proc.run_blocking(("mkfs.ext4", *(flag.replace(",^orphan_file", "") for flag in _FLAGS), name))  # e2fsprogs before 1.47
