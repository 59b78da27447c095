"""The report: the same facts as HTML, JSON, CSV, Markdown and PNG. Whatever is told is computed once, in `facts`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twinhull.compare.model import Results
from twinhull.errors import UserError

Writer = Callable[[Results, Path], None]
_FORMATS = ("html", "json", "csv", "md", "png")


def target(path: Path) -> tuple[Writer, Path]:
    """What writes a file of this name. Raises UserError at once, not after half an hour of measuring."""
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in _FORMATS:
        raise UserError(f"--output {path}: the ending says the format", f"use one of {', '.join('.' + name for name in _FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}")
    if suffix in ("html", "png"):
        _needs_plots()
    return _writer(suffix), path


def _writer(suffix: str) -> Writer:
    from importlib import import_module

    write: Writer = import_module(f"twinhull.compare.report.{suffix}").write
    return write


def _needs_plots() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UserError("plots need matplotlib, which isn't installed", "pip install 'twinhull[compare]', or write .json, .csv or .md")


def summary(results: Results) -> str:
    """For the terminal."""
    from twinhull.compare.report.facts import build
    from twinhull.compare.report.md import summary as told

    return told(build(results))
