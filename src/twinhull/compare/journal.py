"""A run on disk: one folder with `samples.jsonl`, whose first line is the run itself and whose others are records, appended as they come.

A turn counts once its last line, `done`, is there. A run that goes on cuts off what comes after the last one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from twinhull.compare import model
from twinhull.compare.model import Done, Record, Run
from twinhull.errors import NotFoundError, UserError
from twinhull.sys import fs

NAME = "samples.jsonl"


def folder() -> Path:
    """Where runs are kept: $TWINHULL_HOME/compare, or the user's state folder (XDG base directory specification)."""
    home = os.environ.get("TWINHULL_HOME")
    if home:
        return Path(os.path.abspath(home)) / "compare"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "twinhull" / "compare"


def runs() -> list[Path]:
    """The journals there are, the oldest first."""
    return sorted(folder().glob(f"*/{NAME}"), key=lambda path: path.stat().st_mtime)


def last(app: str = "", service: str = "") -> Path:
    """The newest journal, of this service if there is one. Raises NotFoundError."""
    found = runs()
    if not found:
        raise NotFoundError("nothing has been compared yet", "begin with: twinhull compare IMAGE")
    return next((path for path in reversed(found) if service and _is_of(path, app, service)), found[-1])


def _is_of(path: Path, app: str, service: str) -> bool:
    try:
        with path.open(encoding="utf-8") as lines:
            told = model.parse_run(json.loads(next(lines))).service
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return False
    return (told.get("app"), told.get("service")) == (app, service)


class Journal:
    """Open for appending. Every line is written whole and at once, so that an interruption costs the line that was never begun."""

    def __init__(self, path: Path, run: Run, records: list[Record | Done]) -> None:
        self.path = path
        self.run = run
        self.records = records
        self._file = path.open("a", encoding="utf-8")

    @classmethod
    def create(cls, run: Run) -> Self:
        """A new run's."""
        path = folder() / run.id / NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        fs.write_atomic(path, _line(model.plain(run)))
        return cls(path, run, [])

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """A run that goes on: what an interrupted turn left is cut off."""
        run, records, whole = _read(path)
        os.truncate(path, whole)
        return cls(path, run, records)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def write(self, record: Record | Done) -> None:
        """One line more."""
        self.records.append(record)
        self._file.write(_line(model.plain(record)))
        self._file.flush()


def read(path: Path) -> tuple[Run, list[Record | Done]]:
    """A journal's run and its records up to the last complete turn. Raises UserError."""
    run, records, _ = _read(path)
    return run, records


def _read(path: Path) -> tuple[Run, list[Record | Done], int]:
    """The same, and the number of bytes that they take."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        run = model.parse_run(json.loads(lines[0]))
        records: list[Record | Done] = []
        end, kept, offset = len(lines[0]), 0, len(lines[0])
        for line in lines[1:]:
            offset += len(line)
            if not line.endswith(b"\n"):
                break
            records.append(model.parse(json.loads(line)))
            if isinstance(records[-1], Done):
                end, kept = offset, len(records)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"read {path}: no journal of this version: {error}", "begin a new run: twinhull compare IMAGE") from error
    return run, records[:kept], end


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"
