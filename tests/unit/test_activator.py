"""The activator with real sockets: what it holds, hands over, refuses, and never keeps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from twinhull import home
from twinhull.activator.base import Entrance, Sleeper
from twinhull.activator.local import LocalActivator
from twinhull.home import Home

WEB = "shop/web"
PORT = 20_000 + 2 * (os.getpid() % 5_000)
"""Of the process, for several run these tests at the same time, and what one holds must not reach another's instance."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def where(tmp_path: Path) -> Home:
    return home.at(tmp_path / ("long" * 30))  # beyond what a socket's address may be


@pytest.fixture
async def activator(where: Home) -> AsyncIterator[LocalActivator]:
    """Leaves no descriptor and no task."""
    before = len(os.listdir("/proc/self/fd"))
    made = LocalActivator(where)
    await made.open()
    yield made
    await made.close()
    assert asyncio.all_tasks() <= {asyncio.current_task()}
    assert len(os.listdir("/proc/self/fd")) == before


class Instance:
    """Echoes, after its name; `take` may do otherwise."""

    def __init__(
        self, address: str, take: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None, backlog: int = 100
    ) -> None:
        self.address = address
        self._backlog = backlog
        self.taken = 0
        self._take = take or self._echo

    async def __aenter__(self) -> Instance:
        self._server = await asyncio.start_server(self._serve, self.address, PORT, backlog=self._backlog)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        with contextlib.suppress(OSError):
            await self._take(reader, writer)
            writer.close()
            await writer.wait_closed()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.address.encode() + b":")
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


async def call(where: Home, activator: LocalActivator, port: int = PORT) -> Streams:
    """As the gateway does, in its own root folder."""
    path = where.proxy_root / activator.address(WEB, port).removeprefix("unix@/")
    made = socket.socket(socket.AF_UNIX)
    folder = os.open(path.parent, os.O_PATH)
    try:
        made.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    return await asyncio.open_unix_connection(sock=made)


async def finish(streams: Streams, data: bytes = b"") -> bytes:
    """Everything that comes back after this and an end."""
    reader, writer = streams
    with contextlib.suppress(OSError):
        writer.write(data)
        writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:
        return b"reset"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is the kernel's
            await asyncio.sleep(0.002)


async def test_what_comes_is_held_until_an_instance_serves(where: Home, activator: LocalActivator) -> None:
    wanted: list[str] = []
    activator.on_wanted = wanted.append
    await activator.apply([Sleeper(WEB, (PORT,))])
    calls = [asyncio.create_task(finish(await call(where, activator), b"%d" % number)) for number in range(200)]
    await until(lambda: activator.waiting(WEB) == 200)
    assert wanted == [WEB]
    async with Instance("127.0.0.21") as one, Instance("127.0.0.22") as two:
        activator.ready(WEB, (one.address, two.address))
        answers = await asyncio.gather(*calls)
        assert sorted(answer.partition(b":")[2] for answer in answers) == sorted(b"%d" % number for number in range(200))
        assert min(one.taken, two.taken) > 50
    await until(lambda: activator.open_connections(WEB) == 0)
    assert activator.waiting(WEB) == 0


async def test_an_instance_whose_program_listens_later_is_tried_again(where: Home, activator: LocalActivator) -> None:
    await activator.apply([Sleeper(WEB, (PORT,))])
    activator.ready(WEB, ("127.0.0.21",))
    held = [asyncio.create_task(finish(await call(where, activator), b"x")) for _ in range(50)]
    await until(lambda: activator.waiting(WEB) == 50)
    async with Instance("127.0.0.21"):
        assert set(await asyncio.gather(*held)) == {b"127.0.0.21:x"}


async def test_no_instance_gets_more_at_once_than_it_takes(where: Home, activator: LocalActivator) -> None:
    now, most = 0, 0

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        writer.write(await reader.read())
        now -= 1

    await activator.apply([Sleeper(WEB, (PORT,), limit=3)])
    async with Instance("127.0.0.21", take):
        activator.ready(WEB, ("127.0.0.21",))
        calls = [await call(where, activator) for _ in range(10)]
        await until(lambda: (activator.waiting(WEB), activator.open_connections(WEB)) == (7, 3))
        assert await asyncio.gather(*(finish(each, b"x") for each in calls)) == [b"x"] * 10
    assert most == 3


async def test_over_the_bound_and_the_deadline_the_gateway_gets_an_answer(where: Home, activator: LocalActivator) -> None:
    await activator.apply([Sleeper(WEB, (PORT,), (PORT + 1,), queue=1)])
    first = await call(where, activator)
    await until(lambda: activator.waiting(WEB) == 1)
    answer = await finish(await call(where, activator), b"GET / HTTP/1.1\r\n\r\n" + bytes(1 << 17))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in answer
    assert await finish(await call(where, activator, PORT + 1)) == b""
    await activator.apply([])
    assert (await finish(first)).startswith(b"HTTP/1.1 503 ")
    await activator.apply([Sleeper(WEB, (PORT,), deadline=0.01)])
    assert (await finish(await call(where, activator), b"GET")).startswith(b"HTTP/1.1 503 ")


async def test_a_caller_that_hangs_up_is_not_waited_for(where: Home, activator: LocalActivator) -> None:
    await activator.apply([Sleeper(WEB, (PORT,))])
    _, writer = await call(where, activator)
    writer.write(b"GET")
    await until(lambda: activator.waiting(WEB) == 1)
    writer.close()
    await until(lambda: activator.waiting(WEB) == 0)


async def test_what_an_instance_does_not_read_stays_with_the_caller(where: Home, activator: LocalActivator) -> None:
    """Held as well as handed over: the buffers of four sockets are the bound."""
    let_go = asyncio.Event()
    got = 0

    async def take(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal got
        await let_go.wait()
        while data := await reader.read(1 << 16):
            got += len(data)

    await activator.apply([Sleeper(WEB, (PORT,))])
    size = 64 << 20
    sent = asyncio.create_task(finish(await call(where, activator), bytes(size)))
    await until(lambda: activator.waiting(WEB) == 1)
    async with Instance("127.0.0.21", take):
        activator.ready(WEB, ("127.0.0.21",))
        await until(lambda: activator.open_connections(WEB) == 1)
        assert got == 0
        let_go.set()
        await sent
        assert got == size


async def test_a_half_closed_connection_still_gets_its_answer_and_a_broken_one_breaks(where: Home, activator: LocalActivator) -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all of " + await reader.read())

    async def broken(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    await activator.apply([Sleeper(WEB, (PORT,))])
    async with Instance("127.0.0.21", late), Instance("127.0.0.22", broken):
        activator.ready(WEB, ("127.0.0.21",))
        assert await finish(await call(where, activator), b"it") == b"all of it"
        activator.ready(WEB, ("127.0.0.22",))
        assert await finish(await call(where, activator), b"it") in (b"", b"reset")
    await until(lambda: activator.open_connections(WEB) == 0)


async def test_the_next_one_binds_the_sockets_again(where: Home) -> None:
    first, second = LocalActivator(where), LocalActivator(where)
    await first.open()
    await first.apply([Sleeper(WEB, (PORT,)), Sleeper("shop/gone", (PORT,))])
    first._doors.clear()  # as if it had been killed: what it bound lies there
    await first.close()
    with pytest.raises(ConnectionRefusedError):
        await call(where, first)
    await second.open()
    try:
        await second.apply([Sleeper(WEB, (PORT,))])
        second.ready(WEB, ("127.0.0.21",))
        async with Instance("127.0.0.21"):
            assert await finish(await call(where, second), b"x") == b"127.0.0.21:x"
        assert len(list((where.proxy_root / "activator").iterdir())) == 1
    finally:
        await second.close()


async def test_only_root_and_the_gateway_get_to_the_sockets(where: Home, activator: LocalActivator) -> None:
    await activator.apply([Sleeper(WEB, (PORT,))])
    (door,) = (where.proxy_root / "activator").iterdir()
    modes = [path.stat().st_mode & 0o777 for path in (where.proxy_root.parent, where.proxy_root, door.parent, door)]
    assert modes == [0o700, 0o755, 0o755, 0o666]


async def test_a_crowd_does_not_overrun_a_short_backlog(where: Home, activator: LocalActivator) -> None:
    """Busybox's. Beyond it a kernel takes connections that it can't keep."""
    await activator.apply([Sleeper(WEB, (PORT,))])
    calls = [asyncio.create_task(finish(await call(where, activator), b"x")) for _ in range(300)]
    await until(lambda: activator.waiting(WEB) == 300)
    async with Instance("127.0.0.21", backlog=9):
        activator.ready(WEB, ("127.0.0.21",))
        assert set(await asyncio.gather(*calls)) == {b"127.0.0.21:x"}


async def test_the_port_for_the_network_takes_only_what_was_redirected(activator: LocalActivator) -> None:
    await activator.apply([Sleeper(WEB, tcp=(Entrance("", activator.port),))])
    with contextlib.suppress(ConnectionResetError):
        assert await finish(await asyncio.open_connection("127.0.0.1", activator.port)) in (b"", b"reset")
    assert activator.waiting(WEB) == 0


async def test_who_serves_may_be_told_before_the_service(where: Home, activator: LocalActivator) -> None:
    async with Instance("127.0.0.21"):
        activator.ready(WEB, ("127.0.0.21",))
        await activator.apply([Sleeper(WEB, (PORT,))])
        assert await finish(await call(where, activator), b"x") == b"127.0.0.21:x"
