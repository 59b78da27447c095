"""Forgets tracked UDP flows, so that a peer that keeps sending reaches whatever stands behind a port now.

A flow keeps the translation that it began with for as long as packets come. TCP needs no such thing: its flows end
with their connections. Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Collection

from twinhull.sys import netlink
from twinhull.sys.netlink import Netlink, NetlinkError, attribute, attributes, message, nest

_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_TUPLE_ORIG, _ZONE, _ID, _FILTER = 1, 18, 12, 25
_TUPLE_PROTO = 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_FILTER_ORIG_FLAGS = 1
_FLAG_PROTO_NUM = 1 << 3
_HEADER = struct.pack("=BBH", socket.AF_INET, 0, 0)


def forget_udp(link: Netlink, ports: Collection[int]) -> int:
    """Delete the IPv4 UDP flows that were first sent to one of these ports. Returns how many.

    The kernel is asked for UDP only (Linux 5.8; older ones send everything), and each answer is checked again.
    """
    found = [deletion for body in _udp_flows(link) if (deletion := _deletion(body, ports))]
    for start in range(0, len(found), 256):
        _delete(link, found[start : start + 256])
    return len(found)


def _udp_flows(link: Netlink) -> list[bytes]:
    proto = nest(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP])))
    wanted = nest(_FILTER, attribute(_FILTER_ORIG_FLAGS, _FLAG_PROTO_NUM))
    try:
        return link.dump(_GET, _HEADER, nest(_TUPLE_ORIG, proto), wanted)
    except NetlinkError:
        return link.dump(_GET, _HEADER)


def _delete(link: Netlink, deletions: list[tuple[int, int, bytes]]) -> None:
    with contextlib.suppress(NetlinkError):  # a flow may end by itself meanwhile
        link.request(*deletions)


def _deletion(body: bytes, ports: Collection[int]) -> tuple[int, int, bytes] | None:
    values = attributes(body, 4)
    original = values.get(_TUPLE_ORIG, b"")
    proto = attributes(attributes(original).get(_TUPLE_PROTO, b""))
    if proto.get(_PROTO_NUM) != bytes([socket.IPPROTO_UDP]) or int.from_bytes(proto.get(_PROTO_DST_PORT, b""), "big") not in ports:
        return None
    kept = [attribute(kind, values[kind]) for kind in (_ZONE, _ID) if kind in values]
    return message(_DELETE, 0, _HEADER, attribute(_TUPLE_ORIG | 0x8000, original), *kept)


def open_link() -> Netlink:
    """A ctnetlink socket in this thread's network namespace."""
    return Netlink(netlink.NETFILTER)
