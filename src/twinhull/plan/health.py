"""Health as a fold over probe results. Pure; the engine's prober supplies clock and results."""

from __future__ import annotations

from dataclasses import dataclass, replace

from twinhull.spec.instance import HealthCheck

KEPT = 5
"""Probe results kept for `inspect`, as in Docker."""
OUTPUT_LIMIT = 4096
"""Bytes of a probe's output that are kept."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One run of the check. `code` 0 is healthy; a timeout counts as 124. Times: seconds since the epoch."""

    started: float
    ended: float
    code: int
    output: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """status: none (no check), starting, healthy, unhealthy."""

    status: str = "none"
    failing_streak: int = 0
    log: tuple[Probe, ...] = ()


def begin(check: HealthCheck | None) -> Health:
    """The health of an instance that has just started."""
    return Health("starting") if enabled(check) else Health()


def enabled(check: HealthCheck | None) -> bool:
    """Whether there is something to run."""
    return check is not None and len(check.test) > 1 and check.test[0] in ("CMD", "CMD-SHELL")


def after(health: Health, probe: Probe, check: HealthCheck, age: float) -> Health:
    """The health after one more probe; `age` is seconds since start. Failures within the start period don't count until a first success."""
    log = (*health.log, probe)[-KEPT:]
    if probe.code == 0:
        return Health("healthy", 0, log)
    if health.status == "starting" and age < check.start_period:
        return replace(health, log=log)
    streak = health.failing_streak + 1
    status = "unhealthy" if streak >= max(1, check.retries) else health.status
    return Health(status, streak, log)


def delay(health: Health, check: HealthCheck, age: float) -> float:
    """Seconds until the next probe."""
    if health.status == "starting" and age < check.start_period:
        return min(check.start_interval, check.interval)
    return check.interval


def command(check: HealthCheck) -> tuple[str, ...]:
    """argv of the probe."""
    kind, *rest = check.test
    return ("/bin/sh", "-c", rest[0]) if kind == "CMD-SHELL" else tuple(rest)
