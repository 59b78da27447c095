"""What an engine can do with applications, and the views it answers with; the same laws as in `engine/base.py`."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from twinhull.spec.app import AppSpec
from twinhull.spec.instance import InstanceSpec, PortMapping


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A change of one service that is under way, or the last one. status: as in plan's rollout; old, new: fingerprints."""

    status: str
    old: str = ""
    new: str = ""
    updated: int = 0
    """Instances of the new fingerprint that serve."""
    total: int = 0
    since: float = 0.0
    reason: str = ""
    share: int = 0
    """Percent of new connections that the new fingerprint takes."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """An instance as a part of a service. serving: takes new connections; weight: its share of them."""

    name: str
    id: str
    slot: int
    fingerprint: str
    runtime: str
    state: str
    health: str
    serving: bool = False
    weight: int = 0
    restarts: int = 0
    exit_code: int = 0
    reason: str = ""
    address: str = ""
    started_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service. state: ready, starting, updating, degraded, stopped, completed, failed. reason: why it isn't ready."""

    name: str
    state: str
    runtime: str
    image: str
    image_id: str
    fingerprint: str
    desired: int
    ready: int
    reason: str = ""
    ports: tuple[PortMapping, ...] = ()
    routes: tuple[str, ...] = ()
    """URLs at which the gateway leads here."""
    addresses: dict[str, str] = field(default_factory=dict)
    """network → virtual address."""
    members: tuple[MemberView, ...] = ()
    rollout: RolloutView | None = None


@dataclass(frozen=True, slots=True)
class Happened:
    """One thing done to an application, and why. number: rises by one, for whoever shows only what is new."""

    number: int
    at: float
    action: str
    subject: str
    reason: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class AppView:
    """One application. state: the worst of its services'; "removing" while `down` is under way. log: what was done last, and why."""

    name: str
    state: str
    revision: int
    created_at: float
    updated_at: float
    folder: str = ""
    settled: bool = False
    """Whether nothing is left to do (for now)."""
    started: bool = False
    """Whether every service has its instances running, ready or not."""
    services: tuple[ServiceView, ...] = ()
    log: tuple[Happened, ...] = ()


@dataclass(frozen=True, slots=True)
class RevisionView:
    """One line of `history`. services: name → fingerprint."""

    number: int
    at: float
    cause: str
    current: bool
    services: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpOptions:
    """cause: for `history`. services: those meant, with their dependencies unless no_deps; empty: all. Others stay as they are.

    recreate: services whose instances are replaced even if nothing changed; salt: what makes this time differ from the last.
    renew_volumes: instances that are replaced don't inherit anonymous volumes. one_off: for `run`: only the dependencies come up.
    """

    cause: str = "up"
    remove_orphans: bool = False
    services: tuple[str, ...] = ()
    recreate: tuple[str, ...] = ()
    salt: str = ""
    renew_volumes: bool = False
    no_deps: bool = False
    one_off: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One action of a plan. subject: service or instance, network, volume."""

    action: str
    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class TargetView:
    """One target of a service that is scaled. value: what is wanted; stable, panic: averages over the two windows; latest: the last
    value; age: its age in seconds; wish: instances it asks for. None: unknown, and `note` says why."""

    target: str
    value: float
    stable: float | None = None
    panic: float | None = None
    latest: float | None = None
    age: float | None = None
    wish: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class BoundView:
    """One step of the decision that changed the number."""

    name: str
    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class ScaleView:
    """Why a service has as many instances as it has. current: before the last decision; desired: since. Times: seconds since the epoch.

    decided_by: the target or bound that had the last word. waiting: requests and connections that the activator holds. granted: what the
    machine's budget allows, -1 no bound; budget: why that isn't all. cpus, memory (bytes): of one instance, 0 no limit.
    """

    app: str
    service: str
    current: int
    desired: int
    ready: int
    min: int
    max: int
    decided_by: str
    reason: str
    targets: tuple[TargetView, ...] = ()
    bounds: tuple[BoundView, ...] = ()
    panic: bool = False
    last_used: float = 0.0
    waiting: int = 0
    granted: int = -1
    budget: str = ""
    wake_at: float = 0.0
    """When it is decided anew though nothing happens: a schedule begins or ends. 0: never."""
    cpus: float = 0.0
    memory: int = 0
    ups: int = 0
    """Since the daemon's start: how often there were more instances than before, fewer, and some where there were none; connections
    that the activator handed over, seconds that they were held, connections that it refused."""
    downs: int = 0
    wakes: int = 0
    passed: int = 0
    held_seconds: float = 0.0
    refused: int = 0


class AppEngine(abc.ABC):
    """Applications of one engine. `services` empty: all."""

    @abc.abstractmethod
    async def up(self, spec: AppSpec, options: UpOptions) -> AppView:
        """Write down what is wanted as a new revision, if it differs, and begin to make it so. spec: the whole file."""

    @abc.abstractmethod
    async def dry_run(self, spec: AppSpec, options: UpOptions) -> tuple[Step, ...]:
        """What `up` would do, and why; nothing is changed."""

    @abc.abstractmethod
    async def down(self, name: str, *, volumes: bool = False, timeout: float | None = None) -> tuple[str, ...]:
        """Stop and remove everything, dependants first; returns when it is gone, with what stays because others use it, and who.

        timeout, here and below: seconds until a kill; None: each service's own.
        """

    @abc.abstractmethod
    async def list(self) -> tuple[AppView, ...]: ...
    @abc.abstractmethod
    async def view(self, name: str) -> AppView: ...
    @abc.abstractmethod
    async def spec(self, name: str) -> AppSpec:
        """As wanted now, without secret values."""

    @abc.abstractmethod
    def watch(self, name: str) -> AsyncIterator[AppView]:
        """The view now and after every change, until the app is gone or the caller closes it."""

    @abc.abstractmethod
    async def scale(self, name: str, counts: dict[str, int]) -> AppView: ...
    @abc.abstractmethod
    async def scale_explain(self, name: str, service: str) -> ScaleView:
        """Why a service that is scaled by itself has as many instances as it has. Raises ConflictError for one that isn't."""

    @abc.abstractmethod
    async def stop(self, name: str, services: tuple[str, ...] = (), timeout: float | None = None) -> AppView: ...
    @abc.abstractmethod
    async def start(self, name: str, services: tuple[str, ...] = ()) -> AppView: ...
    @abc.abstractmethod
    async def restart(self, name: str, services: tuple[str, ...] = (), timeout: float | None = None) -> AppView:
        """Replace every instance by one of the same kind, as an update would."""

    @abc.abstractmethod
    async def history(self, name: str) -> tuple[RevisionView, ...]: ...
    @abc.abstractmethod
    async def rollback(self, name: str, revision: int = 0) -> AppView:
        """Make an earlier revision (0: the last one before that has services) the wanted one, images included, as a new revision.

        Services that it doesn't have are removed once the others are as it says; named volumes stay.
        """

    @abc.abstractmethod
    async def rollout(self, name: str, verb: str, services: tuple[str, ...] = ()) -> AppView:
        """verb: pause, resume or abort (go back to what was). Raises ConflictError where that changes nothing."""

    @abc.abstractmethod
    async def isolate(self, name: str, service: str, runtime: str) -> AppView:
        """Move a service into another hull, as an update."""

    @abc.abstractmethod
    async def one_off(self, spec: AppSpec, service: str) -> InstanceSpec:
        """What `run SERVICE` starts from: the service as this file has it, with labels and image, no ports, no restart.

        The networks and volumes that it needs are there then; the application must have been brought up, if only for this.
        """
