"""What stands behind a template's slots: empty disks that take no space, and taps that lead nowhere.

Invariant: nothing here has a name on the host; all of it is gone with its last descriptor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from twinhull.errors import UnsupportedError
from twinhull.instance.vm import memory
from twinhull.instance.vm.shape import PLACEHOLDER, Parts, Shape
from twinhull.sys import namespaces

_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
"""As the network opens an instance's tap: a device's features follow from its tap's, and are fixed in a template."""


def parts(shape: Shape, stack: ExitStack) -> Parts:
    """The descriptors, closed with the stack."""
    scratch = _kept(stack, memory.create("disk", PLACEHOLDER))
    taps = _taps(shape.nics)
    for tap in taps:
        stack.callback(os.close, tap)
    return Parts(_kept(stack, memory.reader(scratch)), scratch, taps)


def _kept(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _taps(count: int) -> list[int]:
    """Opened in a network namespace that their descriptors alone keep, by a thread that ends there."""
    made: list[int | Exception] = []

    def body() -> None:
        try:
            namespaces.unshare(namespaces.CLONE_NEWNET)
            made.extend(_tap() for _ in range(count))
        except Exception as error:
            made.append(error)

    if count:
        thread = threading.Thread(target=body, name="twinhull-taps")
        thread.start()
        thread.join()
    descriptors = [one for one in made if isinstance(one, int)]
    if len(descriptors) < count:
        for descriptor in descriptors:
            os.close(descriptor)
        raise UnsupportedError(f"open a tap: {made[-1]}", "VMs need the kernel's tun driver: modprobe tun")
    return descriptors


def named_taps(names: Sequence[str]) -> tuple[int, ...]:
    """Taps in this network namespace, down, for as long as their descriptors are open. Raises OSError, UnsupportedError."""
    made: list[int] = []
    try:
        for name in names:
            made.append(_tap(name))
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    except BaseException:
        for descriptor in made:
            os.close(descriptor)
        raise
    return tuple(made)


def name_of(tap: int) -> str:
    """The interface behind a tap's descriptor, in the network namespace that it was opened in."""
    raw = fcntl.ioctl(tap, _TUNGETIFF, bytes(40))
    return raw[:16].split(b"\0")[0].decode()


def _tap(name: str = "") -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
