"""One non-blocking descriptor as an asynchronous stream: pipe, terminal or message socket alike."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncGenerator

CHUNK = 65536


class Stream:
    """Owns a descriptor. One reader and one writer at a time; a cancelled read or write leaves it usable and loses nothing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        os.set_blocking(descriptor, False)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._descriptor is None

    def fileno(self) -> int:
        """The descriptor. Raises ValueError when closed."""
        if self._descriptor is None:
            raise ValueError("the stream is closed")
        return self._descriptor

    async def read(self, limit: int = CHUNK) -> bytes:
        """What is there, at least one byte, or one message; b"" at the end (also when a terminal hung up or the stream is closed)."""
        while self._descriptor is not None:
            try:
                return os.read(self._descriptor, limit)
            except BlockingIOError:
                await self._ready(write=False)
            except OSError as error:
                if error.errno in (errno.EIO, errno.ECONNRESET):
                    return b""
                raise
        return b""

    async def write(self, data: bytes, limit: int = CHUNK) -> bool:
        """Write all, at most `limit` bytes at once, waiting as needed. False: the other side is closed."""
        view = memoryview(data)
        while view:
            if self._descriptor is None:
                return False
            try:
                view = view[os.write(self._descriptor, view[:limit]) :]
            except BlockingIOError:
                await self._ready(write=True)
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ENOTCONN):
                    return False
                raise
        return True

    def close(self) -> None:
        """Close; waiters return as at the end. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            loop.remove_reader(descriptor)
            loop.remove_writer(descriptor)
        os.close(descriptor)
        for future in (self._reading, self._writing):
            if future is not None and not future.done():
                future.set_result(None)

    _reading: asyncio.Future[None] | None = None
    _writing: asyncio.Future[None] | None = None

    async def _ready(self, *, write: bool) -> None:
        """Wait until the descriptor is ready; a terminal or pipe, but not a regular file, can be waited for."""
        loop, descriptor = asyncio.get_running_loop(), self.fileno()
        future: asyncio.Future[None] = loop.create_future()
        add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
        if write:
            self._writing = future
        else:
            self._reading = future
        add(descriptor, _wake, future)
        try:
            await future
        finally:
            if self._descriptor == descriptor:
                remove(descriptor)


async def merged(
    streams: dict[int, Stream], ended: asyncio.Future[int] | None = None, linger: float = 1.0
) -> AsyncGenerator[tuple[int, bytes], None]:
    """(number, data) from several streams until all have ended.

    `ended`: once it is done, silence of `linger` seconds is the end too, because a process left in the background may hold the streams open
    for ever. A consumer that is slow holds the writers back: nothing is read ahead but one chunk per stream.
    """
    reads = {asyncio.ensure_future(stream.read()): number for number, stream in streams.items()}
    try:
        while reads:
            over = ended is not None and ended.done()
            waits: set[asyncio.Future[bytes] | asyncio.Future[int]] = {*reads}
            if ended is not None and not over:
                waits.add(ended)
            done, _ = await asyncio.wait(waits, timeout=linger if over else None, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return
            for task in [read for read in reads if read in done]:
                number = reads.pop(task)
                if data := task.result():
                    yield number, data
                    reads[asyncio.ensure_future(streams[number].read())] = number
    finally:
        for task in reads:
            task.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
