"""Byte streams between files and the daemon, with back-pressure from both ends; and where a copied tree goes."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from twinhull.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

_CHUNK = 256 * 1024


class Target(NamedTuple):
    """Where a tree goes: into the existing `folder` under `name`; name "" puts its content right into the folder.

    `strip`: leading components of the archive's names that are the tree's own name there (1, or 0 for a tree without one).
    """

    folder: str
    name: str
    strip: int = 1


def chunks_of(file: BinaryIO) -> Iterator[bytes]:
    """What is in the file, as it comes."""
    read = getattr(file, "read1", file.read)
    while data := read(_CHUNK):
        yield data


def write_stream(chunks: Iterable[bytes], file: BinaryIO) -> None:
    """All of it."""
    for chunk in chunks:
        file.write(chunk)
    file.flush()


@contextmanager
def archive_output(path: str) -> Iterator[BinaryIO]:
    """stdout, or the file `path`, which appears under its name only when it is complete. Refuses a terminal."""
    if path in ("", "-"):
        if sys.stdout.isatty():
            raise UserError("an archive isn't written to a terminal", "use --output FILE, or send it on: > FILE")
        yield sys.stdout.buffer
        return
    partial = f"{path}.{os.getpid()}.part"
    try:
        file = open(partial, "xb")  # noqa: SIM115 (closed below; errors of the body must not be taken for this one's)
    except OSError as error:
        raise UserError(f"write {path}: {error.strerror}") from error
    try:
        with file:
            yield file
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


class ChunkReader:
    """Chunks as a file to read from, for tarfile. `read(n)` gives n bytes unless the stream ends."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        while size < 0 or len(self._buffer) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._buffer += chunk
        taken = bytes(self._buffer) if size < 0 else bytes(self._buffer[:size])
        del self._buffer[: len(taken)]
        return taken


class ChunkWriter:
    """What is written, as chunks to be taken away: the other way round, for tarfile."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Keep until `take`."""
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What was written since."""
        found, self._parts = b"".join(self._parts), []
        return found
