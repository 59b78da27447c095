"""What metrics say about the load of a service: averages over windows, ages, and the concurrency that a queue stands for."""

from __future__ import annotations

import math
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
    """A metric at a moment. stable, panic: averages over the two windows; latest: the last value; age: its age. None: unknown."""

    stable: float | None = None
    panic: float | None = None
    latest: float | None = None
    age: float | None = None
    count: int = 0
    """Samples within the panic window."""

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
    return Reading(_mean(stable), _mean(panic), good[-1].value, now - good[-1].at, len(panic))


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def concurrency(arrivals: float, completions: float, in_service: float, queued: float, drain: float) -> float:
    """The concurrency that a service has to bear: requests in service, and a queue that is to be gone within `drain` seconds.

    arrivals, completions: requests per second; in_service: requests inside the instances; queued: waiting in the gateway or activator.
    A queue isn't concurrency: it grows as long as there are too few instances, and to count it as such orders far too many. By Little's law
    the time in service is in_service ÷ completions; the arrivals need arrivals × time, the queue queued × time ÷ drain. Where nothing
    has been completed yet (asleep, or all hang) the time is unknown, and every request counts.
    """
    if completions <= 0 or in_service <= 0 or queued <= 0:
        return in_service + queued
    time = in_service / completions
    return min(in_service + queued, max(in_service, arrivals * time) + queued * time / max(drain, time))
