"""A machine for the autoscaler: a gateway, flows and an activator that say what a test tells them, and a clock that it moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from twinhull.activator.base import Activator, Sleeper
from twinhull.engine.apps.allowance import Allowance
from twinhull.engine.apps.meters import Meters
from twinhull.engine.apps.scaling import Scaler
from twinhull.engine.apps.state import App, replicas
from twinhull.engine.events import Events
from twinhull.engine.tasks import Tasks
from twinhull.errors import TemporaryError
from twinhull.gateway.base import BackendStats, ServerStats
from twinhull.plan import memory, scale
from twinhull.plan.actions import Phase, Standing
from twinhull.plan.budget import Room
from twinhull.plan.resize import Size
from twinhull.spec.app import AppSpec, RouteSpec, ScaleSpec, ScaleTarget, ServiceSpec
from twinhull.spec.instance import InstanceSpec, Resources
from twinhull.store.apps import AppRow, AppTable, Pin, Revision, Wanted
from twinhull.store.db import Database

BEGIN = 1_800_000_000.0
UNBOUNDED, ANY = Room(), Resources()


class FakeActivator(Activator):
    """Holds as many as a test says."""

    def __init__(self) -> None:
        self.on_wanted = lambda _service: None
        self.held: dict[str, int] = {}
        self.serving: dict[str, tuple[str, ...]] = {}
        self.sleepers: tuple[Sleeper, ...] = ()

    async def open(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""

    async def apply(self, sleepers: Iterable[Sleeper]) -> None:
        """Remembered."""
        self.sleepers = tuple(sleepers)

    @property
    def port(self) -> int:
        """Any."""
        return 9

    def address(self, service: str, port: int) -> str:
        """Any."""
        return f"unix@/{service}.{port}"

    def ready(self, service: str, addresses: tuple[str, ...]) -> None:
        """Remembered."""
        self.serving[service] = addresses

    def waiting(self, service: str) -> int:
        """As told."""
        return self.held.get(service, 0)

    def open_connections(self, service: str) -> int:
        """None."""
        return 0


@dataclass
class FakeTraffic:
    """The gateway's statistics by service. None: it can't say. led: open connections that don't come through it."""

    totals: dict[str, int] | None = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)
    led: int = 0

    async def stats(self) -> tuple[BackendStats, ...]:
        """As told."""
        if self.totals is None:
            raise TemporaryError("the gateway is away")
        return tuple(
            BackendStats(name, 0.0, count, 0, total, 0, 0.01, (ServerStats(f"{name}-1", count, total, 0, "UP"),))
            for name, total in self.totals.items()
            for count in (self.sessions.get(name, 0),)
        )

    async def led_to(self, address: str) -> tuple[int, float]:
        """As told."""
        return self.led, float("inf")


class FakeSizing:
    """Sizes stay as they are."""

    def __init__(self) -> None:
        self.kept_warm: list[str] = []

    async def look(self, *_: object) -> None:
        """Nothing."""

    def keep_warm(self, subject: Any) -> None:
        """Remembered."""
        self.kept_warm.append(subject.name)

    def size(self, subject: Any) -> Size:
        """As the file says."""
        resources = subject.spec.template.resources
        return Size(resources.cpus, resources.memory)


class Lab:
    """Applications of one service each, of which all that is wanted is there at once."""

    def __init__(self, folder: Path, room: Room = UNBOUNDED) -> None:
        self.folder, self.now = folder, BEGIN
        self.database = Database(folder / "twinhull.db")
        self.table = AppTable(self.database)
        self.apps: dict[str, App] = {}
        self.traffic, self.activator, self.sizing = FakeTraffic(), FakeActivator(), FakeSizing()
        self.tasks, self.events = Tasks(), Events(self.database)
        self.told: list[dict[str, str]] = []
        self.events.called.append(lambda event: self.told.append({"action": event.action, **event.attributes}))
        self.unread: dict[str, float] = {}
        gateway, network = cast("Any", self.traffic), cast("Any", self.traffic)
        meters = Meters(gateway, network, self.activator, self._read, lambda: self.now)
        allowance = Allowance(room, self.apps, {}, lambda: 0)
        self.scaler = Scaler(
            self.apps, {}, meters, self.activator, allowance, cast("Any", self.sizing), self.events, self.tasks, lambda: self.now
        )

    async def _read(self, app: App, target: ScaleTarget) -> float:
        if target.source not in self.unread:
            raise TemporaryError("no answer")
        return self.unread[target.source]

    def add(self, name: str, spec: ScaleSpec, *, routed: bool = True, resources: Resources = ANY) -> App:
        """An application whose service is called web."""
        routes = (RouteSpec(port=80),) if routed else ()
        service = ServiceSpec("web", InstanceSpec("img", resources=resources), routes=routes, scale=spec)
        revision = Revision(name, 1, self.now, "up", AppSpec(name, {"web": service}), {"web": Pin("i", "f")})
        app = App(self.table, AppRow(name, self.now, 1, Wanted(active=("web",))), [])
        app.save(revision=revision)
        self.apps[name] = app
        if self.traffic.totals is not None:
            self.traffic.totals[f"{name}/web"] = 0
        return app

    def reload(self) -> None:
        """As the next daemon finds them."""
        self.apps.clear()
        for row in self.table.apps():
            app = App(self.table, row, self.table.revisions(row.name))
            app.memory, app.scaling = memory.load(row.memory), scale.restore(row.scaling)
            self.apps[row.name] = app
        self.scaler.meters.meters.clear()

    def count(self, name: str) -> int:
        """Instances wanted."""
        app = self.apps[name]
        return replicas(app.wanted, app.spec.services["web"])

    async def run(self, seconds: int, rates: Mapping[str, float] = {}) -> list[int]:
        """Tick by tick with so many requests a second for each application; the numbers of the first one."""
        found = []
        for _ in range(seconds):
            self.now += 1.0
            if self.traffic.totals is not None:
                for name, rate in rates.items():
                    self.traffic.totals[f"{name}/web"] += round(rate)
            for name, app in self.apps.items():
                count = self.count(name)
                app.standings = {"web": Standing("web", Phase.UP, count, count, settled=True)}
            await self.scaler.tick(self.now)
            found.append(self.count(next(iter(self.apps))))
        return found

    def reasons(self, action: str = "autoscale") -> list[str]:
        """Of the events so far."""
        return [each["reason"] for each in self.told if each["action"] == action]

    def change(self, name: str, **values: Any) -> None:
        """What a person changes."""
        app = self.apps[name]
        app.save(wanted=replace(app.wanted, **values))

    async def close(self) -> None:
        """End what still runs."""
        await asyncio.sleep(0)  # what was just begun begins
        await self.tasks.close()
        self.database.close()
