"""In which condition an instance is, as far as its service is concerned; and in what words to say so.

Used by every other part of the planner, so that "ready" means the same to a rollout, a dependency, the gateway and the autoscaler.
"""

from __future__ import annotations

from enum import StrEnum

from twinhull.plan.lifecycle import State
from twinhull.plan.observed import HookState, Seen, Wish
from twinhull.spec.app import ServiceSpec
from twinhull.spec.instance import RestartWhen

SETTLE = 1.0
"""Seconds that an instance without a health check or a port has to run before it counts as ready."""
PATIENCE = 5.0
"""Seconds that an instance stays unhealthy (which `retries` probes have found already) before another takes its place."""
ANSWER_WITHIN = 60.0
"""Seconds in which an instance without a health check has to answer on its port before it is called failed."""


class Condition(StrEnum):
    """READY takes connections; STARTING, UNREADY and RESTARTING may become ready by themselves; the rest doesn't run."""

    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    """Runs, but unhealthy, for a short time still."""
    SICK = "sick"
    """Runs, but unhealthy for longer than PATIENCE, or its post_start hook failed: another has to take its place."""
    RESTARTING = "restarting"
    STOPPED = "stopped"
    """Ended on our or an earlier command's account: it is started again when wanted."""
    HELD = "held"
    """Stopped or paused by a person: left alone."""
    COMPLETED = "completed"
    GIVEN_UP = "given-up"
    """Ended badly, and its restart policy says to leave it at that."""
    BROKEN = "broken"
    """Ended, and to be replaced."""


RUNS = frozenset({Condition.STARTING, Condition.READY, Condition.UNREADY, Condition.SICK})
SATISFIED = frozenset({Condition.READY, Condition.COMPLETED, Condition.HELD})
"""Nothing more is expected of these."""
BAD = frozenset({Condition.UNREADY, Condition.SICK, Condition.RESTARTING, Condition.GIVEN_UP, Condition.BROKEN})


def condition(seen: Seen, wish: Wish, now: float) -> tuple[Condition, float]:
    """The condition, and when it changes by time alone (0: it doesn't)."""
    match seen.state:
        case State.CREATED:
            return Condition.NEW, 0.0
        case State.RESTARTING:
            return Condition.RESTARTING, 0.0
        case State.PAUSED:
            return Condition.HELD, 0.0
        case State.EXITED:
            return _ended(seen, wish), 0.0
        case State.DEAD:
            return Condition.BROKEN, 0.0
        case State.RUNNING:
            return _running(seen, wish, now)


def _running(seen: Seen, wish: Wish, now: float) -> tuple[Condition, float]:
    if revision(wish, seen.fingerprint).post_start and seen.post_start is not HookState.DONE:
        return (Condition.SICK if seen.post_start is HookState.FAILED else Condition.STARTING), 0.0
    match seen.health:
        case "healthy":
            return Condition.READY, 0.0
        case "starting":
            return Condition.STARTING, 0.0
        case "unhealthy":
            return _later(now, seen.health_since + PATIENCE, Condition.UNREADY, Condition.SICK)
    if seen.answering is None:
        return _later(now, seen.started_at + SETTLE, Condition.STARTING, Condition.READY)
    if seen.answering:
        return Condition.READY, 0.0
    deadline = seen.started_at + ANSWER_WITHIN
    return Condition.STARTING, deadline if now < deadline else 0.0


def _later(now: float, when: float, before: Condition, after: Condition) -> tuple[Condition, float]:
    return (after, 0.0) if now >= when else (before, when)


def _ended(seen: Seen, wish: Wish) -> Condition:
    if seen.held and seen.finished_at > wish.asked_at:
        return Condition.HELD
    if seen.stopped or seen.held or seen.finished_at <= wish.asked_at:
        return Condition.STOPPED
    spec = revision(wish, seen.fingerprint)
    policy = spec.template.restart
    promised = bool(spec.routes) or spec.scale is not None
    if seen.lost or promised or policy.when in (RestartWhen.ALWAYS, RestartWhen.UNLESS_STOPPED):
        return Condition.BROKEN
    if seen.exit_code == 0:
        return Condition.COMPLETED
    if policy.when is RestartWhen.ON_FAILURE and policy.max_retries == 0:
        return Condition.BROKEN
    return Condition.GIVEN_UP


def revision(wish: Wish, fingerprint: str) -> ServiceSpec:
    """The service as it was in that revision, as far as we know it."""
    return wish.spec if fingerprint == wish.fingerprint else wish.known.get(fingerprint, wish.spec)


def in_place(wish: Wish) -> bool:
    """Whether an instance has to be gone before its replacement runs: any revision that may be there writes to a volume."""
    return wish.spec.stateful or any(spec.stateful for spec in wish.known.values())


def mute(seen: Seen, at: Condition, now: float) -> bool:
    """Whether it runs, and has had time enough to answer on its port."""
    return at is Condition.STARTING and seen.answering is False and now >= seen.started_at + ANSWER_WITHIN


def failure(seen: Seen, at: Condition, now: float) -> str:
    """What has gone wrong with an instance during a rollout, "" nothing (yet)."""
    if at in BAD:
        return describe(seen)
    if seen.restarts:
        return f"restarted {times(seen.restarts)}{_tail(seen)}"
    if seen.fault:
        return seen.fault
    if mute(seen, at, now):
        return f"not answering on its port within {ANSWER_WITHIN:.0f} s"
    return ""


def describe(seen: Seen) -> str:
    """What has happened to an instance, without its name: "out of memory (exit code 137)"."""
    if seen.state is State.RUNNING:
        return "post_start hook failed" if seen.post_start is HookState.FAILED else seen.health
    if seen.oom_killed:
        return f"out of memory (exit code {seen.exit_code})"
    if seen.lost:
        return seen.reason or "ended with its hull"
    if seen.state is State.DEAD:
        return f"could not be removed{_tail(seen)}"
    return f"exited with code {seen.exit_code}{_tail(seen)}"


def _tail(seen: Seen) -> str:
    return f": {seen.reason}" if seen.reason else ""


def times(count: int) -> str:
    """ "once", "twice", "3 times"."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def label(seen: Seen) -> str:
    """The instance as people call it."""
    return seen.name or f"{seen.service}-{seen.slot}"
