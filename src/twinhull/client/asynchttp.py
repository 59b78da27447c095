"""One HTTP/1.1 exchange on an asyncio transport: `http` once more, for the asynchronous client.

A protocol of its own, because asyncio's StreamReader forgets what it has received when a write fails, and that is where a refused
upload's reason stands. Bounded: reading pauses at _MAX_BUFFER, writing waits for the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import cast

from twinhull.client import http
from twinhull.client.problems import UnreachableError
from twinhull.client.target import Target

_MAX_BUFFER = 256 * 1024

Body = bytes | Iterable[bytes] | AsyncIterable[bytes]


class AsyncConnection(asyncio.Protocol):
    """A connection that serves one request. Made by `connect`."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._ended = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.get_running_loop().create_future()

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > _MAX_BUFFER:
            self._transport.pause_reading()
        self._readable.set()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._lost.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # what the client calls

    async def exchange(self, method: str, path: str, headers: list[str], body: Body | None) -> AsyncResponse:
        """Send one request and read the head of its answer. An answer that comes early ends the sending."""
        head = http.request_head(self.target, method, path, [*headers, "Connection: close"])
        sending = asyncio.create_task(self._send_all(head, body), name="request")
        try:
            raw = await self.until(b"\r\n\r\n", http.MAX_HEAD)
        finally:
            sending.cancel()
            await asyncio.wait({sending})
        if not sending.cancelled() and (error := sending.exception()):
            raise error
        status, found = http.parse_head(raw, self.target.name)
        return AsyncResponse(self, status, found)

    async def receive(self, limit: int = _MAX_BUFFER) -> bytes:
        """At most `limit` bytes; b"" at the end."""
        while not self._buffer and not self._ended:
            self._readable.clear()
            await self._readable.wait()
        return self._take(min(limit, len(self._buffer)))

    async def until(self, mark: bytes, limit: int) -> bytes:
        """Bytes up to `mark`, which is taken too and left out."""
        while (position := self._buffer.find(mark)) < 0:
            if self._ended:
                raise UnreachableError(f"the daemon at {self.target.name} hung up", http.START)
            if len(self._buffer) > limit + _MAX_BUFFER:
                raise UnreachableError(f"{self.target.name} sent no end of a line within {limit} bytes")
            self._readable.clear()
            await self._readable.wait()
        return self._take(position + len(mark))[:position]

    async def close(self) -> None:
        """Hang up, and wait until the transport has let go."""
        self._transport.abort()
        await self._lost

    def _take(self, size: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        if len(self._buffer) <= _MAX_BUFFER and not self._ended:
            self._transport.resume_reading()
        return data

    def _end(self) -> None:
        self._ended = True
        self._readable.set()
        self._writable.set()

    async def _send_all(self, head: bytes, body: Body | None) -> None:
        if body is None or isinstance(body, bytes):
            await self._send(head + (body or b""))
            return
        await self._send(head)
        if isinstance(body, AsyncIterable):
            async for chunk in body:
                await self._send_chunk(chunk)
        else:
            for chunk in body:
                await self._send_chunk(chunk)
        await self._send(b"0\r\n\r\n")

    async def _send_chunk(self, chunk: bytes) -> None:
        if chunk:
            await self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    async def _send(self, data: bytes) -> None:
        if not self._ended:
            self._transport.write(data)
            await self._writable.wait()


class AsyncResponse:
    """An answer whose body hasn't been read yet."""

    def __init__(self, connection: AsyncConnection, status: int, headers: dict[str, str]) -> None:
        self._connection = connection
        self.status = status
        self.headers = headers

    async def read(self) -> bytes:
        """The whole body, at most 64 MiB."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > http.MAX_BODY:
                raise UnreachableError(f"the daemon sent more than {http.MAX_BODY} bytes")
        return b"".join(parts)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises UnreachableError if it ends too early."""
        chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        left = 0 if chunked or self.status == 204 else http.parse_size(self.headers.get("content-length", "0"), 10)
        while left or chunked:
            if not left and not (left := await self._next_size()):
                return
            chunk = await self._connection.receive(left)
            if not chunk:
                raise UnreachableError("the daemon broke off its answer")
            yield chunk
            left -= len(chunk)
            if chunked and not left:
                await self._connection.until(b"\r\n", 2)

    async def _next_size(self) -> int:
        return http.parse_size((await self._connection.until(b"\r\n", 128)).decode("latin-1"), 16)


async def connect(target: Target, context: ssl.SSLContext | None) -> AsyncConnection:
    """A new connection. Raises UnreachableError or UserError."""
    loop = asyncio.get_running_loop()
    with http.told_plainly(target):
        async with asyncio.timeout(http.CONNECT_TIMEOUT):
            if not target.socket:
                _, remote = await loop.create_connection(lambda: AsyncConnection(target), target.host, target.port, ssl=context)
                return remote
            with http.socket_path(target.socket) as name:
                _, local = await loop.create_unix_connection(lambda: AsyncConnection(target), name)
                return local


@contextlib.asynccontextmanager
async def exchange(
    target: Target, context: ssl.SSLContext | None, request: tuple[str, str], headers: list[str], body: Body | None
) -> AsyncGenerator[AsyncResponse, None]:
    """The answer to one request (method, path); the connection is closed afterwards."""
    connection = await connect(target, context)
    try:
        yield await connection.exchange(*request, headers, body)
    finally:
        await connection.close()
