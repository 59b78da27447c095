"""Network namespaces that exist only as long as somebody holds them: no bind mount, no name, nothing to clean up.

A namespace is made by a thread that steps into a new one and back, and keeps a descriptor of it. When the daemon dies
and no workload lives inside, the kernel removes it and with it the veths.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from twinhull.errors import PermanentError, UserError
from twinhull.sys.netlink import Netlink

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)

INSTANCE_SYSCTLS = {
    "net.ipv6.conf.default.disable_ipv6": "1",  # new interfaces get no link-local address; ::1 on lo stays
    "net.ipv4.ip_unprivileged_port_start": "0",  # the host's user namespace owns it, CAP_NET_BIND_SERVICE inside doesn't count
    "net.ipv4.ping_group_range": "0 2147483647",  # ping without CAP_NET_RAW
}


@dataclass(slots=True)
class Netns:
    """An open descriptor of a network namespace."""

    descriptor: int

    @property
    def path(self) -> str:
        """Valid for any process that may look into ours, until `close`."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def close(self) -> None:
        """Let go. Without a process inside, the namespace vanishes. A second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def create(sysctls: Mapping[str, str]) -> tuple[Netns, Netlink]:
    """A new namespace with these sysctls, and an rtnetlink socket in it. The calling thread is back where it was, also after an error."""
    with _elsewhere():
        _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
        return _opened(sysctls)


def enter(descriptor: int, sysctls: Mapping[str, str]) -> tuple[Netns, Netlink]:
    """The same for a namespace that exists; the returned descriptor is another one."""
    with _elsewhere():
        _check(_libc.setns(descriptor, _CLONE_NEWNET), "enter the network namespace")
        return _opened(sysctls)


def write_sysctl(key: str, value: str) -> None:
    """Write one sysctl of this thread's network namespace. `key` has dots, or slashes where an interface's name has dots."""
    path = key if "/" in key else key.replace(".", "/")
    with open(f"/proc/sys/{path}", "w", encoding="ascii") as file:
        file.write(value)


def _opened(sysctls: Mapping[str, str]) -> tuple[Netns, Netlink]:
    for key, value in sysctls.items():
        _write_users_sysctl(key, value)
    return Netns(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)), Netlink()


def _write_users_sysctl(key: str, value: str) -> None:
    if not key.startswith("net.") or ".." in key:
        raise UserError(f"sysctl {key}: not one of the network namespace's")
    try:
        write_sysctl(key, value)
    except OSError as error:
        raise UserError(f"sysctl {key}={value}: {error.strerror}") from error


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            _check(_libc.setns(home, _CLONE_NEWNET), "return to the daemon's network namespace")
        finally:
            os.close(home)


def _check(status: int, what: str) -> None:
    if status != 0:
        raise PermanentError(f"{what}: {os.strerror(ctypes.get_errno())}")
