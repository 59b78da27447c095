"""A service in front of its instances: by virtual address, by name, by published port; and while its endpoints change."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration import network_lab as lab

from twinhull import home
from twinhull.errors import ConflictError, UserError
from twinhull.network import addresses, links, netns
from twinhull.network.dns import strays
from twinhull.network.host import Attached, NetworkHost, interface
from twinhull.network.ports import Port
from twinhull.spec.instance import PortMapping
from twinhull.spec.service import ServiceRecord, ServiceSide
from twinhull.sys import proc
from twinhull.sys.libnftables import Nft
from twinhull.sys.netlink import Netlink

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FRONT, BACK, CLOSED = lab.record(0), lab.record(1), lab.record(2, internal=True)
VIP = "10.186.0.254"
CLIENT, FIRST, SECOND, THIRD = "10.186.0.2", "10.186.0.3", "10.186.0.4", "10.186.0.5"
UDP = socket.SOCK_DGRAM


@pytest.fixture
async def stage(space: None, tmp_path: Path) -> AsyncIterator[lab.Stage]:
    async with lab.staged(home.at(tmp_path), (FRONT, BACK, CLOSED)) as made:
        yield made


def side(*endpoints: str | tuple[str, int], network: str = "net0", address: str = VIP, **changes: object) -> ServiceSide:
    weighted = tuple((each, 1) if isinstance(each, str) else each for each in endpoints)
    return ServiceSide(network, address, ("web", "web.shop.internal"), weighted, **changes)


def web(*endpoints: str | tuple[str, int], ports: tuple[PortMapping, ...] = (), **changes: object) -> ServiceRecord:
    return ServiceRecord("shop.web", (side(*endpoints, **changes),), ports)


async def instances(stage: lab.Stage, count: int = 3, *, number: int = 80, kind: int = socket.SOCK_STREAM) -> list[netns.Netns]:
    """At .3 and following; each server says its last octet first."""
    found = []
    for index in range(count):
        found.append(await stage.instance(lab.port(FRONT, 3 + index, 1 + index)))
        stage.serve(found[-1], number, kind, name=str(3 + index))
    return found


def ask(space: netns.Netns | None, count: int, address: str = VIP, number: int = 80) -> Counter[str]:
    return Counter(lab.inside(space, lambda: [lab.ask_tcp(address, number) for _ in range(count)]))


async def until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - what is waited for is the kernel's, or a thread's
            await asyncio.sleep(0.005)


async def test_connections_take_exact_turns_and_keep_their_client(stage: lab.Stage) -> None:
    client = await stage.instance(lab.port(FRONT, 2, 0))
    await instances(stage)
    await stage.host.set_service(web(FIRST, SECOND, THIRD))
    assert ask(client, 30) == {f"{each} {CLIENT}": 10 for each in (3, 4, 5)}
    assert ask(None, 30) == {f"{each} 10.186.0.1": 10 for each in (3, 4, 5)}, "from this machine"
    await stage.host.set_service(web((FIRST, 3), (SECOND, 1)))
    assert ask(client, 40) == {f"3 {CLIENT}": 30, f"4 {CLIENT}": 10}


async def test_an_instance_may_reach_itself_through_its_service(stage: lab.Stage) -> None:
    """Only then its address is replaced: a packet from an address to itself would be dropped."""
    first, *_ = await instances(stage, 2)
    await stage.host.set_service(web(FIRST, SECOND))
    assert ask(first, 10) == {"3 10.186.0.1": 5, f"4 {FIRST}": 5}


async def test_every_port_udp_and_ping(stage: lab.Stage) -> None:
    client = await stage.instance(lab.port(FRONT, 2, 0))
    for held in await instances(stage, 2, number=5353, kind=UDP):
        stage.serve(held, 8081)
    await stage.host.set_service(web(FIRST, SECOND))
    found = lab.inside(client, lambda: Counter(lab.ask_udp(VIP, 5353) for _ in range(10)))
    assert found == {f"3 {CLIENT}": 5, f"4 {CLIENT}": 5}
    assert ask(client, 4, number=8081) == {CLIENT: 4}
    assert lab.inside(client, lab.ask_tcp, VIP, 8082) == "refused", "by the instance"
    assert lab.inside(client, lab.ping, VIP)
    netns.write_sysctl("net.ipv4.ping_group_range", "0 2147483647")
    assert lab.ping(VIP)


async def test_without_endpoints_it_refuses_at_once(stage: lab.Stage) -> None:
    client = await stage.instance(lab.port(FRONT, 2, 0))
    ports = (PortMapping(80, 8080), PortMapping(53, 5353, protocol="udp"))
    with lab.outside() as other:
        await stage.host.set_service(web(ports=ports))
        for where, address, tcp, udp in (
            (client, VIP, 80, 53),
            (None, VIP, 80, 53),
            (other, "192.0.2.1", 8080, 5353),
            (None, "127.0.0.1", 8080, 5353),
        ):
            assert lab.inside(where, lab.ask_tcp, address, tcp) == "refused"
            assert lab.inside(where, lab.ask_udp, address, udp) == ("refused" if where else "unreachable"), "EPERM where it never leaves"
        assert not lab.inside(client, lab.ping, VIP, lab.REFUSED)
    await instances(stage, 1)
    await stage.host.set_service(web(FIRST))
    assert ask(client, 2) == {f"3 {CLIENT}": 2}


async def test_an_endpoint_that_is_gone_is_said_at_once(stage: lab.Stage) -> None:
    """Before the engine notices and takes it out."""
    client = await stage.instance(lab.port(FRONT, 2, 0))
    await stage.host.set_service(web(FIRST))
    for where in (client, None):
        assert lab.inside(where, lab.ask_tcp, VIP, 80, 1) == "unreachable"


async def test_connections_to_an_instance_that_is_gone_end(stage: lab.Stage) -> None:
    """A VM that is killed closes nothing. This machine's programs are told at once, instances as soon as they send something."""
    near, far = await stage.instance(lab.port(FRONT, 2, 0)), lab.port(FRONT, 3, 1)
    server = await stage.instance(far)
    listener = lab.inside(server, socket.create_server, ("", 80))
    await stage.host.set_service(web(FIRST))
    with listener, socket.create_connection((FIRST, 80)) as ours, lab.inside(near, socket.create_connection, (VIP, 80)) as theirs:
        accepted = [listener.accept()[0] for _ in range(2)]
        with Netlink() as link:
            link.request(links.delete_link(socket.if_nametoindex(stage.host.bridge(FRONT).replace("b0", "v1"))))
        await stage.host.detach((far,))
        for each in (ours, theirs):
            each.settimeout(lab.TIMEOUT)
        with pytest.raises(ConnectionAbortedError):
            ours.recv(1)
        with pytest.raises(ConnectionResetError):
            theirs.sendall(b"?")
            theirs.recv(1)
        for each in accepted:
            each.close()


async def test_other_networks_and_machines_do_not_get_there(stage: lab.Stage) -> None:
    await instances(stage, 1)
    back = await stage.instance(lab.port(BACK, 2, 8))
    await stage.host.set_service(web(FIRST))
    assert lab.inside(back, lab.ask_tcp, VIP, 80) == "refused"
    assert not lab.inside(back, lab.ping, VIP, lab.REFUSED)
    assert lab.inside(back, lab.resolve, "10.186.1.1", "web") == (3, [])
    with lab.outside() as other:
        with netns.enter(other.descriptor, {})[1] as link:
            link.request(links.route(2, "10.186.0.0", 16, via="192.0.2.1"))
        assert lab.inside(other, lab.ask_tcp, VIP, 80, lab.REFUSED) == "silence"


async def test_a_service_on_two_networks_and_an_internal_one(stage: lab.Stage) -> None:
    both = await stage.instance(lab.port(FRONT, 9, 0), lab.port(CLOSED, 9, 1, ifname="eth1", default=False))
    stage.serve(both, 80, name="both")
    front, closed = await stage.instance(lab.port(FRONT, 2, 2)), await stage.instance(lab.port(CLOSED, 2, 3))
    inner = side("10.186.2.9", network="net2", address="10.186.2.254")
    await stage.host.set_service(ServiceRecord("shop.web", (side("10.186.0.9"), inner)))
    assert ask(front, 2) == {f"both {CLIENT}": 2}
    assert ask(closed, 2, "10.186.2.254") == {"both 10.186.2.2": 2}
    assert lab.inside(closed, lab.ask_tcp, VIP, 80, lab.REFUSED) in ("unreachable", "refused")
    assert lab.inside(front, lab.resolve, "10.186.0.1", "web") == (0, [VIP])
    assert lab.inside(closed, lab.resolve, "10.186.2.1", "web.shop.internal") == (0, ["10.186.2.254"])
    assert lab.inside(both, lab.resolve, "10.186.0.1", "web") == (0, [VIP, "10.186.2.254"])
    assert ask(both, 2, "10.186.2.254") == {"both 10.186.2.1": 2}


async def test_names_lead_to_the_service_and_addresses_back_to_the_instance(stage: lab.Stage) -> None:
    client = await stage.instance(lab.port(FRONT, 2, 0))
    each = (("tasks.web", FIRST), ("web-1", FIRST), ("tasks.web", SECOND), ("web-2", SECOND))

    def resolve(name: str, kind: int = lab.A) -> list[str]:
        return lab.inside(client, lab.resolve, "10.186.0.1", name, kind)[1]

    await stage.host.set_service(web(FIRST, instance_names=each))
    await stage.host.set_names("a1", [("net0", "shop-web-1", FIRST)])
    for name, found in (("web", [VIP]), ("WEB.shop.internal", [VIP]), ("tasks.web", [FIRST, SECOND]), ("web-2", [SECOND])):
        assert resolve(name) == found
    assert resolve("3.0.186.10.in-addr.arpa", lab.PTR) == ["shop-web-1"], "although the service named that address first"
    assert resolve("254.0.186.10.in-addr.arpa", lab.PTR) == ["web"]
    await stage.host.set_service(web(FIRST, SECOND, dnsrr=True, address=""))
    assert resolve("web") == [FIRST, SECOND]
    assert resolve("254.0.186.10.in-addr.arpa", lab.PTR) == []
    await stage.host.remove_service("shop.web")
    assert resolve("web") == []
    assert resolve("shop-web-1") == [FIRST]
    assert resolve("3.0.186.10.in-addr.arpa", lab.PTR) == ["shop-web-1"]


async def test_published_ports_are_balanced_from_everywhere(stage: lab.Stage) -> None:
    first, _second = await instances(stage, 2)
    for held in stage.spaces[:2]:
        stage.serve(held, 53, UDP, name="u")
    back = await stage.instance(lab.port(BACK, 2, 8))
    with lab.outside() as other:
        wanted = (PortMapping(80, 8080), PortMapping(53, 5353, protocol="udp"), PortMapping(80, 8081, "192.0.2.1"), PortMapping(80))
        chosen = await stage.host.set_service(web(FIRST, SECOND, ports=wanted))
        assert chosen[:3] == wanted[:3]
        assert await stage.host.set_service(web(FIRST, SECOND, ports=wanted)) == chosen
        for port in (8080, 8081, chosen[3].host_port):
            assert ask(other, 10, "192.0.2.1", port) == {"3 192.0.2.2": 5, "4 192.0.2.2": 5}
        assert ask(None, 10, "127.0.0.1", 8080) == {"3 10.186.0.1": 5, "4 10.186.0.1": 5}
        assert ask(back, 10, "192.0.2.1", 8080) == {"3 10.186.1.2": 5, "4 10.186.1.2": 5}
        assert ask(first, 10, "192.0.2.1", 8080) == {"3 10.186.0.1": 5, f"4 {FIRST}": 5}
        assert lab.inside(other, lab.ask_udp, "192.0.2.1", 5353) == "u 192.0.2.2"
        assert lab.ask_tcp("127.0.0.1", 8081) == "refused"
        await stage.host.remove_service("shop.web")
        await stage.host.remove_service("shop.web")
        assert lab.inside(other, lab.ask_tcp, "192.0.2.1", 8080) == "refused"
    stage.serve(None, 8080)


async def test_a_small_subnet_that_somebody_chose(stage: lab.Stage) -> None:
    """Down to the last address, which is the service's."""
    small = replace(lab.record(5), subnet="172.30.5.16/29", gateway="172.30.5.17")
    await stage.host.ensure(small)
    client, server = [await stage.instance(Port(small, number, interface(small, f"172.30.5.{18 + number}"))) for number in (0, 4)]
    stage.serve(server, 80, name="s")
    address = addresses.free_virtual_address(small, ["172.30.5.18", "172.30.5.22"])
    assert address == "172.30.5.21"
    await stage.host.set_service(web("172.30.5.22", network=small.id, address=address))
    assert ask(client, 2, address) == {"s 172.30.5.18": 2}
    await stage.host.remove_service("shop.web")
    await stage.host.destroy(small)


async def test_a_cancelled_change_is_made_whole(stage: lab.Stage) -> None:
    await instances(stage, 2)
    for moment in range(10):
        record = web((FIRST, SECOND)[moment % 2], ports=(PortMapping(80, 8080 + moment % 2),))
        task = asyncio.create_task(stage.host.set_service(record))
        await asyncio.sleep(moment * 0.0002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if moment:  # at the first one it hadn't begun
            await until(lambda record=record: stage.host._services.get("shop.web") == record)
            assert ask(None, 1, "127.0.0.1", 8080 + moment % 2) == {f"{3 + moment % 2} 10.186.0.1": 1}
            assert ask(None, 1, "127.0.0.1", 8081 - moment % 2) == {"refused": 1}


async def test_a_taken_port_changes_nothing(stage: lab.Stage) -> None:
    client = await stage.instance(lab.port(FRONT, 2, 0))
    await instances(stage, 2)
    stage.serve(None, 8080)
    await stage.host.set_service(web(FIRST, ports=(PortMapping(80, 8081),)))
    with pytest.raises(ConflictError, match="port 8080/tcp is already taken by another program"):
        await stage.host.set_service(web(SECOND, ports=(PortMapping(80, 8082), PortMapping(80, 8080))))
    with pytest.raises(ConflictError, match=r"port 8081/tcp is already taken by shop\.web"):
        await stage.host.publish("a1", SECOND, (PortMapping(80, 8081),))
    assert ask(client, 2) == {f"3 {CLIENT}": 2}
    assert ask(None, 2, "127.0.0.1", 8081) == {"3 10.186.0.1": 2}
    assert ask(None, 1, "127.0.0.1", 8082) == {"refused": 1}


BAD = (
    ServiceRecord("web", ()),
    ServiceRecord("../x.y", ()),
    ServiceRecord("a.b\n", ()),
    web(network="net7"),
    web(address="10.186.1.254"),
    web(address="10.186.0.1"),
    web(address="10.186.0.9 } ; flush ruleset"),
    web("10.186.1.3"),
    web((FIRST, 0)),
    web(instance_names=(("a b", FIRST),)),
    web(ports=(PortMapping(80, protocol="sctp"),)),
)


async def test_bad_records_are_refused_and_change_nothing(stage: lab.Stage) -> None:
    before = stage.host._workers.table._count.copy()
    for record in BAD:
        with pytest.raises(UserError):
            await stage.host.set_service(record)
    assert stage.host._workers.table._count == before


def attempt(address: str, number: int) -> str:
    begun = ""
    try:
        with socket.create_connection((address, number), timeout=lab.TIMEOUT) as peer:
            begun = "connected, then "
            return peer.recv(100).decode()
    except OSError as error:
        return f"{address}: {begun}{error!r}"


async def test_no_connection_fails_while_endpoints_change(stage: lab.Stage) -> None:
    """50 changes, among them whole new tables, each with at least 80 connections before the next."""
    client = await stage.instance(lab.port(FRONT, 2, 0))
    await instances(stage, 5)
    places = [f"10.186.0.{3 + index}" for index in range(5)]
    attached = [Attached("client", "c", (lab.port(FRONT, 2, 0),))]
    attached += [Attached(f"i{index}", "i", (lab.port(FRONT, 3 + index, 1 + index),)) for index in range(5)]
    await stage.host.set_service(web(*places, ports=(PortMapping(80, 8080),)))
    kept = lab.inside(client, socket.create_connection, (VIP, 80))
    answers: list[str] = []
    stop = threading.Event()

    def load(address: str, number: int) -> None:
        while not stop.is_set():
            answers.append(attempt(address, number))

    threads = [
        threading.Thread(target=lab.inside, args=(where, load, address, number))
        for where, address, number in ((client, VIP, 80), (client, VIP, 80), (None, "127.0.0.1", 8080))
    ]
    for thread in threads:
        thread.start()
    try:
        for change in range(50):
            target = len(answers) + 80
            chosen = [places[(change + offset) % 5] for offset in range(1 + change % 4)]
            record = web(*chosen, ports=(PortMapping(80, 8080),))
            if change % 10 == 9:
                await stage.host.sync((FRONT, BACK, CLOSED), attached, (record,))
            else:
                await stage.host.set_service(record)
            await until(lambda target=target: len(answers) >= target)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    failed = [answer for answer in answers if " " not in answer or ":" in answer]
    print(f"\n{len(answers)} connections, {len(failed)} failed, over 50 changes")
    assert len(answers) >= 4000
    assert failed == [], "what went wrong, in the system's words"
    kept.close()


async def test_connections_stay_and_are_counted_until_they_end(stage: lab.Stage) -> None:
    client, server = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(FRONT, 3, 1))
    listener = lab.inside(server, socket.create_server, ("", 80))
    await stage.host.set_service(web(FIRST, ports=(PortMapping(80, 8080),)))
    assert await stage.host.connections(FIRST) == 0
    with listener:
        with socket.create_connection((FIRST, 80)), listener.accept()[0]:
            assert await stage.host.connections(FIRST) == 0, "only this machine itself went there"
            assert await stage.host.connections(FIRST, own=True) == 1
        held = [lab.inside(client, socket.create_connection, (VIP, 80)), socket.create_connection(("127.0.0.1", 8080))]
        accepted = [listener.accept()[0] for _ in held]
        await stage.host.set_service(web(SECOND))
        assert await stage.host.connections(FIRST) == 2
        assert await stage.host.connections(SECOND) == 0
        for near, far in zip(held, accepted, strict=True):
            near.sendall(b"still there")
            assert far.recv(100) == b"still there"
        for left, (near, far) in enumerate(zip(held, accepted, strict=True)):
            near.close()
            assert far.recv(1) == b""
            assert await stage.host.connections(FIRST) == 2 - left, "this side may still send"
            far.close()
            await _until_connections(stage.host, 1 - left)


async def _until_connections(host: NetworkHost, number: int) -> None:
    async with asyncio.timeout(10):
        while await host.connections(FIRST) != number:
            pass


async def test_udp_flows_follow_their_service(stage: lab.Stage) -> None:
    """A peer that keeps its source port, of the virtual address and of the published port."""
    client = await stage.instance(lab.port(FRONT, 2, 0))
    await instances(stage, 2, number=53, kind=UDP)
    port = (PortMapping(53, 5353, protocol="udp"),)
    await stage.host.set_service(web(FIRST, SECOND, ports=port))
    first = lab.inside(client, lab.ask_udp, VIP, 53, source_port=4000)[:1]
    assert lab.ask_udp("127.0.0.1", 5353, source_port=4001)[:1] == first, "each has its own turns"
    left, stayed = (FIRST, SECOND) if first == "3" else (SECOND, FIRST)
    await stage.host.set_service(web(stayed, ports=port))
    await until(lambda: lab.inside(client, lab.ask_udp, VIP, 53, source_port=4000)[:1] == stayed[-1])
    await until(lambda: lab.ask_udp("127.0.0.1", 5353, source_port=4001)[:1] == stayed[-1])
    await stage.host.set_service(web(left, ports=port))
    await until(lambda: lab.ask_udp("127.0.0.1", 5353, source_port=4001)[:1] == left[-1])


async def test_a_udp_peer_that_came_too_early_is_answered_once_there_is_a_service(stage: lab.Stage) -> None:
    await instances(stage, 1, number=53, kind=UDP)
    assert lab.ask_udp("127.0.0.1", 5353, source_port=4002)[:1] != FIRST[-1]
    await stage.host.set_service(web(FIRST, ports=(PortMapping(53, 5353, protocol="udp"),)))
    await until(lambda: lab.ask_udp("127.0.0.1", 5353, source_port=4002)[:1] == FIRST[-1])


async def test_a_flushed_ruleset_and_killed_resolvers_come_back(stage: lab.Stage, tmp_path: Path) -> None:
    client = await stage.instance(lab.port(FRONT, 2, 0))
    await instances(stage, 2)
    await stage.host.set_service(web(FIRST, SECOND, ports=(PortMapping(80, 8080),)))
    nft = Nft()
    nft.run("flush ruleset")
    nft.close()
    assert await stage.host._workers.quick(stage.host._workers.table.repair)
    assert ask(client, 10) == {f"3 {CLIENT}": 5, f"4 {CLIENT}": 5}
    nft = Nft()
    nft.run("flush ruleset")
    nft.close()
    await stage.host.set_service(web(FIRST, ports=(PortMapping(80, 8080),)))
    assert ask(client, 4) == {f"3 {CLIENT}": 4}, "also by the next change"
    assert ask(None, 2, "127.0.0.1", 8080) == {"3 10.186.0.1": 2}
    task = asyncio.create_task(stage.host.supervise())
    try:
        for pid in strays(tmp_path / "run" / "dns", ()):
            os.kill(pid, signal.SIGKILL)
            await proc.wait_pid(pid)
        await until(lambda: lab.inside(client, lab.resolve, "10.186.0.1", "web", timeout=0.2) == (0, [VIP]))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_sync_that_changes_nothing_touches_no_element(stage: lab.Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """All kinds of sets and maps are read back as they were written; a set that is filled anew isn't whole for a moment."""
    await stage.instance(lab.port(FRONT, 2, 0), lab.port(BACK, 2, 1, ifname="eth1", default=False))
    names, two = (("net0", "a", CLIENT),), (lab.port(FRONT, 2, 0), lab.port(BACK, 2, 1, ifname="eth1", default=False))
    own = Attached(
        "a1", "a", two, names, CLIENT, (PortMapping(80, 8080), PortMapping(80, 8081, "127.0.0.1"), PortMapping(53, 8080, "", "udp"))
    )
    await stage.host.publish("a1", CLIENT, own.mappings)
    record = web(FIRST, SECOND, ports=(PortMapping(80, 8082), PortMapping(53, 8083, "127.0.0.1", "udp")))
    await stage.host.set_service(record)
    done: list[str] = []
    nft = stage.host._workers.table._nft
    run = nft.run
    monkeypatch.setattr(nft, "run", lambda text: done.append(text) or run(text))
    await stage.host.sync((FRONT, BACK, CLOSED), (own,), (record,))
    written = "".join(text for text in done if not text.startswith("list "))
    assert "add rule" in written
    assert "element" not in written
    assert "delete" not in written


async def test_a_new_daemon_takes_services_over(stage: lab.Stage, tmp_path: Path) -> None:
    """As after kill -9: nothing is closed. What stands is served all the time; what is gone is removed; what changed is put right."""
    client = await stage.instance(lab.port(FRONT, 2, 0))
    await instances(stage, 2)
    attached = [
        Attached(f"i{host}", "i", (lab.port(FRONT, host, host - 2),), (("net0", f"web-{host}", f"10.186.0.{host}"),)) for host in (2, 3, 4)
    ]
    await stage.host.set_service(web(FIRST, ports=(PortMapping(80, 8080),)))
    await stage.host.set_service(ServiceRecord("shop.old", (ServiceSide("net0", "10.186.0.253", ("old",), ((FIRST, 1),)),)))
    stage.host._reserved.close()  # its process would have died
    successor = NetworkHost(home.at(tmp_path))
    await successor.open()
    assert ask(client, 2) == {f"3 {CLIENT}": 2}, "before `sync` as before"
    report = await successor.sync((FRONT, BACK, CLOSED), attached, (web(SECOND, ports=(PortMapping(80, 8080),)),))
    assert report.conflicts == ()
    assert ask(client, 2) == {f"4 {CLIENT}": 2}
    assert ask(None, 2, "127.0.0.1", 8080) == {"4 10.186.0.1": 2}
    assert lab.inside(client, lab.resolve, "10.186.0.1", "web") == (0, [VIP])
    assert lab.inside(client, lab.resolve, "10.186.0.1", "old") == (3, [])
    assert lab.inside(client, lab.ask_tcp, "10.186.0.253", 80) == "unreachable"
    thief = lab.Server(None, 8081)
    report = await successor.sync((FRONT, BACK, CLOSED), attached, (web(FIRST, ports=(PortMapping(80, 8081),)),))
    assert report.conflicts == (("shop.web", "port 8081/tcp is already taken by another program"),)
    assert ask(client, 2) == {f"3 {CLIENT}": 2}, "the service itself works"
    report = await successor.sync((FRONT, BACK, CLOSED), attached, (web(FIRST, address="10.186.1.7"), web(FIRST)))
    assert [owner for owner, _why in report.conflicts] == ["shop.web"], "one that can't be is told, and the others are served"
    assert ask(client, 2) == {f"3 {CLIENT}": 2}
    thief.close()
    await successor.close()
