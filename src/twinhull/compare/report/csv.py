"""As CSV: every sample on a line, for a spreadsheet; what couldn't be measured has a reason instead of a value."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from twinhull.compare.model import Results
from twinhull.compare.report import facts
from twinhull.sys import fs

_HEAD = ("metric", "title", "unit", "subject", "sample", "value", "reason")


def write(results: Results, path: Path) -> None:
    """Whole or not at all."""
    fs.write_atomic(path, text(facts.build(results)))


def text(report: facts.Report) -> str:
    """All lines."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_HEAD)
    for row in report.rows:
        for cell in row.cells:
            head = (row.metric.name, row.metric.title, row.metric.unit, cell.subject)
            for number, value in enumerate(cell.values, 1):
                writer.writerow((*head, number, value, ""))
            if not cell.values:
                writer.writerow((*head, "", "", cell.reason))
    return out.getvalue()
