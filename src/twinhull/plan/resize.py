"""`resources: auto`: how much CPU and memory an instance should have, from what it has used. Pure.

In the manner of Kubernetes' vertical autoscaler: memory by the peak and CPU by a high percentile of the last minutes, with a margin; up at
once, down only when a whole window says so, and only when it is worth it. What is not known changes nothing. A container's limits are
changed while it runs; a VM has its size from its next replacement on (the engine's matter).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from twinhull.plan.demand import STALE

WINDOW = 600.0
"""Seconds of use that count, unless the owner says otherwise."""
MARGIN = 1.15
"""What is added to the use (the vertical autoscaler's recommendation margin)."""
OOM_BUMP = 1.2
"""By how much memory grows after the kernel killed for lack of it (the vertical autoscaler's bump-up ratio)."""
_OOM_LEAST = 64 << 20
_WORTH = 0.8
"""Down only below this part of what there is: a change has its price too."""
_PERCENTILE = 0.95
_GRAIN = 16 << 20
"""Memory is given in steps of 16 MiB."""
_CPU_GRAIN = 0.05


@dataclass(frozen=True, slots=True)
class Use:
    """At a time, of one instance or the greatest of several. cpus: CPUs in use; memory: bytes that can't be reclaimed."""

    at: float
    cpus: float
    memory: int


@dataclass(frozen=True, slots=True)
class Size:
    """cpus, memory (bytes) of one instance."""

    cpus: float
    memory: int


@dataclass(frozen=True, slots=True)
class Resize:
    """What it should be, and why; the same size and reason "" if nothing changes."""

    size: Size
    reason: str = ""


def resize(
    uses: Sequence[Use], current: Size, bounds: tuple[Size, Size], now: float, *, oom_at: float = 0.0, window: float = WINDOW
) -> Resize:
    """uses: by time, rising. bounds: (least, most). oom_at: when the kernel last killed inside an instance of the current size, 0 never.

    window: seconds of use that count.
    """
    least, most = bounds
    recent = [use for use in uses if now - window < use.at <= now]
    if oom_at:
        memory = max(math.ceil(current.memory * OOM_BUMP), current.memory + _OOM_LEAST)
        return _result(current, Size(current.cpus, int(_within(_grained(memory), least.memory, most.memory))), "it ran out of memory")
    if not recent or now - recent[-1].at > STALE:
        return Resize(current)
    whole = recent[0].at <= now - window * 0.9
    used, peak = _percentile([use.cpus for use in recent]), max(use.memory for use in recent)
    cpus = round(math.ceil(used * MARGIN / _CPU_GRAIN - 1e-9) * _CPU_GRAIN, 2)
    wanted = Size(
        _within(_settled(cpus, current.cpus, whole), least.cpus, most.cpus),
        int(_within(_settled(_grained(peak * MARGIN), current.memory, whole), least.memory, most.memory)),
    )
    within = f"{window / 60:.0f} min" if window >= 60 else f"{window:g} s"
    return _result(current, wanted, f"used up to {used:.2f} CPUs and {peak >> 20} MiB within {within}")


def _result(current: Size, wanted: Size, reason: str) -> Resize:
    return Resize(wanted, reason) if wanted != current else Resize(current)


def _settled(wanted: float, current: float, whole: bool) -> float:
    """Up at once; down only after a whole window, and if it is worth it."""
    if wanted >= current:
        return wanted
    return wanted if whole and wanted < current * _WORTH else current


def _within(value: float, least: float, most: float) -> float:
    """most 0: without bound."""
    return max(least, min(value, most) if most else value)


def _grained(memory: float) -> int:
    return math.ceil(memory / _GRAIN) * _GRAIN


def _percentile(values: Sequence[float]) -> float:
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(_PERCENTILE * len(ordered)) - 1)]
