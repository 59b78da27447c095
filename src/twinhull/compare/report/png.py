"""The plots as one picture, for a message or a slide."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.image import imread

from twinhull.compare.model import Results
from twinhull.compare.report import facts, method, plots
from twinhull.sys import fs

_DPI = 150


def write(results: Results, path: Path) -> None:
    """Whole or not at all. Columns of plots below the title, the machine and what has to be known."""
    report = facts.build(results)
    with mpl.rc_context(plots.STYLE):
        pictures = [(plot.title, _picture(plot)) for plot in plots.all_of(report)]
        figure = Figure(
            figsize=(5.4 * max(1, len(pictures)), 1.4 + max((_height(p) for _, p in pictures), default=0)), layout="constrained"
        )
        figure.suptitle(f"{method.title(report)}\n{_subtitle(report)}", fontsize=11)
        axes = figure.subplots(1, max(1, len(pictures)), squeeze=False)[0]
        for axis in axes:
            axis.axis("off")
            axis.set_anchor("N")
        for axis, (title, picture) in zip(axes, pictures, strict=False):
            axis.imshow(picture, aspect="equal", interpolation="antialiased")
            axis.set_title(title, fontsize=9)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    fs.write_atomic(path, out.getvalue())


def _subtitle(report: facts.Report) -> str:
    machine = dict(method.machine(report))
    return " · ".join([machine["CPU"], f"VMs: {machine['VM accelerator']}", f"run {report.run.id}, seed {report.run.seed}"])


def _picture(plot: plots.Plot) -> Any:
    """Its pixels."""
    out = io.BytesIO()
    plot.figure.savefig(out, format="png", dpi=2 * _DPI, facecolor="white")
    out.seek(0)
    return imread(out)


def _height(picture: Any) -> float:
    """Inches."""
    return float(picture.shape[0]) / (2 * _DPI)
