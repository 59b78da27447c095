"""A connection to somebody who isn't trusted: bounded lines and bodies, never left open."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator

from twinhull.spec.source import Source

LINE = 64 * 1024
BODY = 256 * 1024


class AnswerError(Exception):
    """The other side said something that isn't its protocol, or refused. The text is for people."""


class Stream:
    """Reads and writes; see the module."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def write(self, data: bytes) -> None:
        """Requests are small: they fit into the socket's buffer."""
        self._writer.write(data)

    async def line(self) -> bytes:
        """Up to CR LF, without it. Raises AnswerError, EOFError."""
        try:
            line = await self._reader.readuntil(b"\r\n")
        except asyncio.LimitOverrunError:
            raise AnswerError(f"a line of more than {LINE} bytes") from None
        return line[:-2]

    async def exactly(self, size: int) -> bytes:
        """So many bytes. Raises AnswerError, EOFError."""
        if not 0 <= size <= BODY:
            raise AnswerError(f"an answer of {size} bytes")
        return await self._reader.readexactly(size)

    async def some(self) -> bytes:
        """Whatever has come, b"" at the end."""
        return await self._reader.read(LINE)


@contextlib.asynccontextmanager
async def connection(source: Source, address: str) -> AsyncIterator[Stream]:
    """To the source at `address`; it is closed at once afterwards, whatever is still under way."""
    tls = _tls() if source.scheme == "https" else None
    name = source.host if tls else None
    reader, writer = await asyncio.open_connection(address, source.port, ssl=tls, server_hostname=name, limit=LINE)
    try:
        yield Stream(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def number(text: bytes) -> int:
    """A whole number, zero or more, as a server writes it. Raises AnswerError."""
    if not text.isdigit() or len(text) > 18:
        raise AnswerError(f"{shown(text)} is no number")
    return int(text)


def shown(text: bytes) -> str:
    """The beginning of what was said, for a message."""
    return repr(text[:100].decode("utf-8", "replace"))
