"""Memory: what one more instance costs the machine, seen in two ways that are never added up."""

from __future__ import annotations

import time
from contextlib import ExitStack

from twinhull.compare.bench import SETTLE
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.model import Bound, Metric
from twinhull.compare.subjects.base import anonymous, available


class Memory(Measure):
    """Instances one after another; what each adds is a sample, its number is in the detail."""

    name = "memory"
    quick, full, guess, long, warm_up = 2, 4, 2.0, 5.2, False
    metrics = (
        Metric(
            "memory.anonymous",
            "Memory per idle instance: anonymous",
            "bytes",
            "Anonymous of smaps_rollup, over all processes on the host that run for it (workload, conmon, VMM)",
            bound=Bound.OTHER,
        ),
        Metric(
            "memory.marginal",
            "Memory per idle instance: MemAvailable",
            "bytes",
            "MemAvailable of /proc/meminfo before the n-th instance less after it",
            bound=Bound.OTHER,
        ),
    )

    def take(self, turn: Recorder) -> None:
        with turn.attempt("memory.anonymous", "memory.marginal"), ExitStack() as stack:
            wanted = turn.bench.lasting()
            before = available()
            for number in range(1, (8 if turn.full else 3) + 1):
                place = stack.enter_context(turn.subject.running(wanted))
                time.sleep(SETTLE)
                after = available()
                turn.sample("memory.marginal", before - after, instance=number)
                turn.sample("memory.anonymous", anonymous(turn.subject.processes(place)), instance=number)
                before = after
