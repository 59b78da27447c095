"""What is measured, from which event to which, and what it is held against. Pure.

A row has a start and an end event; a sample belongs to a row and a subject. A target bounds the ratio of two medians, or a value itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

DOCKER, PODMAN, CRUN = "docker", "podman", "bare crun"
CONTAINER, VM = "twinhull container", "twinhull vm"
PARKED, SNAPSHOT, PARKED_SNAPSHOT = "twinhull vm, parked", "twinhull vm, app snapshot", "twinhull vm, parked app clone"


@dataclass(frozen=True, slots=True)
class Target:
    """`subject`'s median is at most `most` times that of `base`; without a base at most `most`."""

    subject: str
    most: float
    base: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """`unit`: ms, MB, % or count; samples are in it."""

    name: str
    start: str
    end: str
    unit: str = "ms"
    targets: tuple[Target, ...] = ()


TRUE = Row(
    "true",
    "spawn of the CLI",
    "its exit: run --rm IMAGE true",
    targets=(Target(CONTAINER, 0.25, DOCKER), Target(CONTAINER, 0.30, PODMAN)),
)
HTTP = Row(
    "http",
    "the request to run a web server (peers: spawn of run -d)",
    "first HTTP 200 at the published port",
    targets=(
        Target(CONTAINER, 0.12, DOCKER),
        Target(CONTAINER, 2.0, CRUN),
        Target(VM, 1.3, DOCKER),
        Target(PARKED, 0.5, DOCKER),
        Target(SNAPSHOT, 0.7, DOCKER),
        Target(PARKED_SNAPSHOT, 0.3, DOCKER),
    ),
)
WARM = Row(
    "warm-up",
    "the request to run a Python service that needs 3 s to load",
    "its first HTTP 200",
    targets=(Target(SNAPSHOT, 0.2, CONTAINER),),
)
CROWD_CONTAINERS = Row(
    "containers at once", "the first of N requests", "all N answer with HTTP 200", targets=(Target(CONTAINER, 1 / 8, DOCKER),)
)
CROWD_VMS = Row(
    "VMs at once",
    "the first of N requests",
    "all N answer with HTTP 200",
    targets=tuple(Target(each, 1 / 1.5, DOCKER) for each in (VM, SNAPSHOT, PARKED_SNAPSHOT)),
)
OVERHEAD = Row(
    "overhead",
    "an instance that idles among N",
    "memory for it beyond the workload's own (container: PSS of conmon and the daemon's growth; VM: QEMU's anonymous memory and the same)",
    "MB",
    targets=(Target(CONTAINER, 2), Target(VM, 45)),
)
IDLE_CPU = Row("idle daemon, CPU", "all instances have settled", "a minute later", "%", targets=(Target("daemon", 5),))
IDLE_MEMORY = Row("idle daemon, memory", "the same", "PSS of the daemon", "MB", targets=(Target("daemon", 200),))
CYCLES = Row(
    "cycles",
    "the request to create and start",
    "the answer to its removal; drift: median of the last tenth to that of the first",
)
DRIFT = Row(
    "drift",
    "the first tenth of the cycles",
    "the last tenth: ratio of medians",
    "ratio",
    targets=(Target(CONTAINER, 1.15), Target(VM, 1.15)),
)
FAULTS = Row("faults", "all cycles", "failures and leaks", "count", targets=(Target(CONTAINER, 0), Target(VM, 0)))
ROWS = (TRUE, HTTP, WARM, CROWD_CONTAINERS, CROWD_VMS, OVERHEAD, IDLE_CPU, IDLE_MEMORY, CYCLES, DRIFT, FAULTS)


@dataclass
class Samples:
    """Values by row and subject, in the order they came."""

    values: dict[tuple[Row, str], list[float]] = field(default_factory=dict)

    def add(self, row: Row, subject: str, value: float) -> None:
        """One more."""
        self.values.setdefault((row, subject), []).append(value)

    def of(self, row: Row) -> dict[str, list[float]]:
        """By subject."""
        return {subject: values for (known, subject), values in self.values.items() if known == row}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what came out: the ratio, or the value itself."""

    target: Target
    found: float

    @property
    def met(self) -> bool:
        """Whether it is within the bound."""
        return self.found <= self.target.most

    def __str__(self) -> str:
        against = f" of {self.target.base}" if self.target.base else ""
        return f"{self.found:.3g}{against} (target ≤ {self.target.most:.3g}: {'met' if self.met else 'not met'})"


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest rank: for p99 of 30 values the greatest."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def verdicts(row: Row, found: dict[str, list[float]]) -> list[Verdict]:
    """Of the targets whose subject (and base) was measured."""
    medians = {subject: statistics.median(values) for subject, values in found.items()}
    return [
        Verdict(target, medians[target.subject] / (medians[target.base] if target.base else 1))
        for target in row.targets
        if target.subject in medians and (not target.base or target.base in medians)
    ]
