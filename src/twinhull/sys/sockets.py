"""End TCP connections of this network namespace from outside their programs, which are told ECONNABORTED.

Formats: linux/sock_diag.h, linux/inet_diag.h. The kernel must have CONFIG_INET_DIAG_DESTROY (Linux 4.5).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection

from twinhull.sys.netlink import Netlink, message

_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
_REQUEST = struct.Struct("=BBBxI")
_ID = slice(4, 52)
"""Where an answer (struct inet_diag_msg) has the socket's identity, and within that, the peer's address."""
_PEER = slice(24, 28)
_STATES = sum(1 << state for state in (1, 2, 4, 5, 8, 9, 11))
"""Those with a peer that may still be waited for, as numbered in include/net/tcp_states.h: not LISTEN, not TIME_WAIT."""


def open_link() -> Netlink:
    """A socket in this thread's network namespace."""
    return Netlink(_SOCK_DIAG)


def sever(link: Netlink, addresses: Collection[str]) -> int:
    """End this namespace's IPv4 connections to these. Returns how many; those that end by themselves meanwhile don't count."""
    peers = {socket.inet_aton(address) for address in addresses}
    request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, _STATES)
    found = [body[_ID] for body in link.dump(_BY_FAMILY, request + bytes(48)) if body[_PEER] in peers]
    answers = link.attempt(*(message(_DESTROY, 0, request, each) for each in found)) if found else []
    return sum(answer is None for answer in answers)
