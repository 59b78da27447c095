"""The table on the terminal, the raw samples as CSV, and a picture of all rows that have milliseconds."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.model import ROWS, Row, Samples, quantile, verdicts


def report(samples: Samples, out: Path, rows: Sequence[Row] = ROWS, name: str = "bench") -> None:
    """All of it; says where the files are. name: of the picture, and before the samples' unless it is the first."""
    for row in rows:
        if found := samples.of(row):
            _print(row, found)
    out.mkdir(parents=True, exist_ok=True)
    table = out / ("samples.csv" if rows is ROWS else f"{name}.csv")
    _write(samples, table)
    _draw(samples, out / f"{name}.png", rows)
    print(f"\n{table}, {out}/{name}.png")


def _print(row: Row, found: dict[str, list[float]]) -> None:
    print(f"\n{row.name}: {row.start} → {row.end}")
    judged = verdicts(row, found)
    for subject, values in found.items():
        words = "; ".join(str(verdict) for verdict in judged if verdict.target.subject == subject)
        middle, worst = statistics.median(values), quantile(values, 0.99)
        print(f"  {subject:30} n {len(values):4}  p50 {middle:9.4g}  p99 {worst:9.4g} {row.unit:5} {words}")


def _write(samples: Samples, path: Path) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("row", "start", "end", "subject", "number", "value", "unit"))
        for (row, subject), values in samples.values.items():
            table.writerows(
                (row.name, row.start, row.end, subject, number, f"{value:.6g}", row.unit) for number, value in enumerate(values)
            )


def _draw(samples: Samples, path: Path, known: Sequence[Row]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in known if row.unit == "ms" and samples.of(row)]
    if not rows:
        return
    figure, panels = pyplot.subplots(len(rows), 1, figsize=(10, 2.2 * len(rows)), squeeze=False, constrained_layout=True)
    for row, panel in zip(rows, panels[:, 0], strict=True):
        found = samples.of(row)
        panel.boxplot(list(found.values()), orientation="horizontal", whis=(1, 99), showfliers=False)
        panel.set_yticks(range(1, len(found) + 1), [f"{subject} (n={len(values)})" for subject, values in found.items()])
        panel.set_xscale("log")
        panel.set_title(f"{row.name}: {row.start} → {row.end}", fontsize=8, loc="left")
        panel.set_xlabel("ms: whiskers p1 and p99", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.invert_yaxis()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
