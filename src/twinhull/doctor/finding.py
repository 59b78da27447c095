"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """ok: fine; warn: the main job runs, but something is lost; missing: a container or a VM can't run."""

    OK = "ok"
    WARN = "warn"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and the mend ("" if there is nothing to mend)."""

    subject: str
    level: Level
    text: str
    mend: str = ""


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(subject, Level.OK, text)


def warn(subject: str, text: str, mend: str = "") -> Finding:
    """Something is lost, but containers and VMs run."""
    return Finding(subject, Level.WARN, text, mend)


def missing(subject: str, text: str, mend: str) -> Finding:
    """Containers or VMs can't run."""
    return Finding(subject, Level.MISSING, text, mend)
