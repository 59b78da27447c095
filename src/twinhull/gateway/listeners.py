"""The gateway's listening sockets, made by the daemon and passed down: HAProxy needs no right to bind ports.

As long as the daemon holds them, connections that arrive while HAProxy restarts wait instead of being refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from twinhull.errors import ConflictError, UserError

_BACKLOG = 4096
_PIDFD_GETFD = 438


@dataclass(slots=True)
class Listeners:
    """http, https: sockets that listen; none of a kind that isn't served."""

    http: list[socket.socket] = field(default_factory=list)
    https: list[socket.socket] = field(default_factory=list)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All, to pass down."""
        return tuple(one.fileno() for one in (*self.http, *self.https))

    @property
    def environment(self) -> dict[str, str]:
        """The names under which the configuration knows them."""
        named = {f"GATEWAY_HTTP{number}": one for number, one in enumerate(self.http)}
        named |= {f"GATEWAY_HTTPS{number}": one for number, one in enumerate(self.https)}
        return {name: str(one.fileno()) for name, one in named.items()}

    def close(self) -> None:
        """Let go of all."""
        for one in (*self.http, *self.https):
            one.close()
        self.http.clear()
        self.https.clear()


def listen(address: str) -> list[socket.socket]:
    """Sockets for "address:port" or ":port" (IPv4, and IPv6 where there is any); [] for "". Raises ConflictError when the port is taken."""
    if not address:
        return []
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    made: list[socket.socket] = []
    try:
        for family, name in _families(host):
            with contextlib.suppress(_NoIPv6Error):
                made.append(_bound(family, name, int(port)))
    except OSError as error:
        for one in made:
            one.close()
        if error.errno == errno.EADDRINUSE:
            raise ConflictError(
                f"port {port} of this machine is taken by another program", "end it, or set http and https in [gateway] of config.toml"
            ) from error
        raise UserError(f"listen on {address}: {error.strerror}", "see [gateway] in config.toml") from error
    return made


class _NoIPv6Error(Exception):
    pass


def _families(host: str) -> list[tuple[socket.AddressFamily, str]]:
    if not host:
        return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
    return [(socket.AF_INET6 if ":" in host else socket.AF_INET, host)]


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _NoIPv6Error from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
        made.listen(_BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        if host == "::" and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise _NoIPv6Error from error
        raise
    return made


def taken_over(pid: int, sockets: Mapping[str, int]) -> Listeners:
    """Copies of the sockets that a running master holds. Empty where the kernel doesn't allow it: then a restart binds anew."""
    made = Listeners()
    try:
        with contextlib.closing(_Descriptor(os.pidfd_open(pid))) as process:
            for name, number in sockets.items():
                copy = socket.socket(fileno=_copied(process.number, number))
                (made.https if name.startswith("GATEWAY_HTTPS") else made.http).append(copy)
    except OSError:
        made.close()
    return made


@dataclass(frozen=True, slots=True)
class _Descriptor:
    number: int

    def close(self) -> None:
        os.close(self.number)


def _copied(process: int, number: int) -> int:
    """pidfd_getfd(2), Linux 5.6."""
    libc = ctypes.CDLL(None, use_errno=True)
    copy = int(libc.syscall(_PIDFD_GETFD, process, number, 0))
    if copy < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return copy
