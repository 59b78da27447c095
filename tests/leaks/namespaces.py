"""Network namespaces: all that can be reached, and what is inside each.

A namespace lives as long as a process is in it, holds it open, or a mount pins it; all three are looked at.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tests.leaks.marks import link, pids, read

_CLONE_NEWNET = 0x40000000
_T = TypeVar("_T")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class NetworkNamespace:
    """`handle`: a path through which it can be entered; `mounts`: where it is pinned; `holders`: pids in it or holding it open."""

    name: str
    handle: str
    mounts: set[bytes] = field(default_factory=set)
    holders: set[int] = field(default_factory=set)


def network_namespaces() -> dict[str, NetworkNamespace]:
    """By name, `net:[4026531840]`."""
    found: dict[str, NetworkNamespace] = {}

    def add(name: str, handle: str) -> NetworkNamespace:
        return found.setdefault(name, NetworkNamespace(name, handle))

    seen_mounts: set[str] = set()
    for pid in [*pids(), os.getpid()]:
        if name := link(f"/proc/{pid}/ns/net"):
            add(name, f"/proc/{pid}/ns/net").holders.add(pid)
        for number, target in _descriptors(pid):
            if target.startswith("net:["):
                add(target, f"/proc/{pid}/fd/{number}").holders.add(pid)
        space = link(f"/proc/{pid}/ns/mnt")
        if space and space not in seen_mounts:
            seen_mounts.add(space)
            for name, point in _pinned(pid):
                add(name, f"/proc/{pid}/root{os.fsdecode(point)}").mounts.add(point)
    return found


def interfaces(space: NetworkNamespace) -> list[str]:
    """Names of the interfaces inside."""
    text = _inside(space, lambda: read("/proc/thread-self/net/dev").decode())
    return [line.split(":")[0].strip() for line in (text or "").splitlines()[2:]]


def socket_paths(space: NetworkNamespace) -> list[bytes]:
    """Paths of the UNIX sockets bound inside (a UNIX socket belongs to a network namespace)."""
    data = _inside(space, lambda: read("/proc/thread-self/net/unix")) or b""
    return [fields[7] for fields in (line.split(None, 7) for line in data.splitlines()[1:]) if len(fields) == 8]


def tables(space: NetworkNamespace) -> list[str]:
    """Names of the nftables tables inside."""
    done = subprocess.run(
        ["nsenter", f"--net={space.handle}", "nft", "list", "tables"], capture_output=True, text=True, check=False, timeout=20
    )
    return re.findall(r"^table \S+ (\S+)", done.stdout, re.MULTILINE)


def _descriptors(pid: int) -> list[tuple[str, str]]:
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []
    return [(number, link(f"/proc/{pid}/fd/{number}")) for number in numbers]


def _pinned(pid: int) -> list[tuple[str, bytes]]:
    """(namespace, mount point) of nsfs mounts."""
    rows = (line.split(b" ") for line in read(f"/proc/{pid}/mountinfo").splitlines() if b" - nsfs " in line)
    return [(row[3].decode(), row[4]) for row in rows if row[3].startswith(b"net:[")]


def _inside(space: NetworkNamespace, act: Callable[[], _T]) -> _T | None:
    """Run `act` in a thread that has entered the namespace; None if it has gone."""
    result: list[_T] = []

    def run() -> None:
        try:
            descriptor = os.open(space.handle, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET) == 0:
                result.append(act())
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0] if result else None
