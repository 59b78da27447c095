"""A comparison that nobody measured: results of every metric, for tests of what is told of them."""

from __future__ import annotations

from random import Random

from twinhull.compare import measures
from twinhull.compare.model import Fact, Missing, Results, Run, Sample, Turn

SLOWER = {"vm": 6.0, "docker": 1.0}
"""Factor of each subject over the container."""


def run(*subjects: str, accelerator: str = "tcg") -> Run:
    """The head of one."""
    machine = {"kernel": "6.18", "cpu": "a CPU", "cpus": 2, "memory": 24 << 30, "accelerator": accelerator, "twinhull": "0", "load": 0.1}
    names = tuple(name for name in measures.BY_NAME if name != "workload")
    return Run("20260101-000000-7", "shop/web", subjects or ("container", "vm"), "quick", 7, names, machine=machine, started_at=1.7e9)


def results(*subjects: str, accelerator: str = "tcg", n: int = 8) -> Results:
    """`n` samples of each metric; `cold.parked` can't be had, and a column of isolation is filled."""
    head = run(*subjects, accelerator=accelerator)
    random = Random(3)
    samples = [
        Sample(name, subject, number, random.lognormvariate(0, 0.05) * SLOWER.get(subject, 1.0), detail={"instance": number % 4 + 1})
        for name in measures.METRICS
        if not name.startswith(("workload", "cold.parked"))
        for subject in head.subjects
        for number in range(1, n + 1)
    ]
    missing = [Missing("cold.parked", subject, 1, "<not> offered | here") for subject in head.subjects]
    facts = [
        Fact("Kernel", subject, f"of {subject}: <its> own" if subject == "vm" else f"of {subject}: the host's", "/proc/version", {"a": 1})
        for subject in head.subjects
    ]
    return Results(head, tuple(samples), tuple(missing), tuple(facts), frozenset({Turn("cpu", "vm", 1)}), complete=True)
