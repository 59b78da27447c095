"""Isolation of performance: how late a timer wakes while a neighbour of the same kind misbehaves within its limits."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext

from twinhull.compare.bench import SETTLE
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.model import Metric
from twinhull.compare.statistics import quantile
from twinhull.compare.subjects.base import MIB, Wanted

_STRESS = "stress-ng --temp-path /tmp --quiet --timeout 120"
_NEIGHBOURS = {
    "quiet": ("nobody", ""),
    "fork": ("a fork bomb", f"exec {_STRESS} --fork 8"),
    "memory": ("a memory hog", f"exec {_STRESS} --vm 2 --vm-bytes 80%"),
    "disk": ("a disk hog", f"exec {_STRESS} --hdd 2 --hdd-bytes 32m"),
    "network": ("a network hog", "exec wrk -t2 -c32 -d120 http://{driver}/"),
}
_QUICK = ("quiet", "fork")
_LIMITS = {"memory": 256 * MIB, "cpus": 1.0, "pids": 128}


class Jitter(Measure):
    """The neighbour has one CPU, 256 MiB and 128 processes, in either hull."""

    name = "jitter"
    stage = 2
    quick, full, guess, long = 5, 12, 2.4, 17.0
    metrics = tuple(
        Metric(
            f"jitter.{word}",
            f"Timer lateness beside {title}: p99.9",
            "s",
            f"sleeps of 1 ms in the box; neighbour: {command or 'none'}",
            band=0.25,
        )
        for word, (title, command) in _NEIGHBOURS.items()
    )

    def take(self, turn: Recorder) -> None:
        sleeps = 2000 if turn.full else 300
        for word in _NEIGHBOURS if turn.full else _QUICK:
            with turn.attempt(f"jitter.{word}"):
                late = self._measured(turn, word, sleeps)
                turn.sample(f"jitter.{word}", quantile(late, 0.999), sleeps=sleeps, median=quantile(late, 0.5))

    def _measured(self, turn: Recorder, word: str, sleeps: int) -> list[float]:
        command = _NEIGHBOURS[word][1].replace("{driver}", turn.bench.driver().address)
        turn.bench.box(turn.subject)
        wanted = Wanted(turn.bench.run.tools, ("sh", "-c", command), int(_LIMITS["memory"]), _LIMITS["cpus"], int(_LIMITS["pids"]))
        with turn.subject.running(wanted) if command else nullcontext():
            time.sleep(SETTLE)
            return [float(value) for value in json.loads(turn.bench.probe(turn.subject, "timer", str(sleeps)))]
