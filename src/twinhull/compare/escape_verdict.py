"""What an attempt's outcome means: denied, contained or escaped. Pure.

The hull decides what may succeed. A container has the host's kernel, so nothing of the kernel may give way, whatever capabilities
were added; a VM's kernel is its own, and with all capabilities its workload may do there what it likes: the host is behind it.
By default (Docker's capabilities, our seccomp profile) both refuse alike. gVisor's kernel is a program on the host that has no
second wall inside: what succeeds there is contained by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from twinhull.compare.probes.table import Attempt, Owner

DEFAULT, USER, ALL = "default", "user", "all"
"""Levels: root with the default capabilities, uid 1000, root with every capability that --cap-add gives."""


@dataclass(frozen=True, slots=True)
class Row:
    """An attempt as it went."""

    attempt: Attempt
    hull: str
    level: str
    outcome: str
    text: str

    @property
    def verdict(self) -> str:
        """denied | contained | ESCAPED | broken."""
        if self.outcome != "succeeded":
            return self.outcome
        return "contained" if may_succeed(self.attempt.owner, self.hull, self.level) else "ESCAPED"


def may_succeed(owner: Owner, hull: str, level: str) -> bool:
    """Whether a success would stay inside, and is meant to be possible."""
    if owner is Owner.HOST:
        return False
    if hull == "sandbox":
        return True
    return level == ALL and (owner is Owner.SELF or hull == "vm")


def table(rows: list[Row]) -> str:
    """All rows, for people."""
    lines = [f"{'hull':10}{'level':9}{'verdict':11}{'attempt':30}{'what happened':50}"]
    for row in rows:
        text = " ".join(row.text.split())
        lines.append(f"{row.hull:10}{row.level:9}{row.verdict:11}{row.attempt.name:30}{text[:90]}")
    counts = {word: sum(row.verdict == word for row in rows) for word in ("denied", "contained", "ESCAPED", "broken")}
    lines.append(", ".join(f"{count} {word}" for word, count in counts.items()))
    return "\n".join(lines)
