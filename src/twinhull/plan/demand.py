"""What metrics say about the load of a service: averages over windows, ages, and the concurrency that a queue stands for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

STALE = 15.0
"""Seconds after which the last value of a metric says nothing about now."""


@dataclass(frozen=True, slots=True)
class Sample:
    """at: seconds since the epoch.

    value: of the whole service (concurrency, rps, queue, query), or an average over its instances (cpu and memory in %, p95 in seconds).
    """

    at: float
    value: float


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric at a moment. stable: average over the window; latest: the last value; age: its age in seconds. None: unknown.

    panic: average over the panic window or the lesser of its last two values, whichever is more: two in a row are no accident, and to wait
    for the average would cost half a window. None while there is only one value.
    """

    stable: float | None = None
    panic: float | None = None
    latest: float | None = None
    age: float | None = None

    @property
    def fresh(self) -> bool:
        """Whether it says anything about now."""
        return self.age is not None and self.age <= STALE


def read(samples: Sequence[Sample], now: float, window: float, panic_window: float) -> Reading:
    """Values that can't be (negative, not a number, infinite, from the future) are as if they were missing. samples: by time, rising."""
    good = [each for each in samples if each.at <= now and math.isfinite(each.value) and each.value >= 0]
    if not good:
        return Reading()
    stable = [each.value for each in good if each.at > now - window]
    panic = [each.value for each in good if each.at > now - panic_window]
    urgent = max(_mean(panic), min(panic[-2:])) if len(panic) > 1 else None
    return Reading(_mean(stable) if stable else None, urgent, good[-1].value, now - good[-1].at)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Traffic:
    """One look at the gateway.

    arrivals, completions: requests per second since the last; in_service: requests inside the instances now; queued: waiting in the
    gateway or the activator now.
    """

    arrivals: float
    completions: float
    in_service: float
    queued: float


def concurrency(looks: Sequence[Traffic], drain: float) -> float:
    """The concurrency that a service has to bear: requests in service, and a queue that is to be gone within `drain` seconds.

    looks: of the last few seconds (the panic window), the latest last.
    A queue isn't concurrency: it grows as long as there are too few instances, and to count it as such orders far too many. By Little's law
    the time in service is in_service ÷ completions; the arrivals need arrivals × time, the queue queued × time ÷ drain. The time is the
    median over the looks that had a queue, each with the lesser of what was in service at its beginning and end: a look may fall
    between an instance's start and its first answers. Where nothing has been completed yet (asleep, or all hang) it is unknown, and
    every request counts. A good `drain` is half the window: the room that a target leaves in each instance does most of the draining.
    """
    now = looks[-1]
    pairs = zip((looks[0], *looks), looks, strict=False)
    busy = [(min(before.in_service, look.in_service), look) for before, look in pairs if look.queued > 0 and look.completions > 0]
    times = [least / look.completions for least, look in busy if least > 0]
    if now.queued <= 0 or not times:
        return now.in_service + now.queued
    time = statistics.median(times)
    return min(now.in_service + now.queued, now.arrivals * time + now.queued * time / max(drain, time))
