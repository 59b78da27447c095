"""What reaches what, and with which address: networks, policy, published ports, the machine's own services."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration import network_lab as lab

from twinhull import home
from twinhull.errors import ConflictError, UserError
from twinhull.network import links, netns, rules
from twinhull.spec.instance import PortMapping
from twinhull.sys.libnftables import Nft
from twinhull.sys.netlink import Netlink

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FRONT, BACK, CLOSED = lab.record(0), lab.record(1), lab.record(2, internal=True)


@pytest.fixture
async def stage(space: None, tmp_path: Path) -> AsyncIterator[lab.Stage]:
    async with lab.staged(home.at(tmp_path), (FRONT, BACK, CLOSED)) as made:
        yield made


async def test_same_network_keeps_client_addresses(stage: lab.Stage) -> None:
    client, server = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(FRONT, 3, 1))
    stage.serve(server, 80)
    stage.serve(server, 90, socket.SOCK_DGRAM)
    assert lab.inside(client, lab.ask_tcp, "10.186.0.3", 80) == "10.186.0.2"
    assert lab.inside(client, lab.ask_udp, "10.186.0.3", 90) == "10.186.0.2"
    assert lab.inside(client, lab.ping, "10.186.0.3")
    assert lab.inside(client, lab.ask_tcp, "127.0.0.1", 80) == "refused"


async def test_an_address_where_nobody_is_is_said_at_once(stage: lab.Stage) -> None:
    """Also to this machine's own programs, which would wait three seconds for ARP; a gateway must try another instance."""
    client, gone = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(FRONT, 3, 1))
    for where in (client, None):
        assert lab.inside(where, lab.ask_tcp, "10.186.0.9", 80, 1) == "unreachable"
    stage.spaces.remove(gone)
    gone.close()
    await stage.host.detach((lab.port(FRONT, 3, 1),))
    for where in (client, None):
        assert lab.inside(where, lab.ask_tcp, "10.186.0.3", 80, 1) == "unreachable"
    stage.serve(None, 7000)
    assert lab.ask_tcp("10.186.0.1", 7000) == "10.186.0.1"
    assert lab.resolve("10.186.0.1", "web", timeout=lab.REFUSED) == (-1, []), "the resolver is for instances"


async def test_other_network_is_denied(stage: lab.Stage) -> None:
    client, server = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(BACK, 2, 1))
    stage.serve(server, 80)
    stage.serve(server, 90, socket.SOCK_DGRAM)
    assert lab.inside(client, lab.ask_tcp, "10.186.1.2", 80) == "refused"
    assert lab.inside(client, lab.ask_udp, "10.186.1.2", 90, lab.REFUSED) in ("silence", "unreachable")
    assert not lab.inside(client, lab.ping, "10.186.1.2", lab.REFUSED)
    assert not lab.inside(client, lab.ping, "10.186.1.1", lab.REFUSED)


async def test_two_networks_reach_both_sides(stage: lab.Stage) -> None:
    front, back = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(BACK, 2, 1))
    both = await stage.instance(lab.port(FRONT, 9, 2), lab.port(BACK, 9, 3, ifname="eth1", default=False))
    stage.serve(front, 80)
    stage.serve(back, 80)
    assert lab.inside(both, lab.ask_tcp, "10.186.0.2", 80) == "10.186.0.9"
    assert lab.inside(both, lab.ask_tcp, "10.186.1.2", 80) == "10.186.1.9"


async def test_published_port_from_outside_keeps_the_client(stage: lab.Stage) -> None:
    server = await stage.instance(lab.port(FRONT, 3, 0))
    stage.serve(server, 80)
    stage.serve(server, 90, socket.SOCK_DGRAM)
    with lab.outside() as other:
        mappings = (PortMapping(80, 8080), PortMapping(90, 9090, protocol="udp"))
        assert await stage.host.publish("a1", "10.186.0.3", mappings) == mappings
        assert lab.inside(other, lab.ask_tcp, "192.0.2.1", 8080) == "192.0.2.2"
        assert lab.inside(other, lab.ask_udp, "192.0.2.1", 9090) == "192.0.2.2"
        await stage.host.unpublish("a1")
        assert lab.inside(other, lab.ask_tcp, "192.0.2.1", 8080) == "refused"
        assert lab.inside(other, lab.ask_udp, "192.0.2.1", 9090, lab.REFUSED) == "refused"


async def test_published_port_from_this_machine(stage: lab.Stage) -> None:
    server = await stage.instance(lab.port(FRONT, 3, 0))
    stage.serve(server, 80)
    stage.serve(server, 90, socket.SOCK_DGRAM)
    with lab.outside():
        await stage.host.publish("a1", "10.186.0.3", (PortMapping(80, 8080), PortMapping(90, 9090, protocol="udp")))
        assert lab.ask_tcp("127.0.0.1", 8080) == "10.186.0.1"
        assert lab.ask_udp("127.0.0.1", 9090) == "10.186.0.1"
        assert lab.ask_tcp("192.0.2.1", 8080) == "192.0.2.1"


async def test_published_port_from_instances(stage: lab.Stage) -> None:
    server, same = await stage.instance(lab.port(FRONT, 3, 0)), await stage.instance(lab.port(FRONT, 2, 1))
    other, internal = await stage.instance(lab.port(BACK, 2, 2)), await stage.instance(lab.port(CLOSED, 2, 3))
    stage.serve(server, 80)
    with lab.outside():
        await stage.host.publish("a1", "10.186.0.3", (PortMapping(80, 8080),))
        assert lab.inside(same, lab.ask_tcp, "192.0.2.1", 8080) == "10.186.0.2"
        assert lab.inside(same, lab.ask_tcp, "10.186.0.1", 8080) == "10.186.0.2"
        assert lab.inside(other, lab.ask_tcp, "192.0.2.1", 8080) == "10.186.1.2"
        assert lab.inside(server, lab.ask_tcp, "192.0.2.1", 8080) == "10.186.0.1", "an instance that calls itself"
        assert lab.inside(internal, lab.ask_tcp, "192.0.2.1", 8080, lab.REFUSED) != "10.186.2.2"
        assert lab.inside(other, lab.ask_tcp, "10.186.0.3", 80) == "refused", "published, but only as published"


async def test_published_on_one_address_only(stage: lab.Stage) -> None:
    server = await stage.instance(lab.port(FRONT, 3, 0))
    stage.serve(server, 80)
    with lab.outside() as other:
        await stage.host.publish("a1", "10.186.0.3", (PortMapping(80, 8080, "127.0.0.1"), PortMapping(80, 8081, "192.0.2.1")))
        assert lab.ask_tcp("127.0.0.1", 8080) == "10.186.0.1"
        assert lab.inside(other, lab.ask_tcp, "192.0.2.1", 8080) == "refused"
        assert lab.inside(other, lab.ask_tcp, "192.0.2.1", 8081) == "192.0.2.2"
        assert lab.ask_tcp("127.0.0.1", 8081) == "refused"


async def test_loopback_of_the_machine_is_out_of_reach(stage: lab.Stage) -> None:
    """The bridges route 127.0.0.0/8 for published ports; nobody else may profit from that."""
    client = await stage.instance(lab.port(FRONT, 2, 0))
    stage.serve(None, 7000, host="127.0.0.1")
    await stage.host.publish("a1", "10.186.0.2", (PortMapping(80, 8080, "127.0.0.1"),))
    with netns.enter(client.descriptor, {})[1] as link:
        link.request(links.route(2, "127.0.0.0", 8, via="10.186.0.1"))
    lab.inside(client, netns.write_sysctl, "net.ipv4.conf.all.route_localnet", "1")
    assert lab.inside(client, _ask_from, "10.186.0.2", "127.0.0.1", 7000) != "10.186.0.2"
    with lab.outside() as other:
        lab.inside(other, netns.write_sysctl, "net.ipv4.conf.all.route_localnet", "1")
        with netns.enter(other.descriptor, {})[1] as link:
            link.request(links.route(2, "127.0.0.0", 8, via="192.0.2.1"))
        assert lab.inside(other, _ask_from, "192.0.2.2", "127.0.0.1", 7000) != "192.0.2.2"


def _ask_from(source: str, address: str, number: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if number < 0 else socket.SOCK_STREAM) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        peer.settimeout(lab.REFUSED)
        try:
            peer.bind((source, 0))
            peer.connect((address, number))
            return peer.recv(100).decode()
        except OSError as error:
            return str(error)


async def test_services_of_the_machine_are_out_of_reach(stage: lab.Stage) -> None:
    client = await stage.instance(lab.port(FRONT, 2, 0))
    stage.serve(None, 7000)
    stage.serve(None, 7001, socket.SOCK_DGRAM)
    with lab.outside():
        for address in ("10.186.0.1", "10.186.1.1", "192.0.2.1"):
            assert lab.inside(client, lab.ask_tcp, address, 7000) == "refused"
            assert lab.inside(client, lab.ask_udp, address, 7001, lab.REFUSED) in ("silence", "unreachable")
        assert lab.inside(client, lab.ping, "10.186.0.1")
        assert not lab.inside(client, lab.ping, "192.0.2.1", lab.REFUSED)


async def test_host_access_opens_them(stage: lab.Stage) -> None:
    opened = lab.record(5, host_access=True)
    await stage.host.ensure(opened)
    client = await stage.instance(lab.port(opened, 2, 0))
    stage.serve(None, 7000)
    assert lab.inside(client, lab.ask_tcp, "10.186.5.1", 7000) == "10.186.5.2"


async def test_metadata_is_blocked(stage: lab.Stage) -> None:
    client = await stage.instance(lab.port(FRONT, 2, 0))
    stage.serve(None, 80)
    with lab.outside(), Netlink() as link:
        link.request(links.address(socket.if_nametoindex("lo"), "169.254.169.254", 32))
        assert lab.inside(client, lab.ask_tcp, "169.254.169.254", 80, lab.REFUSED) in ("unreachable", "refused")
    with lab.outside("169.254.7") as other:
        stage.serve(other, 80)
        assert lab.ask_tcp("169.254.7.2", 80) == "169.254.7.1"
        assert lab.inside(client, lab.ask_tcp, "169.254.7.2", 80, lab.REFUSED) in ("unreachable", "refused")


async def test_ipv6_has_no_path(stage: lab.Stage) -> None:
    """Neither to the machine nor between instances, even for one that configures itself."""
    first, second = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(FRONT, 3, 1))
    for held in (first, second):
        assert [line.split()[5] for line in lab.inside(held, _read, "/proc/thread-self/net/if_inet6").splitlines()] == ["lo"]
        lab.inside(held, netns.write_sysctl, "net/ipv6/conf/eth0/disable_ipv6", "0")
    stage.serve(second, 80, family=socket.AF_INET6, host="::")
    stage.serve(None, 7000, family=socket.AF_INET6, host="::")
    bridges = _read("/proc/thread-self/net/if_inet6").split()
    assert stage.host.bridge(FRONT) not in bridges
    for target, number in (("fe80::74ff:fe58:3", 80), ("fe80::74:aff:fe58:3", 80), ("ff02::1", 7000), ("fe80::74:aff:fe58:1", 7000)):
        assert lab.inside(first, _ask6, target, number) != "answered"


def _ask6(address: str, number: int) -> str:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as peer:
        peer.settimeout(lab.REFUSED)
        try:
            peer.connect((address, number, 0, socket.if_nametoindex("eth0")))
        except OSError as error:
            return str(error)
        return "answered"


def _read(path: str) -> str:
    return Path(path).read_text()


async def test_egress_is_translated_and_internal_has_none(stage: lab.Stage) -> None:
    client, internal = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(CLOSED, 2, 1))
    peer = await stage.instance(lab.port(CLOSED, 3, 2))
    with lab.outside() as other:
        stage.serve(other, 80)
        stage.serve(peer, 80)
        assert lab.inside(client, lab.ask_tcp, "192.0.2.2", 80) == "192.0.2.1"
        assert lab.inside(internal, lab.ask_tcp, "192.0.2.2", 80, lab.REFUSED) == "unreachable", "no default route"
        with netns.enter(internal.descriptor, {})[1] as link:
            link.request(links.route(2, "0.0.0.0", 0, via="10.186.2.1"))
        assert lab.inside(internal, lab.ask_tcp, "192.0.2.2", 80, lab.REFUSED) == "refused", "and no way with one"
        assert lab.inside(internal, lab.ask_tcp, "10.186.2.3", 80) == "10.186.2.2"


async def test_outside_reaches_nothing_unpublished(stage: lab.Stage) -> None:
    server = await stage.instance(lab.port(FRONT, 3, 0))
    stage.serve(server, 80)
    await stage.host.set_names("a1", [("net0", "web", "10.186.0.3")])
    with lab.outside() as other:
        with netns.enter(other.descriptor, {})[1] as link:
            link.request(links.route(2, "10.186.0.0", 16, via="192.0.2.1"))
        assert lab.inside(other, lab.ask_tcp, "10.186.0.3", 80, lab.REFUSED) == "silence"
        assert lab.inside(other, lab.resolve, "10.186.0.1", "web", timeout=lab.REFUSED) == (-1, [])


async def test_nobody_can_pretend_to_be_another(stage: lab.Stage) -> None:
    """Root inside (a VM is always root) takes a neighbour's address, its MAC, or both."""
    thief, victim = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(FRONT, 3, 1))
    server = await stage.instance(lab.port(FRONT, 4, 2))
    seen = stage.serve(server, 90, socket.SOCK_DGRAM)
    assert seen
    with netns.enter(thief.descriptor, {})[1] as link:
        link.request(links.address(2, "10.186.0.3", 32))
        assert lab.inside(thief, _ask_udp_from, "10.186.0.3", "10.186.0.4", 90) == "silence"
        link.request((16, 0, links.up(2)[2] + lab.attribute_mac(lab.port(FRONT, 3, 1).interface.mac)))
        assert lab.inside(thief, _ask_udp_from, "10.186.0.3", "10.186.0.4", 90) == "silence"
    assert lab.inside(victim, lab.ask_udp, "10.186.0.4", 90) == "10.186.0.3", "and the victim still gets its own"


def _ask_udp_from(source: str, address: str, number: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(lab.REFUSED)
        peer.bind((source, 0))
        peer.sendto(b"?", (address, number))
        with contextlib.suppress(TimeoutError):
            return peer.recv(100).decode()
        return "silence"


async def test_conflicts_name_the_holder(stage: lab.Stage) -> None:
    await stage.host.publish("a1", "10.186.0.2", (PortMapping(80, 8080),), name="web")
    with pytest.raises(ConflictError, match="port 8080/tcp is already taken by web"):
        await stage.host.publish("b2", "10.186.0.3", (PortMapping(80, 8081), PortMapping(80, 8080)))
    with pytest.raises(OSError, match="in use"):
        lab.Server(None, 8080)
    stage.serve(None, 8081)
    with pytest.raises(ConflictError, match="port 8081/tcp is already taken by another program"):
        await stage.host.publish("b2", "10.186.0.3", (PortMapping(80, 8081),))
    with pytest.raises(UserError, match="not an address of this machine"):
        await stage.host.publish("b2", "10.186.0.3", (PortMapping(80, 8082, "198.51.100.7"),))
    chosen = await stage.host.publish("b2", "10.186.0.3", (PortMapping(80), PortMapping(53, protocol="udp")))
    assert all(mapping.host_port >= 1024 for mapping in chosen)
    assert await stage.host.publish("b2", "10.186.0.3", chosen) == chosen
    await stage.host.unpublish("a1")
    await stage.host.publish("b2", "10.186.0.3", (*chosen, PortMapping(80, 8080)))


async def test_udp_flow_follows_the_port(stage: lab.Stage) -> None:
    """A peer that keeps its source port reaches the new instance, not the old one's grave."""
    first, second = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(FRONT, 3, 1))
    for held in (first, second):
        stage.serve(held, 90, socket.SOCK_DGRAM)
    port = (PortMapping(90, 9090, protocol="udp"),)
    with lab.outside() as other, lab.inside(other, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(lab.TIMEOUT)
        peer.bind(("", 4000))
        peer.sendto(b"?", ("192.0.2.1", 9090))  # before anybody listens: the flow is tracked without translation
        await stage.host.publish("a1", "10.186.0.2", port)
        peer.sendto(b"?", ("192.0.2.1", 9090))
        assert peer.recv(100) == b"192.0.2.2"
        stage.servers[0].close()
        await stage.host.unpublish("a1")
        await stage.host.publish("b2", "10.186.0.3", port)
        peer.sendto(b"?", ("192.0.2.1", 9090))
        assert peer.recv(100) == b"192.0.2.2"


async def test_100_mb_through_translation_are_unbroken(stage: lab.Stage) -> None:
    """Segmentation and checksum offload through veth, forward chain and DNAT."""
    client, server = await stage.instance(lab.port(BACK, 2, 0)), await stage.instance(lab.port(FRONT, 3, 1))
    block = os.urandom(1 << 20)
    expected = hashlib.sha256(block * 100).hexdigest()
    listener = lab.inside(server, socket.create_server, ("", 80))
    with lab.outside(), listener:
        await stage.host.publish("a1", "10.186.0.3", (PortMapping(80, 8080),))
        sender = lab.inside(client, socket.create_connection, ("192.0.2.1", 8080))
        receiver, _ = listener.accept()
        with receiver:
            assert _pump(sender, receiver, block) == expected


def _pump(sender: socket.socket, receiver: socket.socket, block: bytes) -> str:
    import threading

    def send() -> None:
        with sender:
            for _ in range(100):
                sender.sendall(block)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    digest = hashlib.sha256()
    while data := receiver.recv(1 << 20):
        digest.update(data)
    thread.join()
    return digest.hexdigest()


async def test_mtu_is_the_networks(stage: lab.Stage) -> None:
    small = lab.record(6, mtu=1400)
    await stage.host.ensure(small)
    held = await stage.instance(lab.port(small, 2, 0))
    with Netlink() as link, netns.enter(held.descriptor, {})[1] as inner:
        mtus = {entry.name: entry.mtu for entry in links.all_links(link) if entry.name.startswith("th")}
        assert mtus[stage.host.bridge(small)] == 1400
        assert {mtu for name, mtu in mtus.items() if "v" in name[7:8]} == {1400}
        assert {entry.mtu for entry in links.all_links(inner) if entry.name == "eth0"} == {1400}


async def test_taps_are_routed_and_go_with_their_descriptor(stage: lab.Stage) -> None:
    ports = (lab.port(FRONT, 2, 7), lab.port(BACK, 2, 8, ifname="eth1", default=False))
    descriptors = await stage.host.attach_taps(ports)
    name = stage.host.bridge(FRONT).replace("b0", "t7")
    with Netlink() as link:
        found = {entry.name: entry for entry in links.all_links(link)}
        assert found[name].up
        assert found[name].kind == "tun"
        assert links.Route("10.186.0.2/32", found[name].index) in links.all_routes(link)
    assert Path(f"/sys/class/net/{name}").name == name
    for descriptor in descriptors:
        os.close(descriptor)
    with Netlink() as link:
        assert not [entry.name for entry in links.all_links(link) if entry.kind == "tun"]
    await stage.host.detach(ports)


async def test_flushed_ruleset_is_written_again(stage: lab.Stage) -> None:
    first, second = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(FRONT, 3, 1))
    stage.serve(second, 80)
    nft = Nft()
    nft.run("flush ruleset")
    nft.close()
    assert await stage.host._workers.quick(stage.host._workers.table.repair)
    assert not await stage.host._workers.quick(stage.host._workers.table.repair)
    assert lab.inside(first, lab.ask_tcp, "10.186.0.3", 80) == "10.186.0.2"
    stage.serve(None, 7000)
    assert lab.inside(first, lab.ask_tcp, "10.186.0.1", 7000) == "refused"


async def test_a_ruleset_that_is_flushed_in_the_middle_of_a_sync_is_written_again(
    stage: lab.Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await stage.instance(lab.port(FRONT, 2, 0)), await stage.instance(lab.port(FRONT, 3, 1))
    stage.serve(second, 80)
    table, real, flushed = stage.host._workers.table, Nft.run, []

    def run(nft: Nft, commands: str) -> str:
        if commands.startswith("delete element") and "10.186.0.99" in commands:
            flushed.append(real(nft, "flush ruleset"))
        return real(nft, commands)

    def sync() -> None:
        table._nft.run(f"add element inet {table._name} {rules.REACHED['tcp']} {{ 10.186.0.99 }}")
        table.reset(dict(table._owned))

    monkeypatch.setattr(Nft, "run", run)
    await stage.host._workers.quick(sync)
    assert flushed
    assert not await stage.host._workers.quick(table.repair)
    assert lab.inside(first, lab.ask_tcp, "10.186.0.3", 80) == "10.186.0.2"


async def test_other_firewalls_are_left_alone_and_found(stage: lab.Stage) -> None:
    nft = Nft()
    text = "add table ip filter\nadd chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }\n"
    nft.run(text)
    before = nft.run("list table ip filter")
    await stage.host.ensure(lab.record(9))
    assert await stage.host.foreign_policies() == ("ip filter FORWARD (hook forward, policy drop)",)
    assert nft.run("list table ip filter") == before
    nft.run("delete table ip filter")
    nft.close()
