"""What people say of containers and VMs, and what this machine says to it. Pure.

A claim is put as it is usually heard; its row tells which figures speak to it, what they say, and where that ends. A claim about
isolation gets no word of its own: its columns stand beside each other and are never merged into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twinhull.compare.model import Bound, Metric
from twinhull.compare.statistics import Verdict, Word

EMULATION = "This is about emulation (TCG): no conclusion about hardware virtualization follows."
_SAID = {
    "supported here": "supported here",
    "supported in part": "supported in part",
    "mixed": "mixed",
    "contradicted here": "contradicted here",
    "no difference found": "without a difference",
    "not decided": "not decided",
}
"""Words of claims in the order in which they are summed up."""


@dataclass(frozen=True, slots=True)
class Claim:
    """`metrics`: those that speak to it, a VM against a container; `columns`: of the isolation table."""

    topic: str
    text: str
    opposite: str
    metrics: tuple[str, ...]
    limits: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Against:
    """A VM against a container in one metric. `figures`: both medians, for people."""

    metric: Metric
    verdict: Verdict
    figures: str


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """`measured`: a line each. `word`: supported, contradicted, mixed, no difference, not decided, or (for isolation) beside each other."""

    claim: Claim
    word: str
    measured: str
    limits: str


CLAIMS = (
    Claim(
        "Start",
        "A container starts faster than a VM.",
        "VMs start as fast as containers today.",
        ("workload.ready", "start.ready", "start.output", "start.http"),
        "Warm starts of an image that is there. A VM goes on from a parked clone if one waits, else from a template; each way alone has "
        "rows too.",
    ),
    Claim(
        "Footprint",
        "A container needs less memory and disk than a VM.",
        "Containers cost more than VMs.",
        ("memory.anonymous", "memory.marginal", "workload.memory", "image.instance_disk"),
        "Idle instances, but for your application right after its load.",
    ),
    Claim(
        "Overhead",
        "The same program runs slower in a VM.",
        "Virtualization costs nothing any more.",
        (
            "workload.rate",
            "workload.latency",
            "workload.load",
            "cpu.single",
            "ram.bandwidth",
            "system.call",
            "disk.root_random32",
            "network.http",
            "network.latency",
        ),
        "Tools tell of the machine; of your application tell the rows that are named so (a SERVICE, or --workload).",
    ),
    Claim(
        "Isolation and security",
        "A container isolates better than a VM.",
        "A VM isolates better than a container.",
        (),
        "Columns are not a score. That an attempt failed shows no more than that this one failed; CPU side channels aren't measured.",
        ("Kernel", "System calls answered to the workload", "System calls open to the VMM process", "Escape attempts"),
    ),
    Claim(
        "Performance under a bad neighbour",
        "A VM protects its neighbours better.",
        "cgroups do it as well.",
        tuple(f"jitter.{word}_{victim}" for victim in ("container", "vm") for word in ("fork", "memory", "disk", "network")),
        "How late a timer is beside the same neighbour in a VM and in a container, with one CPU each; on few cores all share everything.",
    ),
    Claim(
        "Scaling",
        "Containers scale out faster.",
        "VMs scale as fast.",
        ("start.http", "memory.marginal"),
        "From zero to one, and what the next one costs. Scaling over several machines isn't measured.",
    ),
    Claim(
        "Density",
        "More containers than VMs fit on a machine.",
        "VMs can be packed as densely.",
        ("density.per_gib",),
        "Extrapolated from the few that ran; memory that guests share or give back isn't promised.",
    ),
    Claim(
        "Deployment speed",
        "A new version is up faster in a container.",
        "It makes no difference.",
        ("image.first_use",),
        "The image is on the machine already: the time to fetch it is the same for both.",
    ),
)


def judge(claim: Claim, found: Mapping[str, Against], facts: Mapping[str, str], *, emulated: bool) -> ClaimRow:
    """`found`: metric → the VM against the container; `facts`: column → both cells in one line."""
    limits = f"{claim.limits} {EMULATION}" if emulated and _emulation_matters(found) else claim.limits
    if claim.columns:
        seen = "\n".join(f"{column}: {facts[column]}" for column in claim.columns if column in facts)
        return ClaimRow(claim, "columns beside each other" if seen else "not measured", seen, limits)
    if not found:
        return ClaimRow(claim, "not measured", "", limits)
    measured = "\n".join(f"{each.metric.title}: {each.figures} ({told(each.verdict)})" for each in found.values())
    return ClaimRow(claim, _word(claim, [each.verdict.word for each in found.values()]), measured, limits)


def in_short(rows: Sequence[ClaimRow]) -> str:
    """One sentence of all claims: how many came out how, and which; "" where nothing was measured that speaks to one."""
    judged = [row for row in rows if row.word in _SAID]
    parts: list[str] = []
    for word, said in _SAID.items():
        topics = [row.claim.topic.lower() for row in judged if row.word == word]
        verb = "" if parts else "is " if len(topics) == 1 else "are "
        parts += [f"{len(topics)} {verb}{said} ({', '.join(topics)})"] if topics else []
    if not parts:
        return ""
    beside = [row.claim.topic for row in rows if row.claim.columns and row.measured]
    rest = f"; {beside[0].lower()}: columns without a score." if beside else "."
    return f"Of {len(judged)} claim{'s' if len(judged) > 1 else ''}, {', '.join(parts)}{rest}"


def _word(claim: Claim, words: list[Word]) -> str:
    """All claims but one say that the VM is worse."""
    supporting, against = (Word.BETTER, Word.WORSE) if claim.text.startswith("A VM") else (Word.WORSE, Word.BETTER)
    decided = [word for word in words if word is not Word.OPEN]
    if not decided:
        return "not decided"
    if all(word is Word.SAME for word in decided):
        return "no difference found"
    if against not in decided and supporting in decided:
        return "supported here" if len(decided) == len(words) and Word.SAME not in decided else "supported in part"
    return "contradicted here" if supporting not in decided else "mixed"


def told(verdict: Verdict) -> str:
    """ "worse, 7.10 ×": above one where there is more of it, whether that is good or bad."""
    return str(verdict) if verdict.word in (Word.SAME, Word.OPEN) else f"{verdict}, {times(verdict.ratio)}"


def times(ratio: float) -> str:
    """A ratio for people."""
    if ratio > 1e6 or ratio < 1e-6:
        return "≫ 1 ×" if ratio > 1 else "≪ 1 ×"
    return f"{ratio:.2f} ×" if 0.1 <= ratio < 10 else f"{ratio:.3g} ×" if ratio < 0.1 else f"{ratio:,.0f} ×"


def _emulation_matters(found: Mapping[str, Against]) -> bool:
    return any(each.metric.bound is Bound.CPU for each in found.values())
