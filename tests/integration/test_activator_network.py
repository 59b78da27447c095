"""A service that sleeps, asked by virtual address and by published port: the kernel leads connections to the activator."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration import network_lab as lab

from twinhull import home
from twinhull.activator.base import Entrance, Sleeper
from twinhull.activator.local import LocalActivator
from twinhull.network import links, netns
from twinhull.spec.instance import PortMapping
from twinhull.spec.service import ServiceRecord, ServiceSide

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FRONT, BACK, CLOSED = lab.record(0), lab.record(1), lab.record(2, internal=True)
VIP, CLOSED_VIP = "10.186.0.254", "10.186.2.254"
FIRST, SERVICE = "10.186.0.3", "shop/web"
PORTS = (PortMapping(80, 8080), PortMapping(80, 8081, "192.0.2.1"))


@pytest.fixture
async def stage(space: None, tmp_path: Path) -> AsyncIterator[lab.Stage]:
    async with lab.staged(home.at(tmp_path), (FRONT, BACK, CLOSED)) as made:
        yield made


@pytest.fixture
async def activator(stage: lab.Stage, tmp_path: Path) -> AsyncIterator[LocalActivator]:
    made = LocalActivator(home.at(tmp_path))
    await made.open()
    published = (Entrance("", 8080, 80), Entrance("192.0.2.1", 8081, 80))
    inside = (Entrance(VIP, peers=(FRONT.subnet,)), Entrance(CLOSED_VIP, peers=(CLOSED.subnet,)))
    await made.apply([Sleeper(SERVICE, tcp=(*inside, *published))])
    yield made
    await made.close()


def web(activator: LocalActivator, *endpoints: str) -> ServiceRecord:
    front = ServiceSide("net0", VIP, ("web",), tuple((each, 1) for each in endpoints))
    return ServiceRecord("shop.web", (front, ServiceSide("net2", CLOSED_VIP, ("web",))), PORTS, activator.port)


def near(activator: LocalActivator) -> ServiceRecord:
    return replace(web(activator), ports=PORTS[:1])


async def ask(space: netns.Netns | None, address: str, number: int = 80, timeout: float = lab.TIMEOUT) -> str:
    """In a thread, because the activator is in this one; of its own, because many wait at once."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return await asyncio.wrap_future(pool.submit(lab.inside, space, lab.ask_tcp, address, number, timeout))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is the kernel's
            await asyncio.sleep(0.002)


async def test_whoever_may_ask_wakes_it_and_reaches_it(stage: lab.Stage, activator: LocalActivator) -> None:
    client, back = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(BACK, 2, 8))
    closed = await stage.instance(lab.port(CLOSED, 2, 9))
    wanted: list[str] = []
    activator.on_wanted = wanted.append
    with lab.outside() as other:
        await stage.host.set_service(web(activator))
        asked = [
            asyncio.create_task(ask(where, address, number, 60))
            for where, address, number in (
                (client, VIP, 80),
                (None, VIP, 80),
                (closed, CLOSED_VIP, 80),
                (other, "192.0.2.1", 8080),
                (other, "192.0.2.1", 8081),
                (None, "127.0.0.1", 8080),
                (back, "192.0.2.1", 8080),
                (client, "10.186.0.1", 8080),
            )
        ]
        await until(lambda: activator.waiting(SERVICE) == len(asked))
        assert wanted == [SERVICE]
        instance = await stage.instance(lab.port(FRONT, 3, 1))
        stage.serve(instance, 80, name="3")
        activator.ready(SERVICE, (FIRST,))
        await stage.host.set_service(web(activator, FIRST))
        assert set(await asyncio.gather(*asked)) == {"3 10.186.0.1"}, "from this machine, which holds the connection"
        assert await ask(client, VIP) == "3 10.186.0.2", "directly from now on"
    await until(lambda: activator.open_connections(SERVICE) == 0)


async def test_nobody_else_gets_there(stage: lab.Stage, activator: LocalActivator) -> None:
    """Not from other networks, not past the rules, not with another protocol, and not without a redirect."""
    client, back = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(BACK, 2, 8))
    closed = await stage.instance(lab.port(CLOSED, 2, 9))
    with lab.outside() as other:
        await stage.host.set_service(web(activator))
        with netns.enter(other.descriptor, {})[1] as link:
            link.request(links.route(2, "10.186.0.0", 16, via="192.0.2.1"))
        assert await ask(back, VIP) == "refused"
        assert await ask(closed, VIP) in ("unreachable", "refused")
        assert await ask(closed, "192.0.2.1", 8080) in ("unreachable", "refused")
        assert await ask(closed, "10.186.2.1", 8080) in ("unreachable", "refused")
        assert await ask(other, VIP, 80, lab.REFUSED) == "silence"
        for where, address in ((client, "10.186.0.1"), (closed, "10.186.2.1"), (other, "192.0.2.1")):
            assert await ask(where, address, activator.port) == "refused"
        assert await ask(None, "127.0.0.1", activator.port) in ("", "unreachable"), "this machine's own programs may knock in vain"
        assert await asyncio.to_thread(lab.inside, client, lab.ask_udp, VIP, 80) == "refused"
    assert activator.waiting(SERVICE) == 0


async def test_the_next_daemon_has_another_port_and_a_dead_one_refuses(stage: lab.Stage, activator: LocalActivator) -> None:
    client = await stage.instance(lab.port(FRONT, 2, 0))
    await stage.host.set_service(near(activator))
    await activator.close()
    assert await ask(client, VIP) == "refused"
    await activator.open()
    await stage.host.set_service(near(activator))
    held = asyncio.create_task(ask(client, VIP, 80, 60))
    await until(lambda: activator.waiting(SERVICE) == 1)
    await activator.apply([])
    assert await held == "unreachable", "reset: the service went"
    await stage.host.set_service(replace(near(activator), activator=0))
    assert await ask(client, VIP) == "refused"
