"""A tap in a network namespace of the test's own: one end for QEMU, the other answers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

from twinhull.instance.base import Interface
from twinhull.sys import namespaces

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_T = TypeVar("_T")


class Wire:
    """A namespace with tap0 (10.99.0.1) and a route to the guest (10.99.0.2)."""

    def __init__(self) -> None:
        self.interface = Interface("eth0", "02:99:00:00:00:02", "10.99.0.2", "10.99.0.1", 1500, default=True)
        self.listening = threading.Event()
        self.tap = -1
        self._name = f"th-vm-{os.getpid()}"

    def __enter__(self) -> Wire:
        subprocess.run(["ip", "netns", "add", self._name], check=True)
        self._space = os.open(f"/run/netns/{self._name}", os.O_RDONLY | os.O_CLOEXEC)
        self.tap = self._inside(_open_tap)
        self._ip("addr", "add", "10.99.0.1/32", "dev", "tap0")
        self._ip("link", "set", "tap0", "up")
        self._ip("route", "add", "10.99.0.2/32", "dev", "tap0")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._space)
        subprocess.run(["ip", "netns", "del", self._name], check=True)

    def ping(self, address: str) -> bool:
        """Whether the guest answers."""
        command = ["ip", "netns", "exec", self._name, "ping", "-c", "2", "-W", "5", address]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def receive(self, port: int) -> int:
        """Bytes of one TCP connection until its end."""
        return self._inside(lambda: self._count(port))

    def _count(self, port: int) -> int:
        with socket.create_server(("10.99.0.1", port)) as server:
            server.settimeout(60)
            self.listening.set()
            connection, _ = server.accept()
            with connection:
                return sum(len(data) for data in iter(lambda: connection.recv(65536), b""))

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", "-n", self._name, *arguments], check=True)

    def _inside(self, function: Callable[[], _T]) -> _T:
        """Run in a thread of its own that enters the namespace and ends there."""
        results: list[_T] = []

        def enter() -> None:
            namespaces.setns(self._space, namespaces.CLONE_NEWNET)
            results.append(function())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return results[0]


def _open_tap() -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    request = struct.pack("16sH22x", b"tap0", _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
    return descriptor
