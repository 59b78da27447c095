"""As Markdown, and as the few lines that the terminal shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twinhull.compare.model import Results
from twinhull.compare.report import facts, method
from twinhull.compare.report.facts import Cell, Report, Row
from twinhull.compare.report.method import Columns
from twinhull.compare.report.text import value
from twinhull.sys import fs


def write(results: Results, path: Path) -> None:
    """Whole or not at all."""
    fs.write_atomic(path, text(facts.build(results)))


def summary(report: Report) -> str:
    """Headlines, remarks, and where the samples are."""
    lines = [*filter(None, (report.short,)), *report.headlines, *(f"! {remark}" for remark in report.remarks)]
    return "\n".join([*lines, f"Run {report.run.id}, seed {report.run.seed}."]) + "\n"


def text(report: Report) -> str:
    """The whole page."""
    short = f"**{report.short}**" if report.short else ""
    parts = [f"# {method.title(report)}", short, _bullets(report.headlines), *(f"> {remark}" for remark in report.remarks)]
    parts += ["## What is said, and what was measured", _claims(report), "## Figures", _figures(report)]
    isolation, image = method.apart(report)
    if isolation:
        parts += ["## Isolation", "Separate columns; they are never merged into one score.", _seen(report, isolation)]
    if image:
        parts += ["## Image", _seen(report, image)]
    parts += ["## Method", _bullets(method.lines(report)), "### The machine", _table(("", ""), list(method.machine(report)))]
    parts += ["### To repeat a figure", "```\n" + "\n".join(dict.fromkeys(row.command for row in report.rows)) + "\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _claims(report: Report) -> str:
    rows = [(row.claim.topic, row.claim.text, row.measured.replace("\n", "; "), f"**{row.word}**", row.limits) for row in report.claims]
    return _table(("", "claim", "measured here", "verdict", "limits"), rows)


def _figures(report: Report) -> str:
    head = ("figure", *report.subjects, *(f"verdict: {subject}" for subject in report.subjects[1:]), "how")
    return _table(head, [_figure(row, report) for row in report.rows])


def _figure(row: Row, report: Report) -> tuple[str, ...]:
    verdicts = (str(row.verdicts[name]) if name in row.verdicts else "–" for name in report.subjects[1:])
    return (row.metric.title, *(_cell(cell, row.metric.unit) for cell in row.cells), *verdicts, row.metric.how)


def _cell(cell: Cell, unit: str) -> str:
    if cell.summary is None:
        return f"not measured: {cell.reason}" if cell.reason else "not measured"
    found = cell.summary
    spread = f"{value(found.low, unit)} … {value(found.high, unit)}"
    return f"{value(found.median, unit)} ({spread}; p99 {value(found.p99, unit)}; n = {found.n})"


def _seen(report: Report, columns: Columns) -> str:
    rows = [
        (column, *(cells[subject].text if subject in cells else "–" for subject in report.subjects), next(iter(cells.values())).how)
        for column, cells in columns.items()
    ]
    return _table(("", *report.subjects, "how"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
