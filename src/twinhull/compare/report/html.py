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

_GROUPS = {
    "workload": "Your application",
    "start": "Start, as in use",
    "cold": "Start, each way alone",
    "memory": "Memory of idle instances",
    "density": "Density, and memory under requests",
    "cpu": "CPU",
    "ram": "Memory bandwidth and latency",
    "system": "Calls into the kernel",
    "disk": "Disk",
    "network": "Network",
    "jitter": "A bad neighbour: the column is the neighbour's hull",
    "image": "Image",
}
_SIGNS = {Word.BETTER: "▲", Word.WORSE: "▼", Word.SAME: "=", Word.OPEN: "?"}


def write(results: Results, path: Path) -> None:
    """Whole or not at all."""
    fs.write_atomic(path, page(results))


def page(results: Results) -> str:
    """The whole document."""
    report = facts.build(results)
    isolation, image = method.apart(report)
    sections = [
        ("said", "What is said, and what was measured", _claims(report)),
        ("seen", "Seen at once", _plots(report)),
        ("figures", "Figures", _figures(report)),
        ("isolation", "Isolation", _columns(report, isolation, "Separate columns, never merged into one score")),
        ("image", "Image", _columns(report, image, "What an image takes, and what its instances share")),
        ("method", "Method", _method(report, results)),
    ]
    return _document(method.title(report), _head(report), [section for section in sections if section[2]])


def _head(report: Report) -> str:
    """What a reader of one minute gets."""
    short = f'<p class="short">{escape(report.short)}</p>' if report.short else ""
    notes = "".join(f'<p class="note">{escape(remark)}</p>' for remark in report.remarks)
    return f"{short}{_list(report.headlines, 'lead')}{notes}<p>{_machine_line(report)}</p>"


def _document(title: str, head: str, sections: list[tuple[str, str, str]]) -> str:
    """Sections: id, heading, body."""
    css = resources.files(__package__).joinpath("page.css").read_text()
    links = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in sections)
    body = "\n".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(heading)}</h2>{text}</section>' for name, heading, text in sections
    )
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    top = f'<header><h1>{escape(title)}</h1>{head}<nav aria-label="sections"><ul>{links}</ul></nav></header>'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{meta}<title>{escape(title)}</title><style>\n{css}</style></head>\n'
        f"<body>\n{top}\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _machine_line(report: Report) -> str:
    found = dict(method.machine(report))
    words = [found["CPU"], found["memory"], f"Linux {found['kernel']}", f"VMs: {found['VM accelerator']}", found["when"]]
    return escape(" · ".join([*words, f"seed {report.run.seed}"]))


def _claims(report: Report) -> str:
    head = ("Claim", "Verdict", "Measured here", "Limits")
    rows = []
    for row in report.claims:
        opposite = f"<small>The opposite is said too: {escape(row.claim.opposite)}</small>"
        claim = f'{escape(row.claim.topic)}<span class="claim">{escape(row.claim.text)}</span>{opposite}'
        measured = "".join(f"<li>{escape(part)}</li>" for part in row.measured.splitlines())
        rows.append((claim, f"<strong>{escape(row.word)}</strong>", f"<ul>{measured}</ul>" if measured else "–", escape(row.limits)))
    return _table(head, [("", rows)], "Each claim of the argument, with what this machine says to it", "claims")


def _plots(report: Report) -> str:
    with mpl.rc_context(plots.STYLE):
        drawn = [(plot.title, svg.inline(plot)) for plot in plots.all_of(report)]
    if not drawn:
        return "<p>Nothing was measured that could be drawn.</p>"
    return '<div class="plots">' + "".join(f"<figure><figcaption>{escape(t)}</figcaption>{s}</figure>" for t, s in drawn) + "</div>"


def _figures(report: Report) -> str:
    verdicts = [f"Verdict: {subject}" for subject in report.subjects[1:]]
    groups: dict[str, list[Iterable[str]]] = {}
    for row in report.rows:
        line = (_name(row, report), *(_cell(cell, row.metric.unit) for cell in row.cells), *_verdicts(row, report))
        groups.setdefault(_GROUPS[row.metric.group], []).append(line)
    head = ("Figure", *report.subjects, *verdicts)
    return _table(head, groups.items(), f"Medians with 95 % intervals; verdicts against {report.subjects[0]}", "figures")


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


def _columns(report: Report, columns: method.Columns, caption: str) -> str:
    """A row for each thing that was seen; "" where nothing was."""
    rows = []
    for column, cells in columns.items():
        told = [escape(cells[subject].text) if subject in cells else "–" for subject in report.subjects]
        rows.append((f"{escape(column)}<small>{escape(next(iter(cells.values())).how)}</small>", *told))
    return _table(("Column", *report.subjects), [("", rows)], caption) if rows else ""


def _method(report: Report, results: Results) -> str:
    machine = _table(
        ("What", "Here"), [("", [(escape(name), escape(told)) for name, told in method.machine(report)])], "The machine and the versions"
    )
    records: list[Run | Record] = [results.run, *results.samples, *results.missing, *results.facts]
    lines = [json.dumps(model.plain(record), ensure_ascii=False) for record in records]
    raw = base64.b64encode(("\n".join(lines) + "\n").encode()).decode()
    name = f"{report.run.id}.samples.jsonl"
    link = f'<p><a download="{escape(name)}" href="data:application/x-ndjson;base64,{raw}">All raw samples as JSON lines</a></p>'
    return f"{_list(method.lines(report), '')}{machine}{link}"


def _list(lines: Iterable[str], kind: str) -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(head: Iterable[str], groups: Iterable[tuple[str, Iterable[Iterable[str]]]], caption: str, kind: str = "") -> str:
    """Groups of rows with a title ("": none). Cells are HTML already; on a narrow screen each is labelled by its column's head."""
    names = list(head)
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    bodies = "".join(_body(names, title, rows) for title, rows in groups)
    return f'<table class="{kind}"><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>{bodies}</table>'


def _body(names: list[str], title: str, rows: Iterable[Iterable[str]]) -> str:
    lines = [f'<tr class="group"><th scope="rowgroup" colspan="{len(names)}">{escape(title)}</th></tr>'] if title else []
    for row in rows:
        first, *rest = row
        cells = "".join(f'<td data-label="{escape(name)}">{cell}</td>' for name, cell in zip(names[1:], rest, strict=True))
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return f"<tbody>{''.join(lines)}</tbody>"
