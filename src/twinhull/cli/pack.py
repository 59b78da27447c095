"""Pack files of the host as a tar stream for an instance: headers and contents one after the other, never a whole file in memory."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

from twinhull.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK = 256 * 1024
_BLOCK = 512
_END = bytes(2 * _BLOCK)


def pack(source: str, name: str, *, content_only: bool, keep_owner: bool, follow: bool, warn: Callable[[str], None]) -> Iterator[bytes]:
    """The tree at `source`, its root named `name`; with `content_only` without the root's own entry.

    `follow`: if `source` is a link, what it points to. Hard links within the tree are kept. Owners become root unless `keep_owner`.
    Sockets are left out.
    """
    real = os.path.realpath(source) if follow else source
    # a TarFile that is never written to: it makes headers, and remembers inodes for hard links
    with tarfile.TarFile(fileobj=io.BytesIO(), mode="w", format=tarfile.PAX_FORMAT) as headers:
        for path, arcname in _walk(real, name):
            if path == real and content_only:
                continue
            yield from _entry(headers, path, arcname, keep_owner, warn)
    yield _END


def _walk(path: str, arcname: str) -> Iterator[tuple[str, str]]:
    """The path and all below it, parents first, in the order of names. An explicit stack: trees may be deeper than Python's."""
    waiting = [(path, arcname)]
    while waiting:
        path, arcname = waiting.pop()
        yield path, arcname
        if os.path.isdir(path) and not os.path.islink(path):
            try:
                names = sorted(os.listdir(path), reverse=True)
            except OSError as error:
                raise UserError(f"read {path}: {error.strerror}") from error
            waiting += [(os.path.join(path, name), f"{arcname}/{name}" if arcname else name) for name in names]


def _entry(headers: tarfile.TarFile, path: str, arcname: str, keep_owner: bool, warn: Callable[[str], None]) -> Iterator[bytes]:
    try:
        info = headers.gettarinfo(path, arcname)
        # gettarinfo is typed as always giving one, but gives None for sockets
        if info is None:
            warn(f"{path} is left out: it is a socket")
            return
        if not keep_owner:
            info.uid = info.gid = 0
        info.uname = info.gname = ""
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if info.isreg():
            yield from _content(path, info.size)
    except OSError as error:
        raise UserError(f"read {path}: {error.strerror}") from error


def _content(path: str, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes, as the header says, and the padding to a block."""
    left = size
    with open(path, "rb", buffering=0) as file:
        while left:
            data = file.read(min(_CHUNK, left))
            if not data:
                raise UserError(f"read {path}: it became shorter while it was read")
            left -= len(data)
            yield data
    if size % _BLOCK:
        yield bytes(_BLOCK - size % _BLOCK)
