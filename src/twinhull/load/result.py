"""What came of a load: counts, times and a line for each second. No clock, and no memory that grows with the number of requests."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_FIRST, _GROWTH = 1e-5, 1.01
"""Seconds of the first bucket, and by which factor each next one is larger: a percentile is at most 1 % too high."""
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class Histogram:
    """Times in buckets that grow by a factor, as HdrHistogram's do."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.most = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._buckets[math.ceil(math.log(max(seconds, _FIRST) / _FIRST, _GROWTH))] += 1
        self.count += 1
        self.most = max(self.most, seconds)

    def quantile(self, share: float) -> float:
        """The time within which that share was; 0 of nothing."""
        left = math.ceil(share * self.count)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(self.most, _FIRST * _GROWTH**bucket)
        return 0.0


@dataclass(frozen=True, slots=True)
class Second:
    """A line of the timeline. at: seconds since the beginning; rate: of requests that became due; p95: of answers, in seconds.

    desired, ready: instances of the service at its end, -1 unknown.
    """

    at: float
    rate: float
    answered: int
    failed: int
    open: int
    p95: float
    desired: int = -1
    ready: int = -1


@dataclass
class Result:
    """Counts so far. failures: by kind; statuses: by status; late: seconds that the generator itself was behind at most."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    times: Histogram = field(default_factory=Histogram)
    timeline: list[Second] = field(default_factory=list)
    late: float = 0.0
    _recent: Histogram = field(default_factory=Histogram)
    _told: tuple[float, int, int, int] = (0.0, 0, 0, 0)

    @property
    def answered(self) -> int:
        """Requests with an answer below status 400."""
        return self.times.count - sum(count for status, count in self.statuses.items() if status >= 400)

    @property
    def failed(self) -> int:
        """Requests without, or with another."""
        return sum(self.failures.values())

    @property
    def open(self) -> int:
        """Requests that still wait for their answer."""
        return self.requests - self.answered - self.failed

    def answer(self, status: int, seconds: float) -> None:
        """An answer came that long after it was due; 4xx and 5xx are failures too."""
        self.statuses[status] += 1
        self.times.add(seconds)
        self._recent.add(seconds)
        if status >= 400:
            self.failures[f"status {status}"] += 1

    def tick(self, at: float, desired: int = -1, ready: int = -1) -> Second:
        """End a line of the timeline."""
        before, requests, answered, failed = self._told
        rate = (self.requests - requests) / max(at - before, 1.0)  # a shorter one, the last, counts as a second
        line = Second(at, rate, self.answered - answered, self.failed - failed, self.open, self._recent.quantile(0.95), desired, ready)
        self.timeline.append(line)
        self._told, self._recent = (at, self.requests, self.answered, self.failed), Histogram()
        return line

    def finish(self, at: float) -> None:
        """End the last line, if anything happened in it; the instances are as they were."""
        if self._told[1:] != (self.requests, self.answered, self.failed):
            before = self.timeline[-1] if self.timeline else None
            self.tick(at, *((before.desired, before.ready) if before else ()))

    def summary(self) -> dict[str, Any]:
        """For programs: counts, seconds, and the timeline."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "failed": self.failed,
            "unfinished": self.open,
            "failures": dict(self.failures.most_common()),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            **{name: self.times.quantile(share) for name, share in _QUANTILES.items()},
            "max": self.times.most,
            "generator_late": self.late,
            "timeline": [{name: getattr(line, name) for name in Second.__slots__} for line in self.timeline],
        }
