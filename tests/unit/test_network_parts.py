"""Files inside instances, resolver configuration, port reservations, netlink framing: the parts that need no privileges."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinhull.errors import ConflictError, UserError
from twinhull.network import dns, files
from twinhull.network.host import interface
from twinhull.network.publishing import Reservations, normal
from twinhull.spec.instance import PortMapping
from twinhull.spec.network import NetworkRecord
from twinhull.sys import netlink

FRONT = NetworkRecord("n1", "front", 1, "10.88.1.0/24", "10.88.1.1", mtu=1400)
CLOSED = NetworkRecord("n2", "closed", 2, "10.88.2.0/24", "10.88.2.1", internal=True)


# files


def test_hosts_has_own_name_and_extra_hosts() -> None:
    text = files.hosts(
        "web.shop.test", ["10.88.1.2", "10.88.2.2"], ["db:10.0.0.9", "me:host-gateway", "six=[fd00::1]"], "10.88.1.1", ["w1"]
    ).decode()
    assert text.splitlines()[0] == "127.0.0.1\tlocalhost"
    assert text.splitlines()[-5:] == [
        "10.0.0.9\tdb",
        "10.88.1.1\tme",
        "fd00::1\tsix",
        "10.88.1.2\tweb.shop.test web w1",
        "10.88.2.2\tweb.shop.test web w1",
    ]


def test_hosts_without_network_still_knows_the_own_name() -> None:
    assert files.hosts("box", []).decode().splitlines()[-1] == "127.0.1.1\tbox"


@pytest.mark.parametrize("text", ["db", "db:", ":10.0.0.1", "db:10.0.0.256", "a b:10.0.0.1", "x\ny:10.0.0.1", "me:host-gateway"])
def test_bad_extra_hosts_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        files.hosts("box", [], [text])


def test_resolv_conf_follows_docker() -> None:
    assert files.resolv_conf("10.88.1.1") == b"nameserver 10.88.1.1\noptions ndots:0\n"
    assert (
        files.resolv_conf("10.88.1.1", ["9.9.9.9"], ["a.test", "b.test"])
        == b"nameserver 10.88.1.1\nsearch a.test b.test\noptions ndots:0\n"
    )
    assert files.resolv_conf("10.88.1.1", ["127.0.0.1"], ["."]) == b"nameserver 127.0.0.1\noptions ndots:0\n"
    assert files.resolv_conf("", ["9.9.9.9", "fd00::53"]) == b"nameserver 9.9.9.9\nnameserver fd00::53\noptions ndots:0\n"
    with pytest.raises(UserError):
        files.resolv_conf("10.88.1.1", (), ["a\nnameserver 6.6.6.6"])
    with pytest.raises(UserError):
        files.check_dns(["dns.test"])


# interfaces


def test_the_default_interface_has_the_default_route() -> None:
    found = interface(FRONT, "10.88.1.2")
    assert (found.default, found.routes, found.mtu, found.mac) == (True, (), 1400, "02:74:0a:58:01:02")


def test_others_and_internal_ones_reach_their_subnet_only() -> None:
    assert interface(FRONT, "10.88.1.2", default=False).routes == ("10.88.1.0/24",)
    found = interface(CLOSED, "10.88.2.2", mac="02:00:00:00:00:09")
    assert (found.default, found.routes, found.mac) == (False, ("10.88.2.0/24",), "02:00:00:00:00:09")


# resolvers


def test_a_view_is_named_by_its_networks() -> None:
    third = NetworkRecord("n3", "x", 26, "10.88.3.0/24", "10.88.3.1")
    assert dns.View((FRONT,)).name == "1"
    assert dns.View((FRONT, third, CLOSED)).name == dns.View((FRONT, CLOSED, third)).name == "1-2-1a"
    assert dns.View((FRONT,), ("9.9.9.9",)).name != dns.View((FRONT,), ("1.1.1.1",)).name


def test_the_resolver_listens_on_the_gateway_and_asks_outside_only_where_allowed() -> None:
    def lines(*records: NetworkRecord, servers: tuple[str, ...] = ()) -> list[str]:
        return dns.configuration(dns.View(records, servers), 10053, [Path("/n/1")], Path("/r/1.pid"), "dnsmasq").splitlines()

    plain = lines(FRONT)
    for line in (
        "port=10053",
        "listen-address=10.88.1.1",
        "bind-interfaces",
        "no-hosts",
        "hostsdir=/n/1",
        "user=dnsmasq",
        "local=/1.88.10.in-addr.arpa/",
    ):
        assert line in plain
    assert "resolv-file=/etc/resolv.conf" in plain
    assert "no-resolv" in lines(CLOSED)
    assert "resolv-file=/etc/resolv.conf" in lines(CLOSED, FRONT), "it may go out through the other network"
    asked = lines(FRONT, servers=("9.9.9.9",))
    assert "server=9.9.9.9" in asked
    assert "no-resolv" in asked
    assert not [line for line in lines(CLOSED, servers=("9.9.9.9",)) if line.startswith("server=")]
    assert not [line for line in plain if line.startswith("dhcp")]


@pytest.mark.parametrize("server", ["dns.test", "9.9.9.9\nserver=/#/6.6.6.6", "9.9.9.9 x", ""])
def test_a_server_cannot_smuggle_configuration(server: str) -> None:
    with pytest.raises(UserError):
        dns.configuration(dns.View((FRONT,), (server,)), 10053, [], Path("/p"), "dnsmasq")


# reservations


@pytest.fixture
def reserved() -> Iterator[Reservations]:
    made = Reservations()
    yield made
    made.close()


def local(port: int = 0, container_port: int = 80, protocol: str = "tcp") -> PortMapping:
    return PortMapping(container_port, port, "127.0.0.1", protocol)


def bind(port: int) -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno or -1
    return 0


def test_a_free_port_is_chosen_held_and_given_back(reserved: Reservations) -> None:
    (chosen,) = reserved.reserve("a", "web", [local()])
    assert bind(chosen.host_port) == errno.EADDRINUSE
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", chosen.host_port), timeout=1)
    reserved.release("a")
    reserved.release("a")
    assert bind(chosen.host_port) == 0


def test_asking_again_keeps_the_port(reserved: Reservations) -> None:
    (chosen,) = reserved.reserve("a", "web", [local()])
    assert reserved.reserve("a", "web", [local()]) == (chosen,)
    assert reserved.reserve("a", "web", [chosen]) == (chosen,)
    again = reserved.reserve("a", "web", [chosen, local(container_port=81)])
    assert again[0] == chosen
    assert reserved.mappings("a") == again
    assert reserved.reserve("a", "web", []) == ()
    assert bind(chosen.host_port) == 0


def test_all_or_nothing(reserved: Reservations) -> None:
    (mine,) = reserved.reserve("a", "web", [local()])
    (theirs,) = reserved.reserve("b", "db", [local()])
    with pytest.raises(ConflictError, match=f"port {mine.host_port}/tcp is already taken by web"):
        reserved.reserve("b", "db", [local(container_port=99), mine])
    assert reserved.mappings("b") == (theirs,)
    wide = PortMapping(80, mine.host_port)
    with pytest.raises(ConflictError, match="already taken by web"):
        reserved.reserve("b", "db", [wide])


def test_the_same_mapping_twice_is_one(reserved: Reservations) -> None:
    (chosen,) = reserved.reserve("a", "web", [local()])
    reserved.release("a")
    assert reserved.reserve("a", "web", [chosen, chosen]) == (chosen,)


def test_udp_and_tcp_do_not_collide(reserved: Reservations) -> None:
    (chosen,) = reserved.reserve("a", "web", [local()])
    assert reserved.reserve("b", "dns", [local(chosen.host_port, 53, "udp")])


@pytest.mark.parametrize(
    "mapping",
    [
        PortMapping(0),
        PortMapping(70000),
        PortMapping(80, 70000),
        PortMapping(80, -1),
        PortMapping(80, protocol="sctp"),
        PortMapping(80, 1, "::1"),
        PortMapping(80, 1, "x"),
    ],
)
def test_bad_mappings_are_refused(mapping: PortMapping) -> None:
    with pytest.raises(UserError):
        normal(mapping)


# netlink framing


def test_attributes_survive_packing() -> None:
    packed = netlink.attribute(1, b"abc") + netlink.attribute(2, 7) + netlink.nest(3, netlink.attribute(4, "eth0"))
    assert len(packed) % 4 == 0
    found = netlink.attributes(packed)
    assert found[1] == b"abc"
    assert found[2] == struct.pack("=I", 7)
    assert netlink.attributes(found[3]) == {4: b"eth0\0"}


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", b"\x03\0\1\0", b"\xff\xff\1\0abc", b"\x08\0"])
def test_malformed_attributes_end_the_walk(data: bytes) -> None:
    assert netlink.attributes(data) == {}


def test_the_kernels_refusal_is_told_in_its_own_words() -> None:
    with netlink.Netlink() as link:
        answers = link.attempt((18, 0, struct.pack("=BxHiII", 0, 0, 0x7FFFFFF0, 0, 0)), (18, 0, struct.pack("=BxHiII", 0, 0, 1, 0, 0)))
        assert answers[0] is not None
        assert answers[0].errno == errno.ENODEV
        assert answers[1] is None
