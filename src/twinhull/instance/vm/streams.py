"""The streams of programs in a guest, as sessions: an exec's own, and the workload's shared one. Used by agent.py only.

Laws: an exec holds at most the window that was granted (a guest that sends more breaks the protocol); an attached session holds at
most the guest's ring, because what it hasn't consumed isn't acknowledged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from twinhull.errors import TemporaryError, TwinhullError
from twinhull.instance.base import STDOUT, Session
from twinhull.instance.vm import frames
from twinhull.instance.vm.frames import Kind, ProtocolError
from twinhull.instance.vm.guest import terminal_size

RING = 4 * 1024 * 1024
"""The guest's ring of workload output, in bytes."""
_WINDOW_STEP = frames.WINDOW // 4
_CHUNKS = 4096
"""Pieces that are kept as they came. A guest that sends single bytes to a slow reader would cost a hundred times the memory; beyond this
the pieces of a stream are joined, by which only the order between stdout and stderr is lost."""


class AgentLostError(TemporaryError):
    """The connection to the agent ended: the VM is gone, or the connection was closed."""


@dataclass(frozen=True, slots=True)
class GuestExit:
    """How the workload ended: 0–255, 128 + signal."""

    code: int
    oom: bool


class Wire(Protocol):
    """What sessions need of the client."""

    async def write(self, frame: bytes) -> None: ...
    def write_nowait(self, frame: bytes) -> None: ...
    def send_signal(self, stream: int, number: int) -> None: ...
    def failure(self) -> TwinhullError: ...
    def acknowledge(self) -> None: ...
    def forget(self, session: Attached) -> None: ...


class Input:
    """stdin of one stream: as much as the guest granted, then wait. `closed`: nobody reads, all is dropped."""

    def __init__(self, wire: Wire, stream: int, credit: int = frames.WINDOW) -> None:
        self.credit = credit
        self.closed = False
        self._wire = wire
        self._stream = stream
        self._changed = asyncio.Event()
        self._lock = asyncio.Lock()

    def grant(self, credit: int, closed: bool) -> None:
        """GRANT came."""
        self.credit = min(self.credit + credit, frames.WINDOW)
        self.closed = self.closed or closed
        self._changed.set()

    def close(self) -> None:
        """No more, ever."""
        self.closed = True
        self._changed.set()

    async def send(self, data: bytes) -> None:
        """All of it, in order with other senders."""
        async with self._lock:
            view = memoryview(data)
            while len(view) > 0 and await self._wait_credit():
                part = view[: min(len(view), self.credit, frames.MAX_DATA)]
                self.credit -= len(part)
                await self._wire.write(frames.stdin(self._stream, bytes(part)))
                view = view[len(part) :]

    async def end(self) -> None:
        """End of file."""
        async with self._lock:
            if not self.closed:
                await self._wire.write(frames.stdin(self._stream, b""))

    async def _wait_credit(self) -> bool:
        while self.credit == 0 and not self.closed:
            self._changed.clear()
            await self._changed.wait()
        return not self.closed


class _Streams(Session):
    """What both kinds share: a queue of output, an exit code, the end of the connection."""

    def __init__(self, wire: Wire, stream: int, stdin: Input) -> None:
        self.stdin = stdin
        self._wire = wire
        self._stream = stream
        self._chunks: deque[tuple[int, bytes | bytearray]] = deque()
        self._held = 0
        self._code: int | None = None
        self._failed = False
        self._closed = False
        self._changed = asyncio.Event()

    async def send(self, data: bytes) -> None:
        await self.stdin.send(data)

    async def close_stdin(self) -> None:
        await self.stdin.end()

    async def resize(self, rows: int, cols: int) -> None:
        terminal_size(rows, cols)
        if self._code is None and not self._closed:
            self._wire.write_nowait(frames.resize(self._stream, rows, cols))

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        while await self._wait_chunk():
            fd, data = self._chunks.popleft()
            self._held -= len(data)
            self._consumed(len(data))
            yield fd, bytes(data)

    async def wait(self) -> int:
        while self._code is None and not self._failed:
            await self._wait_change()
        if self._code is None:
            raise self._wire.failure()
        return self._code

    async def signal(self, number: int) -> None:
        if self._code is None and not self._closed:
            self._wire.send_signal(self._stream, number)

    def fail(self) -> None:
        """The connection ended."""
        self._failed = self._code is None
        self.stdin.close()
        self._changed.set()

    def finish(self, code: int) -> None:
        """The program ended; all of its output is in the queue."""
        self._code = code
        self._changed.set()

    def _put(self, fd: int, data: bytes) -> bool:
        """Keep it for the reader; whether it became a chunk of its own."""
        if not data or self._closed:
            return False
        self._held += len(data)
        self._changed.set()
        if len(self._chunks) >= _CHUNKS and self._join(fd, data):
            return False
        self._chunks.append((fd, data))
        return True

    def _join(self, fd: int, data: bytes) -> bool:
        """To the newest chunk of the same stream, if that is one of the last two."""
        for at in (-1, -2):
            known, kept = self._chunks[at]
            if known == fd:
                if isinstance(kept, bytes):
                    kept = bytearray(kept)
                    self._chunks[at] = fd, kept
                kept += data
                return True
        return False

    def _consumed(self, size: int) -> None:
        raise NotImplementedError

    async def _wait_chunk(self) -> bool:
        """True: there is one; False: there won't be any."""
        while not self._chunks:
            if self._code is not None or self._closed:
                return False
            if self._failed:
                raise self._wire.failure()
            await self._wait_change()
        return True

    async def _wait_change(self) -> None:
        """Wakes all waiters: `output` and any number of `wait`."""
        self._changed.clear()
        await self._changed.wait()


class Exec(_Streams):
    """One exec: DATA within the window, acknowledged in steps as it is consumed."""

    def __init__(self, wire: Wire, stream: int) -> None:
        super().__init__(wire, stream, Input(wire, stream))
        self._credit = frames.WINDOW
        self._owed = 0
        self._received = [0, 0]

    @property
    def abandoned(self) -> bool:
        """Whether nobody wants it any more."""
        return self._closed

    def take(self, fd: int, data: bytes) -> None:
        """DATA came."""
        self._received[fd - STDOUT] += len(data)
        if self._closed:
            return
        self._credit -= len(data)
        if self._credit < 0:
            raise ProtocolError(f"agent: stream {self._stream} sent more than its window")
        self._put(fd, data)

    def end(self, code: int, out_bytes: int, err_bytes: int) -> None:
        """EXIT came; its byte counts must agree with what arrived."""
        if not self._closed and self._received != [out_bytes, err_bytes]:
            raise ProtocolError(f"agent: stream {self._stream} lost output: {self._received} of {[out_bytes, err_bytes]} bytes came")
        self.stdin.close()
        self.finish(code)

    async def close(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Its reader is gone: the guest kills it."""
        if self._closed:
            return
        self._closed = True
        self._chunks.clear()
        self.stdin.close()
        self._changed.set()
        if self._code is None and not self._failed:
            self._wire.write_nowait(frames.encode(Kind.CLOSE, self._stream))

    def _consumed(self, size: int) -> None:
        self._owed += size
        if self._owed >= _WINDOW_STEP and self._code is None and not self._failed:
            self._credit += self._owed
            self._wire.write_nowait(frames.window(self._stream, self._owed))
            self._owed = 0


class Attached(_Streams):
    """The workload's streams, shared: stdin is the same for all, output is a copy for each."""

    def __init__(self, wire: Wire, stdin: Input) -> None:
        super().__init__(wire, 0, stdin)
        self._offsets: deque[int] = deque()

    @property
    def consumed(self) -> int | None:
        """Output below this offset was consumed here; None: all that came."""
        return self._offsets[0] if self._offsets else None

    def take_at(self, offset: int, fd: int, data: bytes) -> None:
        """OUTPUT came."""
        if self._held + len(data) > RING:
            raise ProtocolError("agent: more unacknowledged output than its ring holds")
        if self._put(fd, data):
            self._offsets.append(offset)

    def fail(self) -> None:
        self._failed = self._code is None
        self._changed.set()

    async def close(self) -> None:
        self._closed = True
        self._chunks.clear()
        self._offsets.clear()
        self._held = 0
        self._changed.set()
        self._wire.forget(self)

    def _consumed(self, size: int) -> None:
        self._offsets.popleft()
        self._wire.acknowledge()
