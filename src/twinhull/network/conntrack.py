"""Flows: how many connections an address has, UDP flows that must be forgotten, connections that nobody will answer any more.

A flow keeps the translation that it began with: a connection stays with its instance while endpoints change, and ends by itself.
A UDP flow has no end; it is forgotten once it leads to somebody who is no longer asked, so that a peer that keeps sending
reaches whoever stands behind the port now. Source: linux/netfilter/nfnetlink_conntrack.h.

Every question is a walk through the kernel's table, some milliseconds even if that is empty (262,144 buckets on a machine
with more than 4 GB). Therefore a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from twinhull.sys import netlink, sockets
from twinhull.sys.netlink import Netlink, NetlinkError, attribute, attributes, message, nest

T = TypeVar("T")

_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_TUPLE_ORIG, _TUPLE_REPLY, _PROTO_INFO, _TIMEOUT, _ID, _ZONE, _FILTER = 1, 2, 4, 7, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SRC, _IP_DST = 1, 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_INFO_TCP, _TCP_STATE = 1, 1
_ORIG_FLAGS, _REPLY_FLAGS = 1, 2
_BY_SRC, _BY_DST, _BY_PROTO = 1 << 0, 1 << 1, 1 << 3
_OPEN = range(1, 6)
"""SYN_SENT to CLOSE_WAIT, as in linux/netfilter/nf_conntrack_tcp.h: until both sides have said that they are done."""
_SYN_SENT = 1
_SYN_SENT_SECONDS, _PATIENCE = 120.0, 3.0
"""nf_conntrack_tcp_timeout_syn_sent's default; for how long a SYN without answer counts. Whoever still waits sends another, and whoever
has given up (a guest that boots loses packets and answers none) would otherwise keep an instance from its end for two minutes."""
_TIME_WAIT = 7
_TIME_WAIT_SECONDS = 120.0
"""nf_conntrack_tcp_timeout_time_wait's default; a lower one makes what is over look older."""
_HEADER = struct.pack("=BBH", socket.AF_INET, 0, 0)
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Stale:
    """UDP flows first sent to `address` ("": any) and one of `ports` (none: any), and answered by nobody of `keep`."""

    address: str = ""
    ports: frozenset[int] = frozenset()
    keep: frozenset[str] = frozenset()


class Flows:
    """The tracked flows of this network namespace."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "network-flows")
        self._pending: dict[str, tuple[Stale, ...]] = {}
        self._link: Netlink
        self._sockets: Netlink

    async def open(self) -> None:
        """Open the socket, in the thread that uses it."""
        self._link, self._sockets = await self._run(open_link), await self._run(sockets.open_link)

    async def close(self) -> None:
        """Finish what is under way."""
        for link in (self._link, self._sockets):
            await self._run(link.close)
        self._thread.shutdown()

    async def connections(self, address: str) -> int:
        """TCP connections to this address that aren't over; translated ones count where they arrive."""
        return await self._run(count_open, self._link, address)

    async def led_to(self, address: str) -> tuple[int, float]:
        """(open TCP connections that a translation leads to this address, seconds since the last of those that are over; inf)."""
        return await self._run(count_led, self._link, address)

    async def sever(self, addresses: Collection[str]) -> None:
        """End this machine's own connections to these addresses, whose instances are gone or going.

        A container's end with its processes; a VM that is killed says nothing, and a program that has sent its request would wait for ever.
        """
        with contextlib.suppress(NetlinkError):  # a kernel without it: they end with their programs' patience
            await self._run(sockets.sever, self._sockets, addresses)

    async def forget(self, stale: Stale) -> None:
        """Forget these flows now."""
        await self._run(forget_udp, self._link, stale)

    def forget_soon(self, owner: str, stale: Iterable[Stale]) -> None:
        """Forget these flows some milliseconds from now, unless the owner says otherwise until then."""
        self._pending[owner] = tuple(stale)
        self._thread.submit(self._forget_pending, owner)

    def forgetting(self, owner: str) -> bool:
        """Whether flows of this owner are still to be forgotten."""
        return owner in self._pending

    def _forget_pending(self, owner: str) -> None:
        for stale in self._pending.pop(owner, ()):
            with contextlib.suppress(NetlinkError):  # nobody waits for an answer; a stale flow ends by itself when its peer is silent
                forget_udp(self._link, stale)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def open_link() -> Netlink:
    """A ctnetlink socket in this thread's network namespace."""
    return Netlink(netlink.NETFILTER)


def forget_udp(link: Netlink, stale: Stale) -> int:
    """Delete these IPv4 flows. Returns how many."""
    found = [_deletion(body) for body in _dump(link, socket.IPPROTO_UDP, sent_to=stale.address) if _is_stale(body, stale)]
    for start in range(0, len(found), _BATCH):
        with contextlib.suppress(NetlinkError):  # a flow may end by itself meanwhile
            link.request(*found[start : start + _BATCH])
    return len(found)


def count_open(link: Netlink, address: str) -> int:
    """How many TCP connections are answered by this address."""
    answered = (body for body in _dump(link, socket.IPPROTO_TCP, answered_by=address) if _address(body, _TUPLE_REPLY, _IP_SRC) == address)
    return sum(map(_is_open, answered))


def count_led(link: Netlink, address: str) -> tuple[int, float]:
    """Only what was first sent elsewhere: to a virtual address or a published port, not by this machine to the instance itself."""
    count, age = 0, math.inf
    for body in _dump(link, socket.IPPROTO_TCP, answered_by=address):
        if _address(body, _TUPLE_REPLY, _IP_SRC) != address or _address(body, _TUPLE_ORIG, _IP_DST) == address:
            continue
        count += _is_open(body)
        if _tcp_state(body) == _TIME_WAIT:
            age = min(age, max(0.0, _TIME_WAIT_SECONDS - _seconds_left(body)))
    return count, age


def _dump(link: Netlink, protocol: int, *, sent_to: str = "", answered_by: str = "") -> list[bytes]:
    """Flows, filtered by the kernel (Linux 5.8; older ones send everything, so each answer must be checked again)."""
    proto = nest(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([protocol])))
    if answered_by:
        where = nest(_TUPLE_IP, attribute(_IP_SRC, socket.inet_aton(answered_by)))
        wanted = [nest(_TUPLE_REPLY, where, proto), nest(_FILTER, attribute(_ORIG_FLAGS, 0), attribute(_REPLY_FLAGS, _BY_SRC | _BY_PROTO))]
    elif sent_to:
        where = nest(_TUPLE_IP, attribute(_IP_DST, socket.inet_aton(sent_to)))
        wanted = [nest(_TUPLE_ORIG, where, proto), nest(_FILTER, attribute(_ORIG_FLAGS, _BY_DST | _BY_PROTO))]
    else:
        wanted = [nest(_TUPLE_ORIG, proto), nest(_FILTER, attribute(_ORIG_FLAGS, _BY_PROTO))]
    try:
        return link.dump(_GET, _HEADER, *wanted)
    except NetlinkError:
        return link.dump(_GET, _HEADER)


def _is_stale(body: bytes, stale: Stale) -> bool:
    proto = _part(body, _TUPLE_ORIG, _TUPLE_PROTO)
    return (
        proto.get(_PROTO_NUM) == bytes([socket.IPPROTO_UDP])
        and (not stale.ports or int.from_bytes(proto.get(_PROTO_DST_PORT, b""), "big") in stale.ports)
        and (not stale.address or _address(body, _TUPLE_ORIG, _IP_DST) == stale.address)
        and _address(body, _TUPLE_REPLY, _IP_SRC) not in stale.keep
    )


def _deletion(body: bytes) -> tuple[int, int, bytes]:
    values = attributes(body, 4)
    kept = [attribute(kind, values[kind]) for kind in (_ZONE, _ID) if kind in values]
    return message(_DELETE, 0, _HEADER, attribute(_TUPLE_ORIG | 0x8000, values[_TUPLE_ORIG]), *kept)


def _is_open(body: bytes) -> bool:
    state = _tcp_state(body)
    return state in _OPEN and (state != _SYN_SENT or _seconds_left(body) > _SYN_SENT_SECONDS - _PATIENCE)


def _seconds_left(body: bytes) -> int:
    return int.from_bytes(attributes(body, 4).get(_TIMEOUT, b""), "big")


def _tcp_state(body: bytes) -> int:
    info = attributes(attributes(attributes(body, 4).get(_PROTO_INFO, b"")).get(_INFO_TCP, b""))
    return int.from_bytes(info.get(_TCP_STATE, b""), "big")


def _address(body: bytes, direction: int, kind: int) -> str:
    raw = _part(body, direction, _TUPLE_IP).get(kind, b"")
    return socket.inet_ntoa(raw) if len(raw) == 4 else ""


def _part(body: bytes, direction: int, part: int) -> dict[int, bytes]:
    return attributes(attributes(attributes(body, 4).get(direction, b"")).get(part, b""))
