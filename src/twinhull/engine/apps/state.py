"""One application in memory: what the database has of it, and what is going on with it now."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from twinhull.engine.apps.base import Happened
from twinhull.errors import NotFoundError
from twinhull.plan import memory as memories
from twinhull.plan import scale
from twinhull.plan.actions import Standing
from twinhull.plan.memory import Memory
from twinhull.plan.observed import Desired, Failure, Wish
from twinhull.plan.scale import ScaleMemory
from twinhull.spec.app import AppSpec, ServiceSpec, fingerprint
from twinhull.store.apps import AppRow, AppTable, Member, MemberState, Pin, Revision, Wanted

_HAPPENINGS = 60


@dataclass(eq=False)
class App:
    """Mutable on purpose; only the event loop's thread changes it. `wake` asks its loop to plan again, `announce` tells whoever watches."""

    table: AppTable
    row: AppRow
    revisions: list[Revision]
    members: dict[str, Member] = field(default_factory=dict)
    """By instance id; an instance that a person removed is taken out when it is missed."""
    memory: dict[str, Memory] = field(default_factory=dict)
    scaling: dict[str, ScaleMemory] = field(default_factory=dict)
    """What the autoscaler remembers; written down with the next change of what is wanted."""
    standings: Mapping[str, Standing] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    failed: dict[str, Failure] = field(default_factory=dict)
    health: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By instance id: its health, and since when."""
    answering: dict[str, bool] = field(default_factory=dict)
    probed: dict[str, float] = field(default_factory=dict)
    """By instance id: the start that `answering` is about."""
    kept: dict[str, str] = field(default_factory=dict)
    """What `down` leaves because others use it: key of the network or volume → who."""
    grace: dict[str, float] = field(default_factory=dict)
    """Seconds until a kill by service, where who stopped it by hand gave other ones than the file; until it is wanted again."""
    settled: bool = False
    trouble: str = ""
    """Why nothing can be led to its services: a port or a route is another's, the gateway can't run."""
    happened: deque[Happened] = field(default_factory=lambda: deque(maxlen=_HAPPENINGS))
    task: asyncio.Task[None] | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    _count: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """Its name."""
        return self.row.name

    @property
    def wanted(self) -> Wanted:
        """What people asked of it."""
        return self.row.wanted

    @property
    def revision(self) -> Revision:
        """The revision wanted now."""
        return self.find_revision(self.row.revision)

    @property
    def spec(self) -> AppSpec:
        """The file as wanted now."""
        return self.revision.spec

    def hurry(self, services: Collection[str], timeout: float | None) -> None:
        """Seconds until their instances are killed once they are to end; None: as the file says."""
        for service in services:
            self.grace.pop(service, None)
            if timeout is not None:
                self.grace[service] = timeout

    def find_revision(self, number: int) -> Revision:
        """Raises NotFoundError."""
        for revision in self.revisions:
            if revision.number == number:
                return revision
        raise NotFoundError(f"application {self.name} has no revision {number}", f"twinhull revisions -p {self.name} lists them")

    def service(self, name: str) -> ServiceSpec:
        """A service of the wanted revision. Raises NotFoundError."""
        return service_of(self.spec, name, f"; twinhull up {name} adds one of the file")

    def wants(self, service: str) -> bool:
        """Whether it is to run: asked for, and not stopped by a person."""
        return not self.wanted.removed and service in self.wanted.active and service not in self.wanted.stopped

    def made_from(self, service: str, mark: str) -> tuple[ServiceSpec, Pin] | None:
        """The newest description of a service with this fingerprint."""
        for revision in reversed(self.revisions):
            pin = revision.pins.get(service)
            if pin is not None and pin.fingerprint == mark:
                return revision.spec.services[service], pin
        return None

    # changes

    def save(self, *, wanted: Wanted | None = None, revision: Revision | None = None) -> None:
        """Write down; with a revision it becomes the wanted one."""
        text = memories.dump(self.memory).decode()
        number = revision.number if revision else self.row.revision
        scaling = scale.dump(self.scaling).decode()
        self.row = replace(self.row, wanted=wanted or self.wanted, revision=number, memory=text, scaling=scaling)
        if revision is not None:
            self.revisions.append(revision)
        self.table.save(self.row, revision)

    def change(self, **values: Any) -> None:
        """Change what is wanted, and write it down."""
        self.save(wanted=replace(self.wanted, **values))

    def mark(self, instance_id: str, **values: Any) -> None:
        """Change what is remembered of an instance, if it is still known."""
        member = self.members.get(instance_id)
        if member is None:
            return
        state: MemberState = replace(member.state, **values)
        if state != member.state:
            self.members[instance_id] = replace(member, state=state)
            self.table.save_member(self.members[instance_id])

    def note(self, action: str, subject: str, reason: str, *, failed: bool = False) -> None:
        """Something was done, or failed."""
        self._count += 1
        self.happened.append(Happened(self._count, time.time(), action, subject, reason, failed))
        self.announce()

    def wake(self) -> None:
        """Plan again soon."""
        self.settled = False
        self.woken.set()

    def announce(self) -> None:
        """Tell whoever watches."""
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def changed(self) -> asyncio.Event:
        """Set by the next `announce`. Take it before looking, so that no change comes in between unnoticed."""
        return self._changed


def service_of(spec: AppSpec, name: str, more: str = "") -> ServiceSpec:
    """A service of an application. Raises NotFoundError. more: for the end of its hint."""
    try:
        return spec.services[name]
    except KeyError:
        raise NotFoundError(
            f"application {spec.name} has no service {name}", f"it has: {', '.join(spec.services) or 'none'}{more}"
        ) from None


def salted(service: ServiceSpec, image_id: str, salt: str) -> str:
    """The fingerprint, changed by a salt if there is one."""
    mark = fingerprint(service, image_id)
    return hashlib.sha256(f"{mark} {salt}".encode()).hexdigest()[:12] if salt else mark


def replicas(wanted: Wanted, spec: ServiceSpec) -> int:
    """How many instances of a service are wanted: by the autoscaler, by people, by the file."""
    if spec.scale is not None:
        return wanted.autoscaled.get(spec.name, max(1, spec.scale.min))
    return wanted.scale.get(spec.name, spec.replicas)


def bounded(spec: ServiceSpec, count: int) -> int:
    """Within what the file allows the autoscaler."""
    return count if spec.scale is None else max(spec.scale.min, min(count, spec.scale.max))


def awake(wanted: Wanted, spec: AppSpec, services: Collection[str]) -> dict[str, int]:
    """`autoscaled` once these services were asked for: each has somebody, so that one sees whether it works."""
    found = {name: count for name, count in wanted.autoscaled.items() if name in spec.services and spec.services[name].scale is not None}
    for name in services:
        service = spec.services[name]
        if service.scale is not None:
            found[name] = bounded(service, max(1, found.get(name, service.replicas)))
    return found


def desired(app: App) -> Desired:
    """What the planner takes: the wanted revision, and what people asked beyond it."""
    wanted, revision = app.wanted, app.revision
    wishes = {}
    for name, spec in revision.spec.services.items():
        if name in wanted.active and name in revision.pins:
            wishes[name] = Wish(
                spec,
                revision.pins[name].fingerprint,
                replicas(wanted, spec),
                stopped=name in wanted.stopped,
                asked_at=wanted.asked_at.get(name, 0.0),
                restart_at=wanted.restart_at.get(name, 0.0),
                known=_known(app, name),
            )
    return Desired(revision.spec, wishes, wanted.removed, wanted.remove_volumes, wanted.remove_orphans, frozenset(wanted.dropped))


def _known(app: App, service: str) -> dict[str, ServiceSpec]:
    """Earlier descriptions that instances may still be of, or that a rollout may return to."""
    marks = {member.fingerprint for member in app.members.values() if member.service == service}
    remembered = app.memory.get(service, Memory())
    marks |= {remembered.stable} | ({remembered.rollout.previous, remembered.rollout.to} if remembered.rollout else set())
    return {mark: found[0] for mark in marks if mark and (found := app.made_from(service, mark))}
