"""The life of an instance as one table, and the decision what follows an exit.

Pure: no clock, no randomness. The engine asks `after(state, event)` before every change, so that a wrong order is an
error here and not a surprise on the machine. `python -m twinhull.plan.lifecycle` prints the table as a Mermaid diagram.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from twinhull.spec.instance import RestartPolicy, RestartWhen

_BACKOFF_FIRST = 0.1
_BACKOFF_MOST = 60.0
_STEADY_AFTER = 10.0
"""Seconds of running after which an instance counts as recovered and back-off begins anew (Docker's figure)."""


class State(StrEnum):
    """What `ps` shows."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    DEAD = "dead"


class Event(StrEnum):
    """What happens to an instance."""

    START = "start"
    EXIT = "exit"
    EXIT_AND_RESTART = "exit-and-restart"
    GIVE_UP = "give-up"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    REMOVE_FAILED = "remove-failed"


TABLE: dict[tuple[State, Event], State] = {
    (State.CREATED, Event.START): State.RUNNING,
    (State.EXITED, Event.START): State.RUNNING,
    (State.RESTARTING, Event.START): State.RUNNING,
    (State.RUNNING, Event.EXIT): State.EXITED,
    (State.PAUSED, Event.EXIT): State.EXITED,
    (State.RUNNING, Event.EXIT_AND_RESTART): State.RESTARTING,
    (State.PAUSED, Event.EXIT_AND_RESTART): State.RESTARTING,
    (State.RESTARTING, Event.EXIT_AND_RESTART): State.RESTARTING,
    (State.RESTARTING, Event.GIVE_UP): State.EXITED,
    (State.RUNNING, Event.PAUSE): State.PAUSED,
    (State.PAUSED, Event.UNPAUSE): State.RUNNING,
    **{(state, Event.REMOVE_FAILED): State.DEAD for state in State},
}


def after(state: State, event: Event) -> State | None:
    """The state that follows, or None where the event is not allowed."""
    return TABLE.get((state, event))


def is_up(state: State) -> bool:
    """Whether a workload exists right now."""
    return state in (State.RUNNING, State.PAUSED)


@dataclass(frozen=True, slots=True)
class Ended:
    """What is known when a workload has ended. `ran`: seconds. `asked`: somebody stopped or killed it on purpose."""

    code: int
    ran: float
    restarts: int
    asked: bool


@dataclass(frozen=True, slots=True)
class Restart:
    """Start again after `delay` seconds; `restarts` is the new count."""

    delay: float
    restarts: int
    reason: str


def restart_after(policy: RestartPolicy, ended: Ended) -> Restart | None:
    """Whether and when an ended workload starts again, as Docker's policies say; the delay doubles up to a minute."""
    if ended.asked or not _wanted(policy, ended):
        return None
    restarts = 1 if ended.ran >= _STEADY_AFTER else ended.restarts + 1
    delay = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2 ** min(restarts - 1, 20))
    return Restart(delay, restarts, f"policy {policy.when}, exit code {ended.code}")


def starts_with_daemon(policy: RestartPolicy, *, stopped_on_purpose: bool) -> bool:
    """Whether an instance that doesn't run is started when the daemon comes up after a reboot."""
    if policy.when is RestartWhen.ALWAYS:
        return True
    return policy.when is RestartWhen.UNLESS_STOPPED and not stopped_on_purpose


def _wanted(policy: RestartPolicy, ended: Ended) -> bool:
    if policy.when is RestartWhen.NO:
        return False
    if policy.when is RestartWhen.ON_FAILURE:
        return ended.code != 0 and (policy.max_retries == 0 or ended.restarts < policy.max_retries)
    return True


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    rows = [f"    {state} --> {target}: {event}" for (state, event), target in TABLE.items() if event is not Event.REMOVE_FAILED]
    return "\n".join(["stateDiagram-v2", "    [*] --> created", *rows, ""])


if __name__ == "__main__":
    print(diagram(), end="")
