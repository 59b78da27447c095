"""As JSON, for programs. Its shape is published in schema.json beside this module; `format` goes up when it changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twinhull.compare.model import Results
from twinhull.compare.report import facts
from twinhull.compare.report.facts import Cell, Report, Row
from twinhull.sys import fs

FORMAT = 1


def write(results: Results, path: Path) -> None:
    """Whole or not at all."""
    fs.write_atomic(path, json.dumps(plain(facts.build(results)), indent=2, ensure_ascii=False) + "\n")


def plain(report: Report) -> dict[str, Any]:
    """As schema.json says."""
    run = asdict(report.run)
    run["service"] = {key: value for key, value in run["service"].items() if key in ("app", "service")}
    for key in ("kind", "words"):
        run.pop(key)
    return {
        "format": FORMAT,
        "run": run,
        "complete": report.complete,
        "emulated": report.emulated,
        "headlines": [*filter(None, (report.short,)), *report.headlines],
        "remarks": list(report.remarks),
        "claims": [
            {"topic": row.claim.topic, "claim": row.claim.text, "measured": row.measured, "verdict": row.word, "limits": row.limits}
            for row in report.claims
        ],
        "metrics": [_row(row) for row in report.rows],
        "isolation": [
            {"column": column, "subject": subject, "text": fact.text, "how": fact.how, "data": fact.data}
            for column, cells in report.isolation.items()
            for subject, fact in cells.items()
        ],
    }


def _row(row: Row) -> dict[str, Any]:
    metric = row.metric
    return {
        "name": metric.name,
        "title": metric.title,
        "unit": metric.unit,
        "better": metric.better.value,
        "band": metric.band,
        "how": metric.how,
        "repeat": row.command,
        "remark": row.remark,
        "subjects": [_cell(cell) for cell in row.cells],
        "verdicts": [{"subject": subject, "text": str(found), **asdict(found)} for subject, found in row.verdicts.items()],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    if cell.summary is None:
        return {"subject": cell.subject, "n": 0, "reason": cell.reason}
    return {"subject": cell.subject, **asdict(cell.summary), "samples": list(cell.values)}
