"""Everything that a report tells, computed once from a run's results: every format shows these and computes nothing.

Pure: the bootstrap's randomness is seeded with the run's own seed, so that the same journal always gives the same report.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass
from random import Random

from twinhull.compare import measures, statistics, verdicts
from twinhull.compare.model import Bound, Fact, Metric, Results, Run
from twinhull.compare.report import text
from twinhull.compare.statistics import Summary, Verdict, Word
from twinhull.compare.verdicts import ClaimRow


@dataclass(frozen=True, slots=True)
class Cell:
    """A metric of one subject. Either `summary` and `values`, or why there are none."""

    subject: str
    values: tuple[float, ...]
    summary: Summary | None
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """A metric. `verdicts`: subject → against the baseline."""

    metric: Metric
    cells: tuple[Cell, ...]
    verdicts: dict[str, Verdict]
    remark: str
    command: str

    def cell(self, subject: str) -> Cell:
        """Of one subject."""
        return next(cell for cell in self.cells if cell.subject == subject)


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. `isolation`: column → subject → fact. `curves`: metric → subject → value by the instance's number."""

    run: Run
    subjects: tuple[str, ...]
    complete: bool
    emulated: bool
    headlines: tuple[str, ...]
    remarks: tuple[str, ...]
    claims: tuple[ClaimRow, ...]
    rows: tuple[Row, ...]
    isolation: dict[str, dict[str, Fact]]
    curves: dict[str, dict[str, tuple[float, ...]]]


def build(results: Results) -> Report:
    """From what was measured."""
    run = results.run
    subjects = tuple(word.partition("=")[0] for word in run.subjects)
    emulated = "vm" in subjects and run.machine.get("accelerator") == "tcg"
    rows = tuple(_row(results, metric, subjects, emulated) for metric in measures.METRICS.values() if metric.group in run.measures)
    rows = tuple(row for row in rows if any(cell.summary or cell.reason for cell in row.cells))
    isolation = _isolation(results)
    return Report(
        run,
        subjects,
        results.complete,
        emulated,
        _headlines(rows, isolation, subjects, emulated),
        _remarks(results, emulated),
        _claims(results, rows, isolation, emulated),
        rows,
        isolation,
        {name: _curves(results, name, subjects) for name in ("memory.anonymous", "memory.marginal")},
    )


def repeat(run: Run, measure: str, rounds: int) -> str:
    """The command line that measures one group again, with as many samples."""
    words = [
        "twinhull",
        "compare",
        *(run.words or (run.image,)),
        "--only",
        measure,
        "--runtimes",
        ",".join(_hulls(run)),
        "--profile",
        run.profile,
    ]
    words += [word for peer in run.subjects if peer not in _hulls(run) for word in ("--against", peer)]
    return shlex.join([*words, "--rounds", str(rounds), "--seed", str(run.seed)])


def _hulls(run: Run) -> list[str]:
    return [word for word in run.subjects if word in ("container", "sandbox", "vm")]


def _row(results: Results, metric: Metric, subjects: tuple[str, ...], emulated: bool) -> Row:
    cells = tuple(_cell(results, metric, subject) for subject in subjects)
    base = cells[0]
    found = {}
    for cell in cells[1:]:
        if base.values and cell.values:
            random = Random(f"{results.run.seed} {metric.name} {cell.subject}")
            found[cell.subject] = statistics.compare(base.values, cell.values, metric.better, metric.band, random)
    remark = verdicts.EMULATION if emulated and metric.bound is Bound.CPU and "vm" in found else ""
    rounds = max((sample.round for sample in results.samples if sample.metric == metric.name), default=1)
    return Row(metric, cells, found, remark, repeat(results.run, metric.group, rounds))


def _cell(results: Results, metric: Metric, subject: str) -> Cell:
    values = results.values(metric.name, subject)
    reasons = [missing.reason for missing in results.missing if (missing.metric, missing.subject) == (metric.name, subject)]
    if not values:
        return Cell(subject, (), None, reasons[-1] if reasons else "")
    return Cell(subject, values, statistics.summary(values, Random(f"{results.run.seed} {metric.name} {subject}")), "")


def _isolation(results: Results) -> dict[str, dict[str, Fact]]:
    found: dict[str, dict[str, Fact]] = defaultdict(dict)
    for fact in results.facts:
        found[fact.column][fact.subject] = fact
    return dict(found)


def _curves(results: Results, name: str, subjects: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """The median of what the n-th instance added."""
    found = {}
    for subject in subjects:
        by_number: dict[int, list[float]] = defaultdict(list)
        for sample in results.samples:
            if (sample.metric, sample.subject) == (name, subject):
                by_number[int(sample.detail["instance"])].append(sample.value)
        if by_number:
            found[subject] = tuple(statistics.median(by_number[number]) for number in sorted(by_number))
    return found


def _claims(results: Results, rows: tuple[Row, ...], isolation: dict[str, dict[str, Fact]], emulated: bool) -> tuple[ClaimRow, ...]:
    """Always a VM against a container, whichever is the baseline of the run."""
    against: dict[str, tuple[Metric, Verdict]] = {}
    for row in rows:
        values = {cell.subject: cell.values for cell in row.cells}
        container, vm = values.get("container", ()), values.get("vm", ())
        if container and vm:
            random = Random(f"{results.run.seed} {row.metric.name} vm")
            against[row.metric.name] = (row.metric, statistics.compare(container, vm, row.metric.better, row.metric.band, random))
    told = {column: " · ".join(f"{subject}: {fact.text}" for subject, fact in cells.items()) for column, cells in isolation.items()}
    return tuple(
        verdicts.judge(claim, {name: against[name] for name in claim.metrics if name in against}, told, emulated=emulated)
        for claim in verdicts.CLAIMS
    )


_HEADLINES = (
    "workload.ready",
    "workload.rate",
    "workload.memory",
    "start.output",
    "start.ready",
    "memory.anonymous",
    "cpu.single",
    "network.http",
    "disk.root_random32",
)


def _headlines(rows: tuple[Row, ...], isolation: dict[str, dict[str, Fact]], subjects: tuple[str, ...], emulated: bool) -> tuple[str, ...]:
    """A sentence each for who has a minute."""
    told = [
        _sentence(row, subject, row.verdicts[subject], subjects[0])
        for name in _HEADLINES
        for row in rows
        if row.metric.name == name
        for subject in subjects[1:]
        if subject in row.verdicts
    ]
    kernel = isolation.get("Kernel", {})
    if kernel:
        told.append("Kernel: " + "; ".join(f"{subject}: {fact.text}" for subject, fact in kernel.items()) + ".")
    return tuple(told)


def _sentence(row: Row, subject: str, verdict: Verdict, baseline: str) -> str:
    mine, base = row.cell(subject).summary, row.cell(baseline).summary
    assert mine is not None
    assert base is not None
    figures = f"{subject} {text.value(mine.median, row.metric.unit)}, {baseline} {text.value(base.median, row.metric.unit)}"
    result = str(verdict) if verdict.word in (Word.OPEN, Word.SAME) else f"{verdict}, {verdicts.times(verdict.ratio)}"
    return f"{row.metric.title}: {figures} ({result})." + (" About emulation." if row.remark and "vm" in (subject, baseline) else "")


def _remarks(results: Results, emulated: bool) -> tuple[str, ...]:
    machine = results.run.machine
    told = []
    if emulated:
        why = "/dev/kvm is there but ran no guest in time" if machine.get("kvm") else "the machine has no /dev/kvm"
        told.append(f"VMs ran under QEMU's TCG, which emulates the CPU ({why}). {verdicts.EMULATION}")
    if not results.complete:
        told.append(f"This run isn't complete ({len(results.done)} turns done): go on with `twinhull compare --resume {results.run.id}`.")
    told += [str(remark) for remark in results.run.service.get("remarks", ())]
    if float(machine.get("load", 0)) > float(machine.get("cpus") or 1) / 2:
        told.append(f"The machine was busy with something else when the run began (load {machine['load']:.1f}): expect wide intervals.")
    return tuple(told)
