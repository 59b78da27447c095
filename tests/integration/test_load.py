"""The load generator against servers that answer late, wrongly or never, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from twinhull.load.result import Result
from twinhull.load.run import Load, Site

pytestmark = pytest.mark.usefixtures("space")
HOST, PORT = "127.0.0.1", 8000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[None]:
    """Each connection is `answer`'s, again and again until it or the client closes it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while not writer.is_closing():
                await reader.readuntil(b"\r\n\r\n")
                await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, HOST, PORT)
    async with server:
        yield
    while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 (the handlers of connections that have ended)
        await asyncio.sleep(0.01)


async def drive(times: list[float], timeout: float = 20.0, stop: asyncio.Event | None = None) -> Result:
    load = Load(Site(HOST, PORT, "web.localhost", "/a?b", timeout=timeout))
    await load.run(times, stop or asyncio.Event())
    return load.result


async def test_requests_are_sent_when_they_are_due_not_when_others_are_answered() -> None:
    count, arrived, all_there = 50, 0, asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == count:
            all_there.set()
        await all_there.wait()
        writer.write(OK)

    async with serving(answer):
        result = await drive([number / 1000 for number in range(count)])
    assert (result.requests, result.answered, result.failed, result.open) == (count, count, 0, 0)


async def test_connections_are_kept() -> None:
    connections: list[object] = []
    free = asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer not in connections:
            connections.append(writer)
        writer.write(OK)
        free.set()

    async with serving(answer):
        load = Load(Site(HOST, PORT, "web.localhost"))
        for expected in (1, 2, 3):
            await load._one(0.0)
            assert load.result.answered == expected
        await load.run([], asyncio.Event())
    assert len(connections) == 1


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhi", "broken off"),
        (b"hello\r\n\r\n", "broken off"),
        (b"", "broken off"),
    ],
)
async def test_what_is_no_answer_has_failed(said: bytes, kind: str) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with serving(answer):
        result = await drive([0.0])
    assert (result.answered, dict(result.failures)) == (0, {kind: 1})


async def test_nobody_there_and_silence() -> None:
    assert dict((await drive([0.0])).failures) == {"connection refused": 1}

    async def answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(answer):
        result = await drive([0.0, 0.0], timeout=0.1)
    assert dict(result.failures) == {"no answer within 0.1 s": 2}


async def test_an_early_end_keeps_what_there_is() -> None:
    stop, heard = asyncio.Event(), 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard += 1
        if heard == 3:
            stop.set()
        if heard > 1:
            await reader.read()
        writer.write(OK)

    async with serving(answer):
        result = await drive([0.0, 0.05, 0.1, 3600.0], stop=stop)
    assert (result.requests, result.answered, result.failed, result.open) == (3, 1, 0, 2)
