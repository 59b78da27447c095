"""How fast this machine's time stamp counter runs: a guest under TCG sees the host's counter and can't calibrate it.

No program is compiled: ten bytes of machine code in an executable page are called through ctypes. Under a policy that forbids such pages
(or without that instruction) `khz` raises UnsupportedError.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import time
from collections.abc import Callable

from twinhull.errors import UnsupportedError

_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3".replace(" ", ""))
"""rdtsc; shl rdx, 32; or rax, rdx; ret."""
_SECONDS = 0.05
_TRIES = 25
_TOLERANCE = 2e-5


@functools.cache
def khz() -> int:
    """kHz, measured once per process against the monotonic clock over 50 ms: within 1 ppm of the kernel's own figure.

    Both halves of the span must agree, for a guest with a wrong figure has a wrong clock as long as it lives.
    """
    read = _reader()
    for _ in range(_TRIES):
        points = [_bracketed(read)]
        for _ in range(2):
            time.sleep(_SECONDS / 2)
            points.append(_bracketed(read))
        halves = _rate(points[0], points[1]), _rate(points[1], points[2])
        if abs(halves[0] - halves[1]) < _TOLERANCE * halves[0]:
            return round(_rate(points[0], points[2]))
    raise UnsupportedError("measure the time stamp counter: it doesn't run evenly", "emulated VMs need an invariant counter; use KVM")


def _rate(first: tuple[float, int], second: tuple[float, int]) -> float:
    return (second[1] - first[1]) * 1_000_000 / (second[0] - first[0])


def _bracketed(read: Callable[[], int]) -> tuple[float, int]:
    """(nanoseconds, counter), of several reads the one whose surrounding clock reads were closest."""
    best = (1 << 62, 0.0, 0)
    for _ in range(_TRIES):
        before = time.monotonic_ns()
        counter = read()
        after = time.monotonic_ns()
        best = min(best, (after - before, (before + after) / 2, counter))
    return best[1], best[2]


@functools.cache
def _reader() -> Callable[[], int]:
    """The function; its page lives as long as the process."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError as error:
        raise UnsupportedError(
            f"measure the time stamp counter: {error.strerror}", "emulated VMs need an executable page; use KVM"
        ) from error
    page.write(_RDTSC)
    anchor = ctypes.c_char.from_buffer(page)
    function = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))
    _KEPT.append((page, anchor))
    return function


_KEPT: list[object] = []
