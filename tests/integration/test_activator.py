"""The activator behind a real HAProxy: from zero, many at once, over the bound, and when it dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.integration.gateway_lab import PORT, Client, Request, ask, gateway, origins

from twinhull.activator.base import Sleeper
from twinhull.activator.local import LocalActivator
from twinhull.gateway.base import Backend, Server
from twinhull.home import Home
from twinhull.spec.app import RouteSpec

pytestmark = pytest.mark.usefixtures("space")
WEB = "shop/web"


@pytest.fixture
def home(proxy_home: Home) -> Home:
    return proxy_home


@contextlib.asynccontextmanager
async def activator(home: Home, **sleeper: Any) -> AsyncIterator[LocalActivator]:
    made = LocalActivator(home)
    await made.open()
    await made.apply([Sleeper(WEB, (PORT,), **sleeper)])
    try:
        yield made
    finally:
        await made.close()


def backend(stand_in: LocalActivator, *servers: Server, **route: Any) -> tuple[Backend]:
    return (Backend(WEB, (RouteSpec("web.test", port=PORT, **route),), servers, stand_in.address(WEB, PORT)),)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is the gateway's
            await asyncio.sleep(0.002)


def waking(count: int, method: str = "GET") -> list[asyncio.Task[tuple[int, str, str]]]:
    """(status, X-Twinhull-Wake, body) of as many requests at once."""

    async def one() -> tuple[int, str, str]:
        answer = await ask(method=method, body=b"x" * 1000)
        return answer.status, answer.headers.get("x-twinhull-wake", ""), answer.text

    return [asyncio.create_task(one()) for _ in range(count)]


async def test_two_hundred_at_once_wake_a_service_and_the_next_one_goes_to_it_directly(home: Home) -> None:
    async with gateway(home) as gate, activator(home) as stand_in:
        await gate.apply(backend(stand_in))
        wanted: list[str] = []
        stand_in.on_wanted = wanted.append
        asked = waking(200, "POST")
        await until(lambda: stand_in.waiting(WEB) == 200)
        assert wanted == [WEB]
        async with origins("a", "b") as (a, b):
            stand_in.ready(WEB, (a.address, b.address))
            await gate.apply(backend(stand_in, a.server, b.server))
            answers = await asyncio.gather(*asked)
            assert {status for status, _, _ in answers} == {200}
            assert all(wake.isdigit() for _, wake, _ in answers)
            assert {body for _, _, body in answers} == {"a", "b"}
            assert (await ask()).headers.get("x-twinhull-wake") is None
            await until(lambda: stand_in.open_connections(WEB) == 0)


async def test_a_kept_connection_leaves_the_activator_after_its_answer(home: Home) -> None:
    async with gateway(home) as gate, activator(home) as stand_in, origins("a") as (a,):
        await gate.apply(backend(stand_in))
        stand_in.ready(WEB, (a.address,))
        client = Client()
        assert "x-twinhull-wake" in (await client.ask()).headers
        await until(lambda: stand_in.open_connections(WEB) == 0)
        await gate.apply(backend(stand_in, a.server))
        assert "x-twinhull-wake" not in (await client.ask()).headers
        assert client.connections == 1
        await client.close()


async def test_a_websocket_goes_on_and_counts_as_open(home: Home) -> None:
    async with gateway(home) as gate, activator(home) as stand_in, origins("a") as (a,):
        await gate.apply(backend(stand_in))
        stand_in.ready(WEB, (a.address,))
        client = Client()
        await client.websocket()
        await gate.apply(backend(stand_in, a.server))
        reader, writer = await client.open()
        writer.write(b"hello")
        assert await reader.readexactly(7) == b"a:hello"
        assert stand_in.open_connections(WEB) == 1
        await client.close()
        await until(lambda: stand_in.open_connections(WEB) == 0)


async def test_each_call_of_a_grpc_client_is_held_by_itself(home: Home) -> None:
    """So that it can go to another instance than the next, and the last one releases the activator."""
    async with gateway(home) as gate, activator(home) as stand_in:
        await stand_in.apply([Sleeper(WEB, raw_ports=(PORT,))])
        await gate.apply(backend(stand_in, protocol="h2c"))
        asked = [*waking(2), *waking(2, "POST")]
        await until(lambda: stand_in.waiting(WEB) == 4)
        await stand_in.apply([])
        assert [status for status, _, _ in await asyncio.gather(*asked)] == [503] * 4


@pytest.mark.parametrize("bound", [{"queue": 0}, {"deadline": 0.05}])
async def test_whoever_can_not_be_held_may_come_again(home: Home, bound: dict[str, float]) -> None:
    async with gateway(home) as gate, activator(home, **bound) as stand_in:
        await gate.apply(backend(stand_in))
        answer = await ask(method="POST", body=bytes(1 << 16))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def kill(stand_in: LocalActivator) -> None:
    """As after kill -9: every descriptor is closed, the sockets' files stay."""
    doors, stand_in._doors = stand_in._doors, {}
    for _, task in doors.values():
        task.cancel()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_who_is_held_by_a_daemon_that_dies_may_come_again(home: Home, method: str) -> None:
    """Also who has asked before on the same connection: clients don't repeat a POST whose connection is closed without an answer."""
    async with gateway(home) as gate, origins("a") as (a,):
        clients = [Client() for _ in range(3)]
        async with activator(home) as stand_in:
            await gate.apply(backend(stand_in))
            stand_in.ready(WEB, (a.address,))
            assert [(await client.ask()).text for client in clients] == ["a"] * 3
            stand_in.ready(WEB, ())
            sizes = (0, 1000, 100_000)
            asked = [asyncio.create_task(client.ask(method=method, body=bytes(size))) for client, size in zip(clients, sizes, strict=True)]
            asked.append(asyncio.create_task(ask(method=method)))
            await until(lambda: stand_in.waiting(WEB) == 4)
            kill(stand_in)
        for answer in await asyncio.gather(*asked):
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert '"status":503,"title":"Service Unavailable","detail":"shop/web has no instance' in answer.text
            assert answer.text.count(answer.headers["x-request-id"]) == 1
        assert [client.connections for client in clients] == [1, 1, 1]
        assert [request.method for request in a.requests] == ["GET"] * 3
        refused = await ask(Accept="text/html")
        assert (refused.status, refused.headers["retry-after"], refused.headers["content-type"]) == (503, "1", "text/html")
        async with activator(home) as stand_in:
            stand_in.ready(WEB, (a.address,))
            assert [(await client.ask()).text for client in clients] == ["a"] * 3
        for client in clients:
            await client.close()


async def test_a_post_that_an_instance_has_got_is_not_sent_again(home: Home) -> None:
    """Neither when the daemon dies while bytes are passed on, nor when the instance closes the connection; a PUT is, then."""
    got, release = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> tuple[int, bytes] | None:
        if request.path == "/slow":
            got.set()
            await release.wait()
        return (200, b"done") if request.path != "/silent" else None

    def count(method: str, path: str) -> int:
        return [(request.method, request.path) for request in a.requests].count((method, path))

    async with gateway(home) as gate, origins("a", handler=handler) as (a,):
        client = Client()
        async with activator(home) as stand_in:
            await gate.apply(backend(stand_in))
            stand_in.ready(WEB, (a.address,))
            for method, times in (("POST", 1), ("PUT", 4)):
                answer = await client.ask("/silent", method=method, body=b"x")
                assert (answer.status, answer.headers["retry-after"], count(method, "/silent")) == (503, "1", times)
            asked = asyncio.create_task(client.ask("/slow", method="POST", body=b"x"))
            await got.wait()
            kill(stand_in)
        answer = await asked
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        async with activator(home) as stand_in:
            stand_in.ready(WEB, (a.address,))
            assert (await client.ask()).status == 200
        release.set()
        assert count("POST", "/slow") == 1
        await client.close()


async def test_a_500_of_a_service_that_may_sleep_is_asked_of_another_instance_too(home: Home) -> None:
    async def broken(_: Request) -> tuple[int, bytes]:
        return 500, b"broken"

    async with gateway(home) as gate, activator(home) as stand_in, origins("good", "bad") as (good, bad):
        bad.handler = broken
        await gate.apply(backend(stand_in, good.server, bad.server))
        assert {(await ask()).text for _ in range(4)} == {"good"}
        assert len(bad.requests) >= 2
        for servers in ((bad.server,), ()):  # alone, and woken by the request
            before = len(bad.requests)
            await gate.apply(backend(stand_in, *servers))
            stand_in.ready(WEB, (bad.address,))
            assert (await ask()).status == 500
            assert len(bad.requests) == before + 1


async def test_the_hop_to_the_activator_outlives_reloads_and_is_no_service(home: Home) -> None:
    async with gateway(home) as gate, activator(home) as stand_in, origins("a") as (a,):
        await gate.apply(backend(stand_in))
        held, kept = asyncio.create_task(ask(method="POST")), Client()
        await until(lambda: stand_in.waiting(WEB) == 1)
        for timeout in (30.0, 40.0):
            await gate.apply(backend(stand_in, timeout=timeout))
        assert [(each.name, each.sessions) for each in await gate.stats()] == [(WEB, 1)]
        stand_in.ready(WEB, (a.address,))
        assert (await held).text == "a"
        assert (await kept.ask()).text == "a"
        await kept.close()


async def test_an_instance_that_fails_is_not_called_asleep(home: Home) -> None:
    """A 502 of a service that serves stays one."""

    async def silent(_: object) -> None:
        return None

    handler: Callable[..., Awaitable[None]] = silent
    async with gateway(home) as gate, activator(home) as stand_in, origins("a", handler=handler) as (a,):
        await gate.apply(backend(stand_in, a.server))
        answer = await ask(method="POST")
        assert (answer.status, answer.headers.get("retry-after")) == (502, None)
        assert '"status":502,"title":"Bad Gateway"' in answer.text
