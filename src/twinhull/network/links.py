"""rtnetlink messages for bridges, ports, addresses, routes and neighbours. Pure builders, and readers of dumps.

Constants: linux/rtnetlink.h, if_link.h, if_bridge.h, neighbour.h, veth.h.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from twinhull.sys import netlink
from twinhull.sys.netlink import attribute, message, nest

Message = tuple[int, int, bytes]

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR = 20
_NEWROUTE, _GETROUTE = 24, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_NEW = netlink.CREATE | netlink.EXCL
_PUT = netlink.CREATE | netlink.REPLACE

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 4, 10, 18, 28
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_VETH_PEER = 1
_BR_FORWARD_DELAY, _BR_STP, _BR_MCAST_SNOOPING = 1, 5, 23
_PORT_LEARNING, _PORT_UNICAST_FLOOD, _PORT_MCAST_FLOOD, _PORT_BCAST_FLOOD, _PORT_ISOLATED, _PORT_LOCKED = 8, 9, 27, 30, 33, 39
_UP = 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_TABLE_MAIN, _TABLE_LOCAL, _PROTO_STATIC, _TYPE_UNICAST = 254, 255, 4, 1
_PERMANENT, _NOARP = 0x80, 0x40
_NTF_MASTER = 0x04
_AF_BRIDGE = 7


@dataclass(frozen=True, slots=True)
class Link:
    """What a dump says about an interface. `kind`: bridge, veth, tun …, "" for hardware."""

    index: int
    name: str
    mtu: int
    master: int
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
    """A new bridge: no spanning tree, no delay, no multicast snooping; a fixed MAC, so that it doesn't change with its ports."""
    data = nest(_DATA, attribute(_BR_FORWARD_DELAY, 0), attribute(_BR_STP, 0), attribute(_BR_MCAST_SNOOPING, b"\0"))
    info = nest(_IFLA_LINKINFO, attribute(_KIND, "bridge"), data)
    parts = (attribute(_IFLA_IFNAME, name), attribute(_IFLA_ADDRESS, packed_mac(mac)), attribute(_IFLA_MTU, mtu), info)
    return message(_NEWLINK, _NEW, _link(), *parts)


@dataclass(frozen=True, slots=True)
class Inside:
    """The end of a veth that goes into a network namespace (an open descriptor), with its index there."""

    ifname: str
    mac: str
    netns: int
    index: int


def veth(name: str, master: int, mtu: int, inside: Inside) -> Message:
    """A new pair, down: one end on the bridge `master`, the other already in its namespace under its final name."""
    peer = _link(inside.index) + b"".join(
        (
            attribute(_IFLA_IFNAME, inside.ifname),
            attribute(_IFLA_ADDRESS, packed_mac(inside.mac)),
            attribute(_IFLA_MTU, mtu),
            attribute(_IFLA_NET_NS_FD, inside.netns),
        )
    )
    info = nest(_IFLA_LINKINFO, attribute(_KIND, "veth"), nest(_DATA, attribute(_VETH_PEER | 0x8000, peer)))
    return message(_NEWLINK, _NEW, _link(), attribute(_IFLA_IFNAME, name), attribute(_IFLA_MTU, mtu), attribute(_IFLA_MASTER, master), info)


def enslave(index: int, master: int, mtu: int) -> Message:
    """Put an interface onto a bridge."""
    return message(_NEWLINK, 0, _link(index), attribute(_IFLA_MTU, mtu), attribute(_IFLA_MASTER, master))


def isolate(index: int, *, locked: bool = True) -> Message:
    """A bridge port that reaches the bridge only, learns nothing, gets nothing flooded.

    `locked`: frames whose source MAC isn't the one of a static entry for this port are dropped (Linux 5.18).
    """
    on, off = b"\1", b"\0"
    values = [(_PORT_ISOLATED, on), (_PORT_LEARNING, off), (_PORT_UNICAST_FLOOD, off), (_PORT_MCAST_FLOOD, off), (_PORT_BCAST_FLOOD, off)]
    if locked:
        values.append((_PORT_LOCKED, on))
    data = nest(_SLAVE_DATA, *(attribute(kind, value) for kind, value in values))
    return message(_NEWLINK, 0, _link(index), nest(_IFLA_LINKINFO, attribute(_SLAVE_KIND, "bridge"), data))


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


def forwarding_entry(index: int, mac: str) -> Message:
    """A static entry in the bridge's table: this MAC is behind this port and nowhere else."""
    return message(_NEWNEIGH, _PUT, _neighbour(_AF_BRIDGE, index, _NOARP, _NTF_MASTER), attribute(2, packed_mac(mac)))


def neighbour(index: int, text: str, mac: str) -> Message:
    """A permanent neighbour: the host never asks, so nobody can answer falsely."""
    body = _neighbour(socket.AF_INET, index, _PERMANENT, 0)
    return message(_NEWNEIGH, _PUT, body, attribute(1, socket.inet_aton(text)), attribute(2, packed_mac(mac)))


def delete_neighbour(index: int, text: str) -> Message:
    """Forget a neighbour."""
    return message(_DELNEIGH, 0, _neighbour(socket.AF_INET, index, 0, 0), attribute(1, socket.inet_aton(text)))


def all_links(link: netlink.Netlink) -> list[Link]:
    """Every interface of the socket's network namespace."""
    return [_read_link(body) for body in link.dump(_GETLINK, _link())]


def all_routes(link: netlink.Netlink) -> list[Route]:
    """Every IPv4 destination in any table that is routed to, or is an address of, some interface."""
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    return [found for found in map(_read_route, link.dump(_GETROUTE, body)) if found]


def permanent_neighbours(link: netlink.Netlink, index: int) -> set[str]:
    """Addresses of the permanent IPv4 neighbours on one interface."""
    found = set()
    for body in link.dump(_GETNEIGH, _neighbour(socket.AF_INET, 0, 0, 0)):
        _family, owner, state = struct.unpack_from("=BxxxiH", body)
        if owner == index and state & _PERMANENT:
            found.add(socket.inet_ntoa(netlink.attributes(body, 12)[1]))
    return found


def _read_link(body: bytes) -> Link:
    _family, _type, index, flags = struct.unpack_from("=BxHiI", body)
    values = netlink.attributes(body, 16)
    info = netlink.attributes(values.get(_IFLA_LINKINFO, b""))
    return Link(
        index,
        values[_IFLA_IFNAME].rstrip(b"\0").decode(),
        int.from_bytes(values.get(_IFLA_MTU, b""), "little"),
        int.from_bytes(values.get(_IFLA_MASTER, b""), "little"),
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


def _neighbour(family: int, index: int, state: int, flags: int) -> bytes:
    return struct.pack("=BxxxiHBB", family, index, state, flags, 0)
