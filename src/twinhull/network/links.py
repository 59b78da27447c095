"""rtnetlink messages for bridges, ports, addresses, routes and neighbours. Pure builders, and readers of dumps.

Constants: linux/rtnetlink.h, if_link.h, ip.h (IPV4_DEVCONF_*), neighbour.h, veth.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from twinhull.sys import netlink
from twinhull.sys.netlink import attribute, message, nest

Message = tuple[int, int, bytes]

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR = 20
_NEWROUTE, _GETROUTE = 24, 26
_NEWNEIGH = 28
_NEW = netlink.CREATE | netlink.EXCL
_PUT = netlink.CREATE | netlink.REPLACE

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 1, 3, 4, 18, 26, 28
_KIND, _DATA = 1, 2
_VETH_PEER = 1
_BR_FORWARD_DELAY, _BR_STP, _BR_MCAST_SNOOPING = 1, 5, 23
_INET_CONF = 1
FORWARDING, ACCEPT_REDIRECTS, SEND_REDIRECTS, RP_FILTER, ARP_IGNORE, ROUTE_LOCALNET = 1, 4, 6, 8, 19, 26
"""Numbers of net.ipv4.conf.<interface> settings, for `settings`."""
_UP = 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_TABLE_MAIN, _TABLE_LOCAL, _PROTO_STATIC, _TYPE_UNICAST = 254, 255, 4, 1
_PERMANENT = 0x80


@dataclass(frozen=True, slots=True)
class Link:
    """What a dump says about an interface. `kind`: bridge, veth, tun …, "" for hardware."""

    index: int
    name: str
    mtu: int
    kind: str
    up: bool


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 destination (CIDR) that is routed, or local, on the interface `index`."""

    destination: str
    index: int


def packed_mac(text: str) -> bytes:
    """Six bytes."""
    return bytes.fromhex(text.replace(":", ""))


def bridge(name: str, mac: str, mtu: int) -> Message:
    """A new bridge: no spanning tree, no delay, no multicast snooping, a fixed MAC."""
    data = nest(_DATA, attribute(_BR_FORWARD_DELAY, 0), attribute(_BR_STP, 0), attribute(_BR_MCAST_SNOOPING, b"\0"))
    info = nest(_IFLA_LINKINFO, attribute(_KIND, "bridge"), data)
    return message(_NEWLINK, _NEW, _link(), attribute(_IFLA_IFNAME, name), *_hardware(mac, mtu), info)


@dataclass(frozen=True, slots=True)
class Inside:
    """The end of a veth that goes into a network namespace (an open descriptor), with its index there."""

    ifname: str
    mac: str
    netns: int
    index: int


def veth(name: str, mac: str, mtu: int, inside: Inside) -> Message:
    """A new pair, down: one end here, the other already in its namespace under its final name."""
    parts = (attribute(_IFLA_IFNAME, inside.ifname), *_hardware(inside.mac, mtu), attribute(_IFLA_NET_NS_FD, inside.netns))
    peer = _link(inside.index) + b"".join(parts)
    info = nest(_IFLA_LINKINFO, attribute(_KIND, "veth"), nest(_DATA, attribute(_VETH_PEER | 0x8000, peer)))
    return message(_NEWLINK, _NEW, _link(), attribute(_IFLA_IFNAME, name), *_hardware(mac, mtu), info)


def settings(index: int, values: Mapping[int, int]) -> Message:
    """net.ipv4.conf settings of one interface, without a detour through /proc/sys."""
    conf = nest(_INET_CONF, *(attribute(kind, value) for kind, value in values.items()))
    return message(_NEWLINK, 0, _link(index), nest(_IFLA_AF_SPEC, nest(socket.AF_INET, conf)))


def hardware(index: int, mac: str, mtu: int) -> Message:
    """Set an interface's MAC and its largest packet in bytes."""
    return message(_NEWLINK, 0, _link(index), *_hardware(mac, mtu))


def rename(index: int, name: str) -> Message:
    """Another name for an interface that is down."""
    return message(_NEWLINK, 0, _link(index), attribute(_IFLA_IFNAME, name))


def up(index: int) -> Message:
    """Set an interface up."""
    return message(_NEWLINK, 0, _link(index, _UP, _UP))


def delete_link(index: int) -> Message:
    """Remove an interface (a veth: with its other end)."""
    return message(_DELLINK, 0, _link(index))


def address(index: int, text: str, prefix: int) -> Message:
    """Give an interface an IPv4 address."""
    raw = socket.inet_aton(text)
    return message(_NEWADDR, _PUT, struct.pack("=BBBBI", socket.AF_INET, prefix, 0, 0, index), attribute(1, raw), attribute(2, raw))


def route(index: int, destination: str, prefix: int, *, via: str = "", source: str = "") -> Message:
    """A route in the main table: on the link itself, or through `via`; `source` is the preferred source address."""
    scope = _SCOPE_UNIVERSE if via else _SCOPE_LINK
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, prefix, 0, 0, _TABLE_MAIN, _PROTO_STATIC, scope, _TYPE_UNICAST, 0)
    parts = [attribute(4, index)]
    if prefix:
        parts.append(attribute(1, socket.inet_aton(destination)))
    if via:
        parts.append(attribute(5, socket.inet_aton(via)))
    if source:
        parts.append(attribute(7, socket.inet_aton(source)))
    return message(_NEWROUTE, _PUT, body, *parts)


def neighbour(index: int, text: str, mac: str) -> Message:
    """A permanent neighbour: the host never asks, so nobody can answer falsely."""
    body = struct.pack("=BxxxiHBB", socket.AF_INET, index, _PERMANENT, 0, 0)
    return message(_NEWNEIGH, _PUT, body, attribute(1, socket.inet_aton(text)), attribute(2, packed_mac(mac)))


def all_links(link: netlink.Netlink) -> list[Link]:
    """Every interface of the socket's network namespace."""
    return [_read_link(body) for body in link.dump(_GETLINK, _link())]


def all_routes(link: netlink.Netlink) -> list[Route]:
    """Every IPv4 destination in any table that is routed to, or is an address of, some interface."""
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    return [found for found in map(_read_route, link.dump(_GETROUTE, body)) if found]


def _read_link(body: bytes) -> Link:
    _family, _type, index, flags = struct.unpack_from("=BxHiI", body)
    values = netlink.attributes(body, 16)
    info = netlink.attributes(values.get(_IFLA_LINKINFO, b""))
    return Link(
        index,
        values[_IFLA_IFNAME].rstrip(b"\0").decode(),
        int.from_bytes(values.get(_IFLA_MTU, b""), "little"),
        info.get(_KIND, b"").rstrip(b"\0").decode(),
        bool(flags & _UP),
    )


def _read_route(body: bytes) -> Route | None:
    family, length, _src, _tos, table, _proto, _scope, kind = struct.unpack_from("=BBBBBBBB", body)
    values = netlink.attributes(body, 12)
    if family != socket.AF_INET or length == 0 or kind not in (1, 2) or 1 not in values:
        return None
    destination = socket.inet_ntoa(values[1])
    if table == _TABLE_LOCAL and destination.startswith("127."):
        return None
    return Route(f"{destination}/{length}", int.from_bytes(values.get(4, b""), "little"))


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def _hardware(mac: str, mtu: int) -> tuple[bytes, bytes]:
    return attribute(_IFLA_ADDRESS, packed_mac(mac)), attribute(_IFLA_MTU, mtu)
