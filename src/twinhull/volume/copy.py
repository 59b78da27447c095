"""A folder's content copied with everything that belongs to it: owners, modes, times, xattrs, hard links, holes, devices.

Laws: links are copied, never followed; nothing is written outside the target's descriptor, and nothing read outside the source's.
The caller owns both trees, or holds them still: this is no protection against somebody who moves folders meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

_PIECE = 1 << 30
_OF_THE_HOST = ("trusted.overlay.", "security.selinux")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def tree(source: int, target: int) -> None:
    """All entries of one folder into another that is empty; then the folder's own attributes. Both are descriptors. Raises OSError."""
    _Copy().folder(source, target)


class _Copy:
    def __init__(self) -> None:
        self.links: dict[tuple[int, int], str] = {}
        self.top = -1

    def folder(self, source: int, target: int, path: str = "") -> None:
        self.top = target if self.top < 0 else self.top
        for name in os.listdir(source):
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            self._entry(source, target, name, status, f"{path}{name}")
        _attributes(source, target)

    def _entry(self, source: int, target: int, name: str, status: os.stat_result, path: str) -> None:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            with _opened(source, name, _READ | os.O_DIRECTORY) as below, _opened(target, name, _READ | os.O_DIRECTORY) as made:
                self.folder(below, made, f"{path}/")
        elif kind != stat.S_IFSOCK and not self._linked(target, name, status, path):
            _make(source, target, name, status)

    def _linked(self, target: int, name: str, status: os.stat_result, path: str) -> bool:
        """Whether it is one more name of a file that was copied already."""
        if status.st_nlink < 2:
            return False
        first = self.links.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            return False
        os.link(first, name, src_dir_fd=self.top, dst_dir_fd=target, follow_symlinks=False)
        return True


def _make(source: int, target: int, name: str, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _opened(source, name, _READ) as old, _opened(target, name, flags) as new:
            _content(old, new, status.st_size)
            _attributes(old, new)
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    _xattrs(f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}")
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _content(old: int, new: int, size: int) -> None:
    """The data, holes left out."""
    offset = 0
    os.ftruncate(new, size)
    while offset < size:
        try:
            start = os.lseek(old, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole to the end
                return
            raise
        offset = os.lseek(old, start, os.SEEK_HOLE)
        os.lseek(old, start, os.SEEK_SET)
        os.lseek(new, start, os.SEEK_SET)
        left = offset - start
        while left and (moved := os.sendfile(new, old, None, min(left, _PIECE))):
            left -= moved


def _attributes(old: int, new: int) -> None:
    """Owner before mode and xattrs: a change of owner takes set-user-id and capabilities away."""
    status = os.fstat(old)
    os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))
    _xattrs(f"/proc/self/fd/{old}", f"/proc/self/fd/{new}", follow=True)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))


def _xattrs(old: str, new: str, *, follow: bool = False) -> None:
    for name in os.listxattr(old, follow_symlinks=follow):
        if not name.startswith(_OF_THE_HOST):
            os.setxattr(new, name, os.getxattr(old, name, follow_symlinks=follow), follow_symlinks=follow)


@contextlib.contextmanager
def _opened(folder: int, name: str, flags: int) -> Iterator[int]:
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
