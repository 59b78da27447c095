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
from twinhull.compare.statistics import Summary, Verdict
from twinhull.compare.verdicts import Against, ClaimRow


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
    """All of it. `headlines`: a sentence each, for who has a minute. `isolation`: column → subject → fact.

    `curves`: metric → subject → value by the instance's number.
    """

    run: Run
    subjects: tuple[str, ...]
    complete: bool
    emulated: bool
    short: str
    """All claims in a sentence, or ""."""
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
    isolation = _isolation(results, subjects)
    claims = _claims(results, rows, isolation, emulated)
    return Report(
        run,
        subjects,
        results.complete,
        emulated,
        verdicts.in_short(claims),
        _headlines(rows, isolation, subjects),
        _remarks(results, emulated),
        claims,
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


def _isolation(results: Results, subjects: tuple[str, ...]) -> dict[str, dict[str, Fact]]:
    """In the order of the report, whatever order it was seen in."""
    seen: dict[str, dict[str, Fact]] = defaultdict(dict)
    for fact in results.facts:
        seen[fact.column][fact.subject] = fact
    names = sorted(seen, key=lambda name: measures.COLUMNS.index(name) if name in measures.COLUMNS else len(measures.COLUMNS))
    return {name: {subject: seen[name][subject] for subject in subjects if subject in seen[name]} for name in names}


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
    against: dict[str, Against] = {}
    for row in rows:
        values = {cell.subject: cell.values for cell in row.cells}
        container, vm = values.get("container", ()), values.get("vm", ())
        if container and vm:
            random = Random(f"{results.run.seed} {row.metric.name} vm")
            verdict = statistics.compare(container, vm, row.metric.better, row.metric.band, random)
            figures = ", ".join(f"{name} {_median(row, name)}" for name in ("container", "vm"))
            against[row.metric.name] = Against(row.metric, verdict, figures)
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


def _headlines(rows: tuple[Row, ...], isolation: dict[str, dict[str, Fact]], subjects: tuple[str, ...]) -> tuple[str, ...]:
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
    figures = ", ".join(f"{name} {_median(row, name)}" for name in (baseline, subject))
    emulated = " About emulation." if row.remark and "vm" in (subject, baseline) else ""
    return f"{row.metric.title}: {figures} ({verdicts.told(verdict)}).{emulated}"


def _median(row: Row, subject: str) -> str:
    found = row.cell(subject).summary
    return text.value(found.median, row.metric.unit) if found else "–"


def _remarks(results: Results, emulated: bool) -> tuple[str, ...]:
    machine = results.run.machine
    told = []
    if emulated:
        why = "/dev/kvm is there but ran no guest in time" if machine.get("kvm") else "the machine has no /dev/kvm"
        told.append(
            f"VMs ran under QEMU's TCG, which emulates the CPU ({why}). "
            "What the CPU bounds is about emulation here, and no conclusion about hardware virtualization follows."
        )
    if not results.complete:
        told.append(f"This run isn't complete ({len(results.done)} turns done): go on with `twinhull compare --resume {results.run.id}`.")
    told += [f"{subject} couldn't be measured here: {why}." for subject, why in _absent(results).items()]
    told += [str(remark) for remark in results.run.service.get("remarks", ())]
    if float(machine.get("load", 0)) > float(machine.get("cpus") or 1) / 2:
        told.append(f"The machine was busy with something else when the run began (load {machine['load']:.1f}): expect wide intervals.")
    return tuple(told)


def _absent(results: Results) -> dict[str, str]:
    """Subjects of which there is nothing, with the reason if it is one and the same."""
    seen = {sample.subject for sample in results.samples} | {fact.subject for fact in results.facts}
    reasons: dict[str, set[str]] = defaultdict(set)
    for missing in results.missing:
        reasons[missing.subject].add(missing.reason)
    return {subject: next(iter(why)).rstrip(".") for subject, why in reasons.items() if subject not in seen and len(why) == 1}
