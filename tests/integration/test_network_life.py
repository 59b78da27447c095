"""What lives how long: namespaces, interfaces, rules and processes across detach, kill -9, restart, and beside another daemon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.integration import network_lab as lab

from twinhull import home
from twinhull.errors import ConflictError
from twinhull.home import Home
from twinhull.network import links, netns
from twinhull.network.dns import strays
from twinhull.network.host import Attached, NetworkHost
from twinhull.spec.instance import PortMapping
from twinhull.sys import proc
from twinhull.sys.libnftables import Nft
from twinhull.sys.netlink import Netlink

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FRONT, BACK = lab.record(0), lab.record(1)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def where(space: None, tmp_path: Path) -> Home:
    found = home.at(tmp_path)
    found.run.mkdir()
    return found


@pytest.fixture
async def host(where: Home) -> AsyncIterator[NetworkHost]:
    made = NetworkHost(where)
    await made.open()
    await made.sync((FRONT, BACK), ())
    try:
        yield made
    finally:
        await made.close(remove=True)
    assert lab.leftovers(where) == []


def interfaces() -> set[str]:
    with Netlink() as link:
        return {entry.name for entry in links.all_links(link)}


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - what is waited for is the kernel's
            await asyncio.sleep(0.01)


def elements(table: str) -> set[str]:
    nft = Nft()
    try:
        found = nft.query(f"list table inet {table}")
    finally:
        nft.close()
    sets = [value for entry in found for kind, value in entry.items() if kind in ("set", "map")]
    return {f"{value['name']} {json.dumps(element)}" for value in sets for element in value.get("elem", [])}


async def test_namespace_vanishes_with_its_last_holder(host: NetworkHost) -> None:
    held = await host.attach_netns((lab.port(FRONT, 2, 0),))
    name = host.bridge(FRONT).replace("b0", "v0")
    assert name in interfaces()
    held.close()
    held.close()
    await until(lambda: name not in interfaces())


async def test_path_can_be_joined_by_another_process(host: NetworkHost) -> None:
    held = await host.attach_netns((lab.port(FRONT, 2, 0),))
    result = await proc.run(["nsenter", f"--net={held.path}", "ip", "-4", "-brief", "address"])
    assert [line.split()[0].split("@")[0] for line in result.text.splitlines()] == ["lo", "eth0"]
    assert "10.186.0.2/32" in result.text
    held.close()


async def test_without_ports_there_is_only_loopback(host: NetworkHost) -> None:
    held = await host.attach_netns(())
    lab.Server(held, 80)
    assert lab.inside(held, lab.ask_tcp, "127.0.0.1", 80) == "127.0.0.1"
    with netns.enter(held.descriptor, {})[1] as link:
        assert [entry.name for entry in links.all_links(link)] == ["lo"]
    held.close()


async def test_an_existing_namespace_can_be_equipped(host: NetworkHost) -> None:
    given, link = netns.create({})
    link.close()
    held = await host.attach_netns((lab.port(FRONT, 2, 0),), netns_fd=given.descriptor, sysctls={"net.ipv4.tcp_fin_timeout": "17"})
    assert lab.inside(given, lab.ping, "10.186.0.1")
    assert lab.inside(given, Path("/proc/sys/net/ipv4/tcp_fin_timeout").read_text).strip() == "17"
    for each in (held, given):
        each.close()


async def test_sysctls_and_low_ports_inside(host: NetworkHost) -> None:
    held = await host.attach_netns((lab.port(FRONT, 2, 0),))
    assert lab.inside(held, Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text).strip() == "0"
    with pytest.raises(Exception, match="sysctl"):
        await host.attach_netns((lab.port(FRONT, 3, 1),), sysctls={"kernel.hostname": "x"})
    assert host.bridge(FRONT).replace("b0", "v1") not in interfaces()
    held.close()


async def test_200_cycles_leave_nothing(host: NetworkHost, where: Home) -> None:
    witness = await host.attach_netns((lab.port(FRONT, 200, 1000),))
    before = (interfaces(), elements(where.nft_table), len(os.listdir("/proc/self/fd")))
    attach, detach = [], []
    for number in range(200):
        ports = (lab.port(FRONT, 2 + number % 3, number % 3),)
        start = time.perf_counter()
        held = await host.attach_netns(ports)
        attach.append(time.perf_counter() - start)
        held.close()
        start = time.perf_counter()
        await host.detach(ports)
        detach.append(time.perf_counter() - start)
    assert (interfaces(), elements(where.nft_table), len(os.listdir("/proc/self/fd"))) == before
    assert lab.inside(witness, lab.ping, "10.186.0.1"), "the gateway is still there for the others"
    witness.close()
    print(f"\nattach_netns n=200 median {1e3 * statistics.median(attach):.2f} ms, detach median {1e3 * statistics.median(detach):.2f} ms")
    assert statistics.median(attach) < 0.02


async def test_latency_of_publish_and_names(host: NetworkHost) -> None:
    times: dict[str, list[float]] = {"publish": [], "publish with udp": [], "unpublish": [], "set_names": [], "remove_names": []}
    for number in range(50):
        names = [(FRONT.id, name, "10.186.0.2") for name in ("web", f"web-{number}")]
        for what, call in (
            ("publish", lambda: host.publish("a1", "10.186.0.2", (PortMapping(80),))),
            ("publish with udp", lambda: host.publish("a1", "10.186.0.2", (PortMapping(80), PortMapping(53, protocol="udp")))),
            ("set_names", lambda names=names: host.set_names("a1", names)),
            ("remove_names", lambda: host.remove_names("a1")),
            ("unpublish", lambda: host.unpublish("a1")),
        ):
            start = time.perf_counter()
            await call()
            times[what].append(time.perf_counter() - start)
    print("\n" + ", ".join(f"{what} n=50 median {1e3 * statistics.median(values):.2f} ms" for what, values in times.items()))
    assert statistics.median(times["publish"]) < 0.02


async def test_many_at_once(host: NetworkHost) -> None:
    ports = [(lab.port(FRONT, 2 + number, number),) for number in range(60)]
    held = await asyncio.gather(*(host.attach_netns(each) for each in ports))
    assert all(lab.inside(each, lab.ping, "10.186.0.1") for each in held)
    assert lab.inside(held[0], lab.ping, "10.186.0.61")
    for each in held:
        each.close()
    await asyncio.gather(*(host.detach(each) for each in ports))
    assert not [name for name in interfaces() if "v" in name[7:]]


async def test_the_same_number_again_at_once(host: NetworkHost) -> None:
    """A restart: detach runs in the background while the next attach uses the same interface number."""
    port = lab.port(FRONT, 2, 0)
    for _ in range(10):
        held = await host.attach_netns((port,))
        assert lab.inside(held, lab.ping, "10.186.0.1")
        gone = asyncio.create_task(host.detach((port,)))
        await asyncio.sleep(0)
        held.close()
        again = await host.attach_netns((port,))
        await gone
        assert lab.inside(again, lab.ping, "10.186.0.1")
        again.close()


async def test_failed_attach_leaves_nothing(host: NetworkHost, where: Home) -> None:
    before = (interfaces(), elements(where.nft_table), len(os.listdir("/proc/self/fd")))
    bad = lab.port(BACK, 2, 1, ifname="eth0")
    with pytest.raises(Exception, match=r"exists|veth"):
        await host.attach_netns((lab.port(FRONT, 2, 0), bad))
    assert (interfaces(), elements(where.nft_table), len(os.listdir("/proc/self/fd"))) == before


async def test_cancelled_attach_leaves_nothing(host: NetworkHost, where: Home) -> None:
    """At 60 moments of it, for namespaces and taps, on one network and on two (which starts a resolver)."""
    two = (lab.port(FRONT, 2, 0), lab.port(BACK, 2, 1, ifname="eth1", default=False))
    before = (interfaces(), elements(where.nft_table), len(os.listdir("/proc/self/fd")), len(strays(where.run / "dns", ())))
    for moment in range(60):
        attach = (host.attach_netns, host.attach_taps)[moment % 2]
        task = asyncio.create_task(attach(two if moment % 3 == 0 else two[:1]))
        await asyncio.sleep(moment * 0.0002)
        task.cancel()
        (made,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(made, netns.Netns):
            made.close()
        elif isinstance(made, tuple):
            for descriptor in made:
                os.close(descriptor)
        await host.detach(two)
    after = (interfaces(), elements(where.nft_table), len(os.listdir("/proc/self/fd")), len(strays(where.run / "dns", ())))
    assert after == before


async def test_destroy_removes_all_of_a_network(host: NetworkHost, where: Home) -> None:
    before = (interfaces(), elements(where.nft_table))
    extra = lab.record(7)
    await host.ensure(extra)
    await host.ensure(extra)
    await host.set_names("a1", [(extra.id, "web", "10.186.7.2")])
    await host.destroy(extra)
    await host.destroy(extra)
    assert (interfaces(), elements(where.nft_table)) == before
    assert len(strays(where.run / "dns", ())) == 2


async def test_subnets_of_others_are_avoided_and_conflicts_named(host: NetworkHost) -> None:
    assert await host.free_subnet() == "10.186.2.0/24"
    assert await host.free_subnet(["10.186.2.0/24"]) == "10.186.3.0/24"
    with lab.outside("10.186.2"):
        assert await host.free_subnet() == "10.186.3.0/24"
        with pytest.raises(ConflictError, match=r"overlaps 10\.186\.2\.[0-9/]+ (of|on) uplink0"):
            await host.check_subnet("10.186.2.0/23", {})
        with pytest.raises(ConflictError, match="uplink0"):
            await host.ensure(lab.record(2))
        assert host.bridge(lab.record(2)) not in interfaces()
    with pytest.raises(ConflictError, match="network n9"):
        await host.check_subnet("10.99.0.0/16", {"10.99.3.0/24": "n9"})


async def test_two_daemons_side_by_side(host: NetworkHost, where: Home, tmp_path: Path) -> None:
    other_home = home.at(tmp_path / "other")
    other_home.run.mkdir(parents=True)
    other = NetworkHost(other_home)
    await other.open()
    subnet = await other.free_subnet()
    assert subnet == "10.186.2.0/24"
    theirs = lab.record(2)
    await other.sync((theirs,), ())
    mine, foreign = await host.attach_netns((lab.port(FRONT, 2, 0),)), await other.attach_netns((lab.port(theirs, 2, 0),))
    lab.Server(foreign, 80)
    before = elements(where.nft_table)
    assert lab.inside(mine, lab.ask_tcp, "10.186.2.2", 80, lab.REFUSED) in ("silence", "refused", "unreachable")
    assert lab.inside(mine, lab.resolve, "10.186.2.1", "web", timeout=lab.REFUSED) == (-1, [])
    with lab.outside():
        await other.publish("a1", "10.186.2.2", (PortMapping(80, 8080),))
        assert lab.ask_tcp("127.0.0.1", 8080) == "10.186.2.1"
        assert lab.inside(mine, lab.ask_tcp, "192.0.2.1", 8080) not in ("silence", "refused", "unreachable")
        with pytest.raises(ConflictError, match="another program"):
            await host.publish("b2", "10.186.0.2", (PortMapping(80, 8080),))
    foreign.close()
    await other.close(remove=True)
    assert lab.leftovers(other_home) == []
    assert elements(where.nft_table) == before
    assert lab.inside(mine, lab.ping, "10.186.0.1")
    mine.close()


CHILD = """
import asyncio, json, os, pathlib, subprocess, sys
from tests.integration import network_lab as lab
from twinhull import home
from twinhull.network.host import NetworkHost
from twinhull.spec.instance import PortMapping

async def main():
    host = NetworkHost(home.at(pathlib.Path(sys.argv[1])))
    await host.open()
    await host.sync((lab.record(0), lab.record(1)), ())
    held = await host.attach_netns((lab.port(lab.record(0), 2, 0), lab.port(lab.record(1), 2, 1, ifname="eth1", default=False)))
    orphan = await host.attach_netns((lab.port(lab.record(0), 3, 2),))
    taps = await host.attach_taps((lab.port(lab.record(0), 4, 3),))
    serve = ["nsenter", f"--net={held.path}", sys.executable, "-m", "http.server", "80"]
    web = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    await host.set_names("a1", [("net0", "web", "10.186.0.2"), ("net1", "web", "10.186.1.2")])
    await host.set_names("b2", [("net0", "orphan", "10.186.0.3")])
    await host.publish("a1", "10.186.0.2", (PortMapping(80, 8080),))
    await host.publish("b2", "10.186.0.3", (PortMapping(80, 8081),))
    print(json.dumps({"web": web.pid}), flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def http(address: str, number: int) -> bool:
    try:
        with socket.create_connection((address, number), timeout=lab.REFUSED) as peer:
            peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return peer.recv(100).startswith(b"HTTP/1.0 200")
    except OSError:
        return False


async def test_kill_9_then_sync(where: Home, tmp_path: Path) -> None:
    child = await proc.start([sys.executable, "-c", CHILD, str(tmp_path)], env={"PYTHONPATH": str(REPOSITORY)}, cwd=REPOSITORY, stdout=-1)
    assert child.stdout
    web = json.loads(await child.stdout.readline())["web"]
    try:
        await until(lambda: http("127.0.0.1", 8080))
        resolvers = set(strays(where.run / "dns", ()))
        assert len(resolvers) == 3, "one per network, one for the instance on both"
        child.kill()
        await child.wait()
        prefix = f"th{where.tag}"
        await until(
            lambda: {name for name in interfaces() if name.startswith(prefix)} == {prefix + end for end in ("b0", "b1", "v0", "v1")}
        )
        assert http("127.0.0.1", 8080), "the workload goes on without a daemon"
        await _successor(where, resolvers)
    finally:
        os.kill(web, signal.SIGKILL)
        await proc.wait_pid(web)
        await proc.end(child)
    await until(lambda: not [name for name in interfaces() if name.startswith(prefix)])
    assert lab.leftovers(where) == []


async def _successor(where: Home, resolvers: set[int]) -> None:
    ports = (lab.port(FRONT, 2, 0), lab.port(BACK, 2, 1, ifname="eth1", default=False))
    names = ((FRONT.id, "web", "10.186.0.2"), (BACK.id, "web", "10.186.1.2"))
    survivor = Attached("a1", "web", ports, names, "10.186.0.2", (PortMapping(80, 8080),))
    lost = Attached("c3", "lost", (lab.port(FRONT, 5, 5),), (), "10.186.0.5")
    host = NetworkHost(where)
    await host.open()
    assert http("127.0.0.1", 8080)
    report = await host.sync((FRONT, BACK), (survivor, lost))
    assert report.missing == ("c3",)
    assert report.conflicts == ()
    assert http("127.0.0.1", 8080)
    assert set(strays(where.run / "dns", ())) == resolvers, "adopted, not restarted"
    with pytest.raises(OSError, match="in use"):
        lab.Server(None, 8080)
    assert "10.186.0.3" not in str(elements(where.nft_table))
    fresh = await host.attach_netns((lab.port(FRONT, 3, 2),))
    assert lab.inside(fresh, lab.resolve, "10.186.0.1", "web") == (0, ["10.186.0.2"])
    assert lab.inside(fresh, lab.resolve, "10.186.0.1", "orphan") == (3, [])
    fresh.close()
    await host.sync((FRONT, BACK), ())
    assert "10.186.0.2" not in str(elements(where.nft_table))
    await host.close(remove=True)


async def test_sync_restores_what_somebody_took_away(host: NetworkHost, where: Home) -> None:
    port = lab.port(FRONT, 2, 0)
    held = await host.attach_netns((port,))
    await host.publish("a1", "10.186.0.2", (PortMapping(80, 8080),))
    lab.Server(held, 80)
    nft = Nft()
    nft.run("flush ruleset")
    nft.close()
    with Netlink() as link:
        link.request(links.delete_link(socket.if_nametoindex(host.bridge(FRONT))))
        index = socket.if_nametoindex(host.bridge(FRONT).replace("b0", "v0"))
        link.request((17 + 8, 0, links.route(index, "10.186.0.2", 32)[2]))
    for pid in strays(where.run / "dns", ()):
        os.kill(pid, signal.SIGKILL)
        await proc.wait_pid(pid)
    attached = Attached("a1", "web", (port,), ((FRONT.id, "web", "10.186.0.2"),), "10.186.0.2", (PortMapping(80, 8080),))
    report = await host.sync((FRONT, BACK), (attached,))
    assert report.missing == ()
    assert lab.ask_tcp("127.0.0.1", 8080) == "10.186.0.1"
    assert lab.inside(held, lab.resolve, "10.186.0.1", "web") == (0, ["10.186.0.2"])
    held.close()


async def test_sync_tells_of_a_port_that_was_taken_meanwhile(host: NetworkHost) -> None:
    port = lab.port(FRONT, 2, 0)
    held = await host.attach_netns((port,))
    thief = lab.Server(None, 8080)
    report = await host.sync((FRONT, BACK), (Attached("a1", "web", (port,), (), "10.186.0.2", (PortMapping(80, 8080),)),))
    assert report.conflicts == (("a1", "port 8080/tcp is already taken by another program"),)
    assert lab.ask_tcp("127.0.0.1", 8080) == "127.0.0.1", "its traffic isn't stolen"
    thief.close()
    held.close()
