"""What a plan asks for: one closed union of frozen dataclasses without behaviour. The engine executes them with `match` and `assert_never`.

All actions of one plan may run at once, with one exception: all Serve and Drain of a plan are **one** change of the balancers and the
gateway, made before the others begin, so that a switch from blue to green has no moment without servers. The engine observes again
whenever an action has ended, and asks for the next plan; what is still running is told by its key in `Observed.busy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from twinhull.plan.memory import Memory


class Hooks(StrEnum):
    """Which commands of the service."""

    POST_START = "post_start"
    PRE_STOP = "pre_stop"


@dataclass(frozen=True, slots=True)
class _OnNetwork:
    network: str
    reason: str

    @property
    def key(self) -> str:
        """What it acts on."""
        return f"network:{self.network}"


@dataclass(frozen=True, slots=True)
class CreateNetwork(_OnNetwork):
    """By the engine's name, as AppSpec.networks describes it."""


@dataclass(frozen=True, slots=True)
class RemoveNetwork(_OnNetwork):
    """Never an external one."""


@dataclass(frozen=True, slots=True)
class _OnVolume:
    volume: str
    reason: str

    @property
    def key(self) -> str:
        """What it acts on."""
        return f"volume:{self.volume}"


@dataclass(frozen=True, slots=True)
class CreateVolume(_OnVolume):
    """By the engine's name, as AppSpec.volumes describes it."""


@dataclass(frozen=True, slots=True)
class RemoveVolume(_OnVolume):
    """Never an external one."""


@dataclass(frozen=True, slots=True)
class Create:
    """Make (not start) an instance of the revision `fingerprint`.

    That may be an earlier one: the engine keeps the specs of all revisions that the memory names.
    """

    service: str
    slot: int
    fingerprint: str
    reason: str

    @property
    def key(self) -> str:
        """What it acts on."""
        return f"{self.service}/{self.slot}"


@dataclass(frozen=True, slots=True)
class _OnInstance:
    id: str
    service: str
    slot: int
    reason: str

    @property
    def key(self) -> str:
        """What it acts on."""
        return f"{self.service}/{self.slot}"


@dataclass(frozen=True, slots=True)
class Start(_OnInstance):
    """A created or stopped instance."""


@dataclass(frozen=True, slots=True)
class Restart(_OnInstance):
    """Stop within the grace period (pre_stop has run), start again in place. Out of the balancers already."""


@dataclass(frozen=True, slots=True)
class Stop(_OnInstance):
    """Signal, grace period, kill. Implies leaving the balancers, where it should still be in them."""


@dataclass(frozen=True, slots=True)
class Remove(_OnInstance):
    """An instance that doesn't run, with its writable layer. Implies leaving the balancers."""


@dataclass(frozen=True, slots=True)
class RunHook(_OnInstance):
    """Run the service's hooks of that kind inside, one after another; the outcome is told by Seen.post_start or Seen.pre_stop."""

    hooks: Hooks = Hooks.POST_START


@dataclass(frozen=True, slots=True)
class Serve(_OnInstance):
    """Let it take new connections with this weight (1–256), or change its weight.

    Sets serving, serving_since (unless it served already), draining_since 0.
    """

    weight: int = 100


@dataclass(frozen=True, slots=True)
class Drain(_OnInstance):
    """No new connections: out of the virtual IP, weight 0 in the gateway; open ones go on. Sets draining_since."""


@dataclass(frozen=True, slots=True)
class Tell:
    """An event for people: a rollout began, paused, failed and why, ended; an instance was replaced. level: info, warning or error.

    instance: the id whose last log lines belong to it, "" none. Told once: the memory that comes with the same plan knows of it.
    """

    service: str
    reason: str
    level: str = "info"
    instance: str = ""

    @property
    def key(self) -> str:
        """Tells don't exclude each other."""
        return f"tell:{self.service}:{self.reason}"


Action = (
    CreateNetwork | RemoveNetwork | CreateVolume | RemoveVolume | Create | Start | Restart | Stop | Remove | RunHook | Serve | Drain | Tell
)


class Phase(StrEnum):
    """What `ps` and `up --wait` say of a service."""

    UP = "up"
    """As many ready as wanted, all of the wanted revision (or of the one that a rollout returned to)."""
    STARTING = "starting"
    WAITING = "waiting"
    """For a dependency, a network or a volume."""
    UPDATING = "updating"
    SCALING_DOWN = "scaling-down"
    FAILING = "failing"
    """Not as many ready as wanted, and it was tried: healing goes on with back-off, or the restart policy has given up."""
    COMPLETED = "completed"
    """A job, or a service whose programs have all ended well."""
    STOPPED = "stopped"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a service stands. ready: instances that are ready to take connections (of a job: that have succeeded).

    settled: nothing will change by itself, `up --wait` may end; it failed unless the phase is up, completed, stopped or removed.
    """

    service: str
    phase: Phase
    ready: int
    wanted: int
    settled: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """actions: to begin now. memory: to be stored before. wake_at: plan again then, even if nothing happens; 0: no need.

    Same inputs, same plan; no actions, the same memory and wake_at 0 once everything is as it should be.
    """

    actions: tuple[Action, ...]
    memory: Mapping[str, Memory]
    standings: Mapping[str, Standing]
    wake_at: float = 0.0
