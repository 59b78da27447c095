"""How it was measured: the text at the bottom of every report, and the machine on top of it. Pure."""

from __future__ import annotations

from time import gmtime, strftime

from twinhull.compare import statistics
from twinhull.compare.measures import image
from twinhull.compare.model import Fact
from twinhull.compare.report.facts import Report
from twinhull.compare.report.text import listed, value

Columns = dict[str, dict[str, Fact]]


def apart(report: Report) -> tuple[Columns, Columns]:
    """What was seen of isolation, and of images."""
    own = {column: cells for column, cells in report.isolation.items() if column not in image.COLUMNS}
    return own, {column: cells for column, cells in report.isolation.items() if column in image.COLUMNS}


def title(report: Report) -> str:
    """Of the report."""
    return f"{report.run.title}: {listed(list(report.subjects))} compared"


def lines(report: Report) -> list[str]:
    """Sentences, one thought each."""
    run = report.run
    return [
        f"Turns of {listed(list(report.subjects))} alternate; their order within a round is random (seed {run.seed}). Warm-ups are apart.",
        f"Figures are medians, with 95 % percentile bootstrap intervals of {statistics.RESAMPLES} resamples. p99 is by nearest rank: "
        "below 100 samples it is the greatest.",
        "A verdict compares with the first subject by the ratio of medians: “no difference beyond x %” if its whole interval lies within "
        "x % of 1, “better” or “worse” if the interval leaves 1 out, else “not decided”, with the number of samples that would decide if "
        "the scatter stays.",
        f"Below {statistics.MINIMUM} samples of each side nothing is decided. Verdicts aren't corrected for their number: some are chance.",
        "Tools run in an image made from Debian's archive; start, memory and image figures are of your own image. Load comes from a "
        "container, the same for every subject.",
        "MemAvailable and anonymous memory are two views of the same: the first holds what the kernel itself spends and the noise of "
        "everything else on the machine, the second what belongs to the instance's processes alone.",
        "Every sample is in the report; the command beside a figure measures its group again.",
    ]


def machine(report: Report) -> list[tuple[str, str]]:
    """What the figures hold for."""
    run, found = report.run, report.run.machine
    return [
        ("when", strftime("%Y-%m-%d %H:%M UTC", gmtime(run.started_at))),
        ("CPU", f"{found.get('cpu', 'unknown')}, {found.get('cpus', '?')} cores"),
        ("memory", value(float(found.get("memory", 0)), "bytes")),
        ("kernel", str(found.get("kernel", "unknown"))),
        ("VM accelerator", str(found.get("accelerator", "unknown"))),
        ("Twinhull", str(found.get("twinhull", "unknown"))),
        *((name, str(version)) for name, version in dict(found.get("versions", {})).items()),
        ("profile, run", f"{run.profile}, {run.id}"),
    ]
