"""Density: how many servers a GiB holds while they still answer in time. More than were started is an extrapolation, and is called one."""

from __future__ import annotations

import time
from contextlib import ExitStack

from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.model import Better, Bound, Metric
from twinhull.compare.statistics import quantile
from twinhull.compare.subjects.base import NotMeasuredError, anonymous, available, first_page

LIMIT = 0.05
"""Seconds within which 95 of 100 requests must be answered."""
_REQUESTS = 20
_GIB = 1 << 30


class Density(Measure):
    """A few servers at once, each asked in turn."""

    name = "density"
    stage = 2
    quick, full, guess, long, warm_up = 1, 5, 1.0, 4.0, False
    metrics = (
        Metric(
            "density.per_gib",
            f"Servers per GiB, p95 ≤ {LIMIT * 1000:g} ms (extrapolated)",
            "1",
            "1 GiB ÷ anonymous memory per server after its first requests; extrapolated from the few that ran",
            better=Better.HIGHER,
            bound=Bound.OTHER,
        ),
        Metric("density.latency", "Latency with several servers up: p95", "s", "GET over a new connection, each server in turn"),
        Metric(
            "density.anonymous",
            "Memory per server after its requests: anonymous",
            "bytes",
            "Anonymous of smaps_rollup, over all processes on the host that run for the servers ÷ servers",
            bound=Bound.OTHER,
        ),
        Metric(
            "density.available",
            "Memory per server after its requests: MemAvailable",
            "bytes",
            "MemAvailable of /proc/meminfo before the servers less after their requests ÷ servers",
            bound=Bound.OTHER,
        ),
    )

    def take(self, turn: Recorder) -> None:
        with turn.attempt(*(metric.name for metric in self.metrics)), ExitStack() as stack:
            wanted, page = turn.bench.server()
            before = available()
            places = [stack.enter_context(turn.subject.running(wanted)) for _ in range(8 if turn.full else 2)]
            for place in places:
                first_page(place.address, page, time.perf_counter())
            seconds = [first_page(place.address, page, time.perf_counter()) for _ in range(_REQUESTS) for place in places]
            slow = quantile(seconds, 0.95)
            turn.sample("density.latency", slow, servers=len(places))
            turn.sample("density.available", (before - available()) / len(places), servers=len(places))
            each = anonymous([pid for place in places for pid in turn.subject.processes(place)]) / len(places)
            turn.sample("density.anonymous", each, servers=len(places))
            with turn.attempt("density.per_gib"):
                if slow > LIMIT:
                    raise NotMeasuredError(f"already {len(places)} servers take {slow * 1000:.0f} ms")
                turn.sample("density.per_gib", _GIB / each, servers=len(places))
