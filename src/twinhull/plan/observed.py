"""What is there, what is wanted: the two inputs of a plan.

The engine fills both, from its records, the instances, the gateway and the network. Times are seconds since the epoch, all from one clock;
0 means never. Everything is frozen: a plan is a function of these values and of the memory (plan/memory.py), and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from twinhull.plan.lifecycle import State
from twinhull.spec.app import AppSpec, ServiceSpec
from twinhull.spec.instance import Runtime


class HookState(StrEnum):
    """How far an instance's hooks of one kind are. `failed` holds the place of an error that the engine keeps for events."""

    NONE = "none"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance of a service. One-off instances (`twinhull run SERVICE`) are not shown to the planner.

    slot: compose's container-number, 1 and up; no two instances of a service have the same, dead ones included.
    fingerprint: the revision of the service that it was made from (spec.app.fingerprint).
    """

    id: str
    service: str
    slot: int
    fingerprint: str
    state: State
    name: str = ""
    runtime: Runtime = Runtime.CONTAINER
    created_at: float = 0.0
    started_at: float = 0.0
    """Of the last start; a restart by policy counts."""
    finished_at: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False
    lost: bool = False
    """It ended by the machine's doing, not its program's: QEMU or conmon died, the machine rebooted. Healed whatever its restart policy."""
    stopped: bool = False
    """Our own Stop ended it (a plan's, `stop` of the app); it may be started again when it is wanted again."""
    held: bool = False
    """A person stopped this very instance (`twinhull stop NAME`) after the last up or start: it is left alone."""
    reason: str = ""
    """Why it ended or failed to start, for people; "" when there is nothing to say beyond the exit code."""
    restarts: int = 0
    """By its restart policy, since it was created."""
    health: str = "none"
    """none (no check), starting, healthy, unhealthy."""
    health_since: float = 0.0
    """When `health` became what it is."""
    answering: bool | None = None
    """Whether a TCP connect to its first routed or exposed port succeeds. None: there is no such port, or it has a health check."""
    fault: str = ""
    """What the gateway holds against it ("12 of 20 answers were 5xx"), "" nothing. Counts as a failure during a rollout."""
    serving: bool = False
    """It takes new connections: in the virtual IP and, with weight > 0, in the gateway."""
    weight: int = 0
    serving_since: float = 0.0
    draining_since: float = 0.0
    """When Drain was applied; Serve sets it back to 0."""
    sessions: int = -1
    """Open connections or requests, -1 unknown."""
    post_start: HookState = HookState.NONE
    """Of the last start: a restart sets it back."""
    pre_stop: HookState = HookState.NONE


@dataclass(frozen=True, slots=True)
class Failure:
    """The last tries of an action failed. text: the error, for people; at: the end of the last one; count: in a row.

    action: the name of its class ("Start"): only the same is put off, so that what can't start can be removed at once. "": any.
    """

    text: str
    at: float
    count: int = 1
    action: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """networks, volumes: names of those that exist, of all that the app names or that carry its label.

    busy: keys of actions that still run (`Action.key`); nothing is asked of the same key meanwhile.
    failed: by key; kept by the engine until an action with that key succeeds. A key is tried again with growing delay.
    """

    now: float
    instances: tuple[Seen, ...] = ()
    networks: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    busy: frozenset[str] = frozenset()
    failed: Mapping[str, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of one service right now.

    replicas: `scale` and the autoscaler may override the file. stopped: `stop SERVICE`; its instances stay, stopped.
    asked_at: the last `up` or `start`: what ended before is started again, and nothing that failed before counts.
    restart_at: the last `restart`: instances started before are restarted in place, `parallelism` at a time.
    known: earlier revisions by fingerprint, at least those that instances are still of or that the memory names.
    """

    spec: ServiceSpec
    fingerprint: str
    replicas: int = 1
    stopped: bool = False
    asked_at: float = 0.0
    restart_at: float = 0.0
    known: Mapping[str, ServiceSpec] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Desired:
    """wishes: by service; a service of the file without a wish (`up web` alone, an inactive profile) is left as it is.

    removed: `down`. Orphans are instances of services that the file doesn't name. dropped: those of them that a rollback took away.
    """

    app: AppSpec
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    removed: bool = False
    remove_volumes: bool = False
    remove_orphans: bool = False
    dropped: frozenset[str] = frozenset()
