"""The client against a guest that misbehaves: a typed error, every waiter woken, nothing left running."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from twinhull.errors import CannotRunError, ConflictError, PermanentError, TemporaryError, UserError
from twinhull.instance.base import Process
from twinhull.instance.vm import frames
from twinhull.instance.vm.agent import AgentClient, AgentLostError
from twinhull.instance.vm.frames import GuestState, Kind, ProtocolError

PROCESS = Process(("x",), ())


def frame(kind: int, payload: bytes = b"", stream: int = 0, flags: int = 0) -> bytes:
    return frames.HEADER.pack(frames.MARKER, kind, flags, stream, len(payload)) + payload


def output(offset: int, data: bytes, fd: int = 1) -> bytes:
    return frame(Kind.OUTPUT, struct.pack("<QQB", offset, 1, fd) + data)


def exited(stream: int, code: int, out: int = 0, err: int = 0, flags: int = 0) -> bytes:
    return frame(Kind.EXIT, struct.pack("<IIQQ", code, flags, out, err), stream)


class FakeGuest:
    """Says what it is told to; answers each request by `answers[kind]`, called with the request's stream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version, self.state, self.base, self.end = 1, GuestState.RUNNING, 0, 0
        self.room = frames.WINDOW
        self.answers: dict[int, Callable[[int], bytes]] = {Kind.EXEC: lambda stream: frame(Kind.STARTED, struct.pack("<I", 9), stream)}
        self.requests: list[tuple[int, int, bytes]] = []
        self.writer: asyncio.StreamWriter | None = None
        self.before_welcome = b""
        self.silent = False
        self.news = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        try:
            await reader.readexactly(len(frames.FLUSH))
            while True:
                _, kind, _, stream, length = frames.HEADER.unpack(await reader.readexactly(frames.HEADER.size))
                payload = (await reader.readexactly(length))[:-1]
                self.requests.append((kind, stream, payload))
                self.news.set()
                if kind == Kind.HELLO and not self.silent:
                    self.say(self.before_welcome + self.welcome(payload[4:20]))
                elif kind in self.answers:
                    self.say(self.answers[kind](stream))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def welcome(self, nonce: bytes) -> bytes:
        return frame(Kind.WELCOME, nonce + struct.pack("<IBQQI", self.version, self.state, self.base, self.end, self.room))

    def say(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)

    async def wait_request(self, kind: int) -> tuple[int, int, bytes]:
        """The first request of that kind, when it comes."""
        async with asyncio.timeout(10):
            while not (found := [request for request in self.requests if request[0] == kind]):
                self.news.clear()
                await self.news.wait()
        return found[0]


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[FakeGuest]:
    fake = FakeGuest(tmp_path / "s")
    server = await asyncio.start_unix_server(fake.serve, str(fake.path))
    yield fake
    server.close()
    await server.wait_closed()


async def lost(client: AgentClient) -> None:
    async with asyncio.timeout(10):
        await client.lost.wait()


async def test_what_was_left_over_is_ignored(guest: FakeGuest) -> None:
    guest.before_welcome = output(5, b"old")[7:] + guest.welcome(bytes(16))
    seen: list[bytes] = []
    client = await AgentClient.connect(guest.path, on_output=lambda _o, _t, _f, data: seen.append(data))
    assert client.state is GuestState.RUNNING
    assert seen == []
    assert (await guest.wait_request(Kind.CLOCK))[1] == 1, "the clock is set at once"
    await client.close()
    await client.close()
    assert client.lost.is_set()


async def test_another_version(guest: FakeGuest) -> None:
    guest.version = 2
    with pytest.raises(PermanentError, match="protocol 2, not 1"):
        await AgentClient.connect(guest.path)


async def test_no_welcome_in_time(guest: FakeGuest) -> None:
    guest.silent = True
    with pytest.raises(TemporaryError, match="no answer within"):
        await AgentClient.connect(guest.path, timeout=0.1)


async def test_less_output_than_we_saw(guest: FakeGuest) -> None:
    guest.end = 5
    with pytest.raises(ProtocolError, match="up to 5 only, 6 were seen"):
        await AgentClient.connect(guest.path, log_offset=6)


async def test_dropped_output_is_counted(guest: FakeGuest) -> None:
    guest.base, guest.end = 100, 200
    client = await AgentClient.connect(guest.path, log_offset=40)
    assert client.lost_bytes == 60
    guest.say(output(150, b"x") + exited(0, 0))
    await client.wait_exit()
    assert client.lost_bytes == 110
    await client.close()


@pytest.mark.parametrize(
    "data",
    [
        output(0, b"twice") + output(0, b"twice"),
        exited(0, 1) + output(0, b"late"),
        exited(0, 1) + exited(0, 1),
        frame(Kind.DATA, b"\x01x", 99),
        exited(99, 0),
        frame(Kind.GRANT, bytes(4), 99),
        frame(Kind.OK, stream=99),
        frame(Kind.WELCOME, bytes(16) + struct.pack("<IBQQI", 1, 0, 0, 0, 0)),
        b"\0" * 100,
        frame(0xF0),
    ],
)
async def test_broken_promises_end_the_connection(guest: FakeGuest, data: bytes) -> None:
    client = await AgentClient.connect(guest.path)
    waiting = [asyncio.create_task(client.stats()), asyncio.create_task(client.top())]
    session = await client.exec(PROCESS)
    guest.say(data)
    await lost(client)
    for task in waiting:
        with pytest.raises(ProtocolError):
            await task
    with pytest.raises(ProtocolError):
        await session.wait()
    with pytest.raises(ProtocolError):
        await client.stats()
    await client.close()


async def test_more_data_than_the_window(guest: FakeGuest) -> None:
    client = await AgentClient.connect(guest.path)
    session = await client.exec(PROCESS)
    stream = (await guest.wait_request(Kind.EXEC))[1]
    for _ in range(5):
        guest.say(frame(Kind.DATA, b"\x01" + bytes(60_000), stream))
    await lost(client)
    with pytest.raises(ProtocolError, match="more than its window"):
        await session.wait()


async def test_more_output_than_the_ring(guest: FakeGuest) -> None:
    client = await AgentClient.connect(guest.path)
    session = await client.attach()
    for number in range(80):
        guest.say(output(number * 60_000, bytes(60_000)))
    await lost(client)
    with pytest.raises(ProtocolError, match="ring"):
        await client.wait_exit()
    with pytest.raises(ProtocolError):
        await session.wait()


async def test_lost_bytes_of_an_exec_are_noticed(guest: FakeGuest) -> None:
    client = await AgentClient.connect(guest.path)
    session = await client.exec(PROCESS)
    stream = (await guest.wait_request(Kind.EXEC))[1]
    guest.say(frame(Kind.DATA, b"\x02abc", stream) + exited(stream, 0, 0, 4))
    with pytest.raises(ProtocolError, match="lost output"):
        await session.wait()


async def test_the_vm_dies(guest: FakeGuest) -> None:
    client = await AgentClient.connect(guest.path)
    session, attached = await client.exec(PROCESS, tool=True), await client.attach()
    sending = asyncio.create_task(session.send(bytes(1 << 20)))
    tasks = [asyncio.create_task(coroutine) for coroutine in (client.wait_exit(), client.stats(), session.wait(), attached.wait())]
    await guest.wait_request(Kind.STATS)
    assert guest.writer is not None
    guest.writer.close()
    for task in tasks:
        with pytest.raises(AgentLostError):
            await task
    await sending  # dropped, as nobody reads any more
    await client.shutdown()  # raises not: a dead guest is down
    with pytest.raises(AgentLostError):
        await client.exec(PROCESS)
    with pytest.raises(AgentLostError):
        await client.attach()
    with pytest.raises(AgentLostError):
        await anext(session.output())
    await session.close()
    await attached.close()
    await client.close()


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [(0, 0, PermanentError), (1, 127, CannotRunError), (1, 5, CannotRunError), (2, 0, UserError), (3, 0, ConflictError)],
)
async def test_errors_by_kind(guest: FakeGuest, kind: int, code: int, expected: type[Exception]) -> None:
    guest.answers[Kind.EXEC] = lambda stream: frame(Kind.ERROR, struct.pack("<BI", kind, code) + b"text", stream)
    client = await AgentClient.connect(guest.path)
    with pytest.raises(expected, match="text") as caught:
        await client.exec(PROCESS)
    if isinstance(caught.value, CannotRunError):
        assert caught.value.exit_code == (127 if code == 127 else 126)
    await client.close()


async def test_an_answer_of_the_wrong_kind(guest: FakeGuest) -> None:
    guest.answers[Kind.STATS] = lambda stream: frame(Kind.OK, stream=stream)
    client = await AgentClient.connect(guest.path)
    with pytest.raises(ProtocolError, match="Ok in answer"):
        await client.stats()
    await client.close()


async def test_windows_and_acknowledgements_come_in_steps(guest: FakeGuest) -> None:
    client = await AgentClient.connect(guest.path)
    session, attached = await client.exec(PROCESS), await client.attach()
    stream = (await guest.wait_request(Kind.EXEC))[1]
    guest.say(b"".join(frame(Kind.DATA, b"\x01" + bytes(50_000), stream) for _ in range(4)))
    guest.say(b"".join(output(number * 50_000, bytes(50_000)) for number in range(4)))
    chunks = session.output()
    for _ in range(2):
        await anext(chunks)
    assert (await guest.wait_request(Kind.WINDOW))[1:] == (stream, struct.pack("<I", 100_000))
    assert not [request for request in guest.requests if request[0] == Kind.LOGACK]
    lines = attached.output()
    for _ in range(3):
        await anext(lines)
    assert (await guest.wait_request(Kind.LOGACK))[2] == struct.pack("<Q", 150_000)
    await client.close()


async def test_stdin_waits_for_grants_and_stops_when_refused(guest: FakeGuest) -> None:
    guest.room = 10
    client = await AgentClient.connect(guest.path)
    attached = await client.attach()
    sending = asyncio.create_task(attached.send(b"0123456789abcdef"))
    assert (await guest.wait_request(Kind.STDIN))[2] == b"0123456789"
    assert not sending.done()
    guest.requests.clear()
    guest.say(frame(Kind.GRANT, struct.pack("<I", 3)))
    assert (await guest.wait_request(Kind.STDIN))[2] == b"abc"
    assert not sending.done()
    guest.say(frame(Kind.GRANT, bytes(4), flags=2))
    await sending
    await attached.send(b"more")
    await attached.close_stdin()
    await client.close()


async def test_late_words_about_a_cancelled_exec(guest: FakeGuest) -> None:
    answers: list[int] = []
    guest.answers[Kind.EXEC] = lambda stream: answers.append(stream) or b""  # type: ignore[func-returns-value]
    client = await AgentClient.connect(guest.path)
    task = asyncio.create_task(client.exec(PROCESS))
    stream = (await guest.wait_request(Kind.EXEC))[1]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await guest.wait_request(Kind.CLOSE))[1] == stream
    guest.say(frame(Kind.STARTED, bytes(4), stream) + frame(Kind.DATA, b"\x01" + bytes(60_000), stream) * 10 + exited(stream, 137))
    guest.answers[Kind.TOP] = lambda number: frame(Kind.TOP_REPLY, b"2\ta\t61000\tx\x001\troot\t3600000\ty\0", number)
    assert await client.top() == [
        {"PID": "1", "USER": "root", "TIME": "1:00:00", "COMMAND": "y"},
        {"PID": "2", "USER": "a", "TIME": "0:01:01", "COMMAND": "x"},
    ]
    await client.close()
