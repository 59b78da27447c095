"""The plots, drawn with matplotlib: distributions rather than bars, one colour and one line style for each subject.

Colours are Okabe and Ito's (2008), which people see apart whatever their eyes; nothing is told by colour alone. Drawn in placeholders that
the page replaces by its own variables, so that one drawing serves light, dark and paper (svg.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twinhull.compare import statistics
from twinhull.compare.report.facts import Report, Row
from twinhull.compare.report.text import value

WIDTH = 5.0
"""Inches: at ten points a letter, legible on a telephone without zooming."""
COLOURS = {"container": "#0072b2", "vm": "#d55e00", "sandbox": "#009e73", "docker": "#cc79a7", "podman": "#b87a00"}
_LINES: dict[str, Any] = {"container": "-", "vm": "--", "sandbox": "-.", "docker": ":", "podman": (0, (3, 1, 1, 1, 1, 1))}
_MARKS = {"container": "o", "vm": "s", "sandbox": "^", "docker": "D", "podman": "v"}
_STARTS = ("start.ready", "start.output", "start.http", "start.cli")
_LEAST = 1e-3
"""The left end of a logarithmic axis, for readings that came out as nothing or less."""
INK = "#111213"
STYLE: Any = {
    "font.size": 9,
    "font.family": ["DejaVu Sans"],
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure with what it says, for who can't see it."""

    name: str
    title: str
    alternative: str
    figure: Figure


def all_of(report: Report) -> list[Plot]:
    """Those that there are samples for."""
    return [plot for plot in (starts(report), memory(report), ratios(report)) if plot]


def starts(report: Report) -> Plot | None:
    """Start latency as empirical distribution functions."""
    rows = [row for row in report.rows if row.metric.name in _STARTS and any(cell.values for cell in row.cells)]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 1.7 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True)[:, 0]
    for axis, row in zip(axes, rows, strict=True):
        _ecdf(axis, row)
    axes[-1].set_xlabel("milliseconds, logarithmic")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    told = "; ".join(f"{row.metric.title}: {_medians(row)}" for row in rows)
    return Plot("starts", "Start latency: share of starts that took at most so long", told, figure)


def _ecdf(axis: Axes, row: Row) -> None:
    for cell in row.cells:
        if cell.values:
            points = statistics.ecdf([1000 * number for number in cell.values])
            xs, ys = [points[0][0], *(x for x, _ in points)], [0.0, *(y for _, y in points)]
            axis.step(xs, ys, where="post", label=cell.subject, color=COLOURS[cell.subject], linestyle=_LINES[cell.subject], linewidth=1.8)
    axis.set_xscale("log")
    axis.set_ylim(0, 1.03)
    axis.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    axis.set_title(row.metric.title)
    _plain_ticks(axis)


def ratios(report: Report) -> Plot | None:
    """Every sample of every figure, over the baseline's median: what is left of one takes less, what is right of it more."""
    base = report.subjects[0]
    rows = [row for row in report.rows if row.cell(base).summary and row.verdicts and row.metric.group not in ("memory", "cold")]
    rows = [row for row in rows if statistics.median(row.cell(base).values) > 0]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 0.42 * len(rows) + 0.9), layout="constrained")
    axis = figure.subplots()
    for number, row in enumerate(rows):
        _strip(axis, row, base, len(rows) - 1 - number)
    axis.set_xscale("log")
    axis.axvline(1, color=INK, linewidth=0.8)
    axis.set_yticks(range(len(rows)), [_short(row) for row in reversed(rows)], fontsize=7.5)
    axis.set_xlabel(f"× median of {base} (↑ more is better)")
    axis.set_ylim(-0.6, len(rows) - 0.4)
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=3, frameon=False)
    told = "; ".join(f"{row.metric.title}: {_medians(row)}" for row in rows)
    return Plot("ratios", f"All samples, as multiples of the median of {base}", told, figure)


def _strip(axis: Axes, row: Row, base: str, height: int) -> None:
    middle = statistics.median(row.cell(base).values)
    for place, cell in enumerate(cell for cell in row.cells if cell.values):
        at = height + 0.18 - 0.36 * place / max(1, len(row.cells) - 1)
        xs = [max(number / middle, _LEAST) for number in cell.values]
        style: dict[str, Any] = {"color": COLOURS[cell.subject], "label": cell.subject, "linestyle": ""}
        axis.plot(xs, [at] * len(xs), _MARKS[cell.subject], markersize=4, alpha=0.55, **style)
        axis.plot([statistics.median(xs)], [at], "|", markersize=11, markeredgewidth=2, **style | {"label": None})


_SHORTER = (
    ("Start, warm: request → ", "Start → "),
    ("Start by command line: ", "Command line: "),
    ("Servers per GiB, p95 ≤ 50 ms (extrapolated)", "Servers per GiB (extrapolated)"),
    ("Latency with several servers up: p95", "Latency, several servers up"),
    ("Memory per server after its requests", "Memory per server"),
    ("random 4 KiB reads, depth ", "4 KiB reads × "),
    ("Timer lateness ", "Timer "),
    ("Timer of a ", "Timer, "),
    (" beside a ", " by a "),
    (": p99.9", ""),
    ("Part of two instances' resident memory that is shared", "Resident memory that is shared"),
)
"""Titles as labels, which must stay apart within _LABEL letters."""
_LABEL = 34


def _short(row: Row) -> str:
    arrow = "↑" if row.metric.better.value == "higher" else "↓"
    words = row.metric.title
    for long, short in _SHORTER:
        words = words.replace(long, short)
    return f"{words if len(words) <= _LABEL else words[: _LABEL - 1] + '…'} {arrow}"


def memory(report: Report) -> Plot | None:
    """What n idle instances take in all, in both views."""
    titles = {"memory.anonymous": "anonymous memory of their processes", "memory.marginal": "taken from MemAvailable"}
    shown = [(name, curves) for name, curves in report.curves.items() if curves]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 1.9 * len(shown) + 0.5), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (name, curves) in zip(axes, shown, strict=True):
        for subject, steps in curves.items():
            sums = [sum(steps[: number + 1]) / 1e6 for number in range(len(steps))]
            style: dict[str, Any] = {"color": COLOURS[subject], "linestyle": _LINES[subject], "marker": _MARKS[subject]}
            axis.plot(range(1, len(sums) + 1), sums, markersize=4, label=subject, **style)
        axis.set_title(titles[name])
        axis.set_ylabel("MB")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("idle instances")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return Plot("memory", "Memory of one instance more", _told(shown), figure)


def _told(shown: Sequence[tuple[str, Mapping[str, tuple[float, ...]]]]) -> str:
    lines = [
        f"{name.partition('.')[2]}, {subject}: {value(sum(steps), 'bytes')} for {len(steps)} instances"
        for name, curves in shown
        for subject, steps in curves.items()
    ]
    return "; ".join(lines)


def _medians(row: Row) -> str:
    return ", ".join(f"{cell.subject} {value(cell.summary.median, row.metric.unit)}" for cell in row.cells if cell.summary)


def _plain_ticks(axis: Axes) -> None:
    """10, 30, 100: numbers, not powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
