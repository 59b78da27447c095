"""Which hull for an instance: what it is, laid over what was measured. Pure: the caller asks the daemon.

The rules are few and in order, and each says why. Where the figures leave it open, so does the advice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from twinhull.compare.model import Results
from twinhull.compare.report import facts
from twinhull.compare.report.facts import Report
from twinhull.compare.report.text import value
from twinhull.compare.statistics import Word
from twinhull.engine.base import InstanceView
from twinhull.spec.instance import NetworkMode

_MUCH = 0.02
"""Share of an hour spent on starting, above which the start latency counts."""
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Posture:
    """What is known of an instance. `memory`: its limit in bytes, 0: none; `needs`: what only one hull has."""

    name: str
    runtime: str
    others: bool
    """Whether it runs code of people who aren't trusted with the host."""
    starts: float
    """Per hour."""
    memory: int
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """`hull` "": the evidence doesn't decide."""

    instance: str
    hull: str
    reasons: tuple[str, ...]
    limits: tuple[str, ...]
    run: str


def posture(view: InstanceView, trust: str, starts: float) -> Posture:
    """From the daemon's view and what the user says."""
    spec = view.spec
    needs = []
    if spec.network_mode is NetworkMode.HOST:
        needs.append("the host's network, which only a container has")
    if spec.security.privileged:
        needs.append("privileges, which in a container are the host's")
    return Posture(view.name, view.runtime, trust == "others", starts, spec.resources.memory, tuple(needs))


def advise(results: Results, about: Posture) -> Advice:
    """The hull with its reasons."""
    report = facts.build(results)
    limits = (*report.remarks, *_same_machine(report))
    hull, reasons = _decide(report, about)
    return Advice(about.name, hull, tuple(reasons), limits, results.run.id)


def _decide(report: Report, about: Posture) -> tuple[str, list[str]]:
    costs = _costs(report, about)
    if any("only a container" in need for need in about.needs):
        return "container", [f"it needs {about.needs[0]}", *costs]
    if about.others:
        return "vm", ["it runs code of others, and a container shares the host's kernel: " + _kernel(report), *costs]
    if any("privileges" in need for need in about.needs):
        return "vm", [f"it has {about.needs[0]}; in a VM they are its own kernel's", *costs]
    dear = [cost for cost, heavy in _weighed(report, about) if heavy]
    if dear:
        return "container", ["it runs your own code, and a VM would cost:", *dear]
    asked = [row for row in report.rows if row.metric.name in _COSTS]
    open_rows = [row.metric.title for row in asked if any(verdict.word is Word.OPEN for verdict in row.verdicts.values())]
    if open_rows or not costs:
        return "", [f"not decided by the last comparison: {title}" for title in open_rows] or ["the last comparison has no figures for it"]
    return "", ["it runs your own code, and neither its starts nor its memory make a difference that counts", *costs]


_COSTS = ("start.output", "start.ready", "memory.anonymous")


def _costs(report: Report, about: Posture) -> list[str]:
    return [cost for cost, _ in _weighed(report, about)]


def _weighed(report: Report, about: Posture) -> list[tuple[str, bool]]:
    """What a VM costs more than a container, and whether that counts for this instance."""
    found: list[tuple[str, bool]] = []
    for row in report.rows:
        if row.metric.name not in _COSTS or "vm" not in report.subjects or "container" not in report.subjects:
            continue
        vm, container = row.cell("vm").summary, row.cell("container").summary
        verdict = row.verdicts.get("vm") or row.verdicts.get("container")
        if vm is None or container is None or verdict is None or verdict.word is Word.OPEN:
            continue
        unit = row.metric.unit
        text = f"{row.metric.title}: vm {value(vm.median, unit)}, container {value(container.median, unit)}"
        found.append((text, _counts(about, unit, vm.median - container.median)))
    return found


def _counts(about: Posture, unit: str, more: float) -> bool:
    """A start counts by its share of the hour; memory if it is more than half of what the instance itself may use."""
    if unit == "s":
        return about.starts * more / _HOUR > _MUCH
    return about.memory > 0 and more > about.memory / 2


def _kernel(report: Report) -> str:
    cells = report.isolation.get("Kernel", {})
    return "; ".join(f"{subject}: {fact.text}" for subject, fact in cells.items()) or "the last comparison didn't look"


def _same_machine(report: Report) -> tuple[str, ...]:
    return (f"figures of {report.run.image} on this machine, run {report.run.id}",)


def text(found: Advice) -> str:
    """For people."""
    first = f"{found.instance}: {found.hull}" if found.hull else f"{found.instance}: the evidence doesn't decide"
    return "\n".join([first, *(f"  - {reason}" for reason in found.reasons), *(f"  ! {limit}" for limit in found.limits)]) + "\n"


def plain(found: Advice) -> dict[str, Any]:
    """For programs."""
    return asdict(found)
