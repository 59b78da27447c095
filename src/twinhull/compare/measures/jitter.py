"""Isolation of performance: how late a timer wakes while a neighbour misbehaves within its limits.

Every kind of neighbour beside every kind of victim: a row is a victim, a column the hull of its neighbour. So the columns of a row tell
which hull holds a neighbour better, and the rows of a neighbour which hull is disturbed less.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext

from twinhull.compare.bench import SETTLE
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.model import Metric
from twinhull.compare.statistics import quantile
from twinhull.compare.subjects.base import MIB, Subject, Wanted

_STRESS = "stress-ng --temp-path /tmp --quiet --timeout 120"
_NEIGHBOURS = {
    "fork": ("a fork bomb", f"exec {_STRESS} --fork 8"),
    "memory": ("a memory hog", f"exec {_STRESS} --vm 2 --vm-bytes 80%"),
    "disk": ("a disk hog", f"exec {_STRESS} --hdd 2 --hdd-bytes 32m"),
    "network": ("a network hog", "exec wrk -t2 -c32 -d120 http://{driver}/"),
}
_VICTIMS = {"container": "a container", "sandbox": "a sandbox", "vm": "a VM"}
_QUICK = ("fork",)
_LIMITS = {"memory": 256 * MIB, "cpus": 1.0, "pids": 128}
_BAND = 0.25


class Jitter(Measure):
    """The neighbour has one CPU, 256 MiB and 128 processes, in every hull. Quick: the fork bomb only, beside the first hull's timer."""

    name = "jitter"
    stage = 2
    quick, full, guess, long = 5, 12, 2.4, 19.0
    metrics = (
        Metric("jitter.quiet", "Timer lateness beside nobody: p99.9", "s", "sleeps of 1 ms in the box", band=_BAND),
        *(
            Metric(
                f"jitter.{word}_{victim}",
                f"Timer of {where} beside {title}: p99.9",
                "s",
                f"sleeps of 1 ms in {where}; the neighbour, in each of the hulls: {command}",
                band=_BAND,
            )
            for victim, where in _VICTIMS.items()
            for word, (title, command) in _NEIGHBOURS.items()
        ),
    )

    def take(self, turn: Recorder) -> None:
        self._sample(turn, "jitter.quiet", turn.subject, "")
        victims = [subject for name, subject in turn.bench.subjects.items() if name in _VICTIMS]
        for victim in victims if turn.full else victims[:1]:
            for word in _NEIGHBOURS if turn.full else _QUICK:
                self._sample(turn, f"jitter.{word}_{victim.name}", victim, _NEIGHBOURS[word][1])

    def _sample(self, turn: Recorder, metric: str, victim: Subject, neighbour: str) -> None:
        sleeps = 1000 if turn.full else 300
        with turn.attempt(metric):
            late = self._measured(turn, victim, neighbour, sleeps)
            turn.sample(metric, quantile(late, 0.999), sleeps=sleeps, median=quantile(late, 0.5))

    def _measured(self, turn: Recorder, victim: Subject, neighbour: str, sleeps: int) -> list[float]:
        """Seconds of lateness. What must be there is made before the neighbour is."""
        command = neighbour.replace("{driver}", turn.bench.driver().address)
        turn.bench.box(victim)
        wanted = Wanted(turn.bench.run.tools, ("sh", "-c", command), int(_LIMITS["memory"]), _LIMITS["cpus"], int(_LIMITS["pids"]))
        with turn.subject.running(wanted) if command else nullcontext():
            time.sleep(SETTLE)
            return [float(value) for value in json.loads(turn.bench.probe(victim, "timer", str(sleeps)))]
