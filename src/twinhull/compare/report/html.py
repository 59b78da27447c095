"""One HTML file without outside resources: sentences for who has a minute, claims, plots, figures with their samples, method."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path

import matplotlib as mpl

from twinhull.compare import model
from twinhull.compare.model import Record, Results, Run
from twinhull.compare.report import facts, method, plots, svg
from twinhull.compare.report.facts import Cell, Report, Row
from twinhull.compare.report.text import value
from twinhull.compare.statistics import Verdict, Word
from twinhull.compare.verdicts import times
from twinhull.sys import fs

_SIGNS = {Word.BETTER: "▲", Word.WORSE: "▼", Word.SAME: "=", Word.OPEN: "?"}


def write(results: Results, path: Path) -> None:
    """Whole or not at all."""
    fs.write_atomic(path, page(results))


def page(results: Results) -> str:
    """The whole document."""
    report = facts.build(results)
    css = resources.files(__package__).joinpath("page.css").read_text()
    title = escape(method.title(report))
    body = "\n".join(
        [
            f"<header><h1>{title}</h1>",
            *(f'<p class="note">{escape(remark)}</p>' for remark in report.remarks),
            _list(report.headlines, "lead"),
            f"<p>{_machine_line(report)}</p></header>",
            "<main>",
            f'<section aria-labelledby="said"><h2 id="said">What is said, and what was measured</h2>{_claims(report)}</section>',
            f'<section aria-labelledby="seen"><h2 id="seen">Seen at once</h2>{_plots(report)}</section>',
            f'<section aria-labelledby="figures"><h2 id="figures">Figures</h2>{_figures(report)}</section>',
            _isolation(report),
            f'<section aria-labelledby="method"><h2 id="method">Method</h2>{_method(report, results)}</section>',
            "</main>",
        ]
    )
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
    return f'<!doctype html>\n<html lang="en">\n<head>{head}<style>\n{css}</style></head>\n<body>\n{body}\n</body>\n</html>\n'


def _machine_line(report: Report) -> str:
    found = dict(method.machine(report))
    words = [found["CPU"], found["memory"], f"Linux {found['kernel']}", f"VMs: {found['VM accelerator']}", found["when"]]
    return escape(" · ".join([*words, f"seed {report.run.seed}"]))


def _claims(report: Report) -> str:
    head = ("Topic", "Claim", "Measured here", "Verdict", "Limits")
    rows = []
    for row in report.claims:
        claim = f"{escape(row.claim.text)}<small>The opposite is said too: {escape(row.claim.opposite)}</small>"
        measured = "<br>".join(escape(part) for part in row.measured.splitlines()) or "–"
        rows.append((escape(row.claim.topic), claim, measured, f"<strong>{escape(row.word)}</strong>", escape(row.limits)))
    return _table(head, rows, "Each claim of the argument, with what this machine says to it")


def _plots(report: Report) -> str:
    with mpl.rc_context(plots.STYLE):
        drawn = [(plot.title, svg.inline(plot)) for plot in plots.all_of(report)]
    if not drawn:
        return "<p>Nothing was measured that could be drawn.</p>"
    return '<div class="plots">' + "".join(f"<figure><figcaption>{escape(t)}</figcaption>{s}</figure>" for t, s in drawn) + "</div>"


def _figures(report: Report) -> str:
    verdicts = [f"Verdict: {subject}" for subject in report.subjects[1:]]
    rows = [(_name(row, report), *(_cell(cell, row.metric.unit) for cell in row.cells), *_verdicts(row, report)) for row in report.rows]
    return _table(("Figure", *report.subjects, *verdicts), rows, f"Medians with 95 % intervals; verdicts against {report.subjects[0]}")


def _name(row: Row, report: Report) -> str:
    samples = "".join(f"<dt>{escape(cell.subject)}</dt><dd class='samples'>{escape(_samples(cell))}</dd>" for cell in row.cells)
    more = f"<dl>{samples}</dl><p>In {escape(_unit(row))}, in the order measured. To repeat:</p><pre>{escape(row.command)}</pre>"
    remark = f"<small>{escape(row.remark)}</small>" if row.remark else ""
    label = escape(f"samples of {row.metric.title}")
    details = f'<details id="{escape(row.metric.name)}"><summary aria-label="{label}">samples</summary>{more}</details>'
    return f"{escape(row.metric.title)}<small>{escape(row.metric.how)}</small>{remark}{details}"


def _samples(cell: Cell) -> str:
    return ", ".join(f"{number:.6g}" for number in cell.values) or cell.reason or "–"


def _unit(row: Row) -> str:
    return {"s": "seconds", "1": "pieces", "1/s": "times per second", "B/s": "bytes per second"}.get(row.metric.unit, row.metric.unit)


def _cell(cell: Cell, unit: str) -> str:
    if cell.summary is None:
        return f"<small>not measured{': ' if cell.reason else ''}{escape(cell.reason)}</small>"
    found = cell.summary
    spread = f"{value(found.low, unit)} … {value(found.high, unit)}; p99 {value(found.p99, unit)}; n = {found.n}"
    return f'<span class="figure">{escape(value(found.median, unit))}</span><small>{escape(spread)}</small>'


def _verdicts(row: Row, report: Report) -> Iterable[str]:
    for subject in report.subjects[1:]:
        found = row.verdicts.get(subject)
        yield _verdict(found) if found else "–"


def _verdict(found: Verdict) -> str:
    kind = {Word.BETTER: "better", Word.WORSE: "worse"}.get(found.word, "")
    ratio = f"<small>{times(found.ratio)} ({times(found.low)} … {times(found.high)})</small>"
    return f'<span class="{kind}"><span aria-hidden="true">{_SIGNS[found.word]}</span> {escape(str(found))}</span>{ratio}'


def _isolation(report: Report) -> str:
    if not report.isolation:
        return ""
    rows = []
    for column, cells in report.isolation.items():
        told = [escape(cells[subject].text) if subject in cells else "–" for subject in report.subjects]
        name = f"{escape(column)}<small>{escape(next(iter(cells.values())).how)}</small>"
        rows.append((name, *told))
    table = _table(("Column", *report.subjects), rows, "Separate columns, never merged into one score")
    return f'<section aria-labelledby="isolation"><h2 id="isolation">Isolation</h2>{table}</section>'


def _method(report: Report, results: Results) -> str:
    machine = _table(
        ("What", "Here"), [(escape(name), escape(told)) for name, told in method.machine(report)], "The machine and the versions"
    )
    records: list[Run | Record] = [results.run, *results.samples, *results.missing, *results.facts]
    lines = [json.dumps(model.plain(record), ensure_ascii=False) for record in records]
    raw = base64.b64encode(("\n".join(lines) + "\n").encode()).decode()
    name = f"{report.run.id}.samples.jsonl"
    link = f'<p><a download="{escape(name)}" href="data:application/x-ndjson;base64,{raw}">All raw samples as JSON lines</a></p>'
    return f"{_list(method.lines(report), '')}{machine}{link}"


def _list(lines: Iterable[str], kind: str) -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], caption: str) -> str:
    """Cells are HTML already; on a narrow screen each is labelled by its column's head."""
    names = list(head)
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = []
    for row in rows:
        first, *rest = row
        cells = "".join(f'<td data-label="{escape(name)}">{cell}</td>' for name, cell in zip(names[1:], rest, strict=True))
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"
