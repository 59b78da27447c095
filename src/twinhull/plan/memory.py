"""What the planner has to remember from one plan to the next, because it can't be seen on the machine: rollouts and crashes.

The engine stores it as JSON with the plan's effects (before the actions begin) and gives it back unchanged. Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import TypeAdapter


class RolloutStatus(StrEnum):
    """running, paused, monitoring and rolling-back are under way; the others are over."""

    RUNNING = "running"
    PAUSED = "paused"
    MONITORING = "monitoring"
    """All instances are of the new revision; they may still fail within `monitor` seconds."""
    ROLLING_BACK = "rolling-back"
    DONE = "done"
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"
    """The new revision failed and there is no earlier one to return to, or that one failed too."""


UNDER_WAY = frozenset({RolloutStatus.RUNNING, RolloutStatus.PAUSED, RolloutStatus.MONITORING, RolloutStatus.ROLLING_BACK})


@dataclass(frozen=True, slots=True)
class Rollout:
    """The change of a service from one revision to another. previous "": there is nothing to return to.

    step: of a canary the index in its steps; of blue/green 1 once traffic is switched.
    failed: tokens of the instances that failed, each counted once.
    """

    to: str
    previous: str
    status: RolloutStatus = RolloutStatus.RUNNING
    reason: str = ""
    """Why it is paused, rolled back or failed: names the instance, its exit code or health."""
    started_at: float = 0.0
    ended_at: float = 0.0
    step: int = 0
    step_at: float = 0.0
    """When the step began to take its traffic; 0: not yet."""
    batch_at: float = 0.0
    """When an instance of the new revision last became ready, for `delay` and `monitor`."""
    proven: int = 0
    """How many of the new revision were ready at the most."""
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Crash:
    """Failures in a row in one slot. last: id and start of the instance that failed; until: when it may be replaced."""

    slot: int
    count: int
    last: str
    at: float
    until: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one service. stable: the last revision whose instances were all ready, "" none yet.

    completed: of a job, the revision as which it has succeeded.
    """

    stable: str = ""
    completed: str = ""
    rollout: Rollout | None = None
    crashes: tuple[Crash, ...] = ()


_adapter: TypeAdapter[dict[str, Memory]] = TypeAdapter(dict[str, Memory])


def dump(memories: Mapping[str, Memory]) -> bytes:
    """JSON of the memories of an app's services."""
    return _adapter.dump_json(dict(memories))


def load(text: bytes | str) -> dict[str, Memory]:
    """The opposite of `dump`."""
    return _adapter.validate_json(text)
