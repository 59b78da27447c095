"""Removing and measuring trees that an instance made: any depth, any names, no link followed, with one descriptor and no recursion.

`shutil.rmtree` holds a descriptor and a stack frame per level; a workload can make a tree deeper than both allow.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path) -> None:
    """Remove `path` and all below; nothing happens if it isn't there. Nothing may be mounted below.

    Folders found on the way are moved up to `path` itself, so depth never grows.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        top = os.open(path, _FOLDER)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(path)


def size(folder: Path) -> int:
    """Bytes on the disk below a folder, links not followed, hard links counted once, other file systems not entered."""
    total, seen, queue = 0, set[int](), [folder]
    device = os.lstat(folder).st_dev
    while queue:
        with contextlib.suppress(OSError), os.scandir(queue.pop()) as entries:  # gone meanwhile, or a path that is too long
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_ino not in seen and status.st_dev == device:
                        seen.add(status.st_ino) if status.st_nlink > 1 else None
                        total += status.st_blocks * 512
                        queue.extend([Path(entry.path)] if entry.is_dir(follow_symlinks=False) else [])
    return total


def _empty(top: int) -> None:
    prefix = f".removed-{secrets.token_hex(8)}-"
    count = 0
    pending = _strip(top)
    while pending:
        name = pending.pop()
        folder = os.open(name, _FOLDER, dir_fd=top)
        try:
            for inner in _strip(folder):
                count += 1
                os.rename(inner, f"{prefix}{count}", src_dir_fd=folder, dst_dir_fd=top)
                pending.append(f"{prefix}{count}")
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=top)


def _strip(folder: int) -> list[str]:
    """Unlink all that isn't a folder; the names of those that are."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return folders
