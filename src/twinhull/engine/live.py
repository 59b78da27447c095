"""One instance as the engine holds it in memory: its record, and while it runs, its hull."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from twinhull.engine.base import AddressView, HealthView, InstanceView
from twinhull.errors import ConflictError, UserError
from twinhull.instance.base import Instance, Session
from twinhull.plan.health import Health
from twinhull.plan.lifecycle import Event, State, after, is_up
from twinhull.spec.instance import HealthCheck
from twinhull.spec.network import NetworkRecord
from twinhull.spec.process import ImageConfig, argv, health
from twinhull.store.db import EndpointRecord, InstanceRecord


@dataclass(eq=False)
class Live:
    """Mutable on purpose; `lock` guards every change of the hull, `announce` wakes whoever waits for a change."""

    record: InstanceRecord
    endpoints: tuple[EndpointRecord, ...] = ()
    instance: Instance | None = None
    health: Health = field(default_factory=Health)
    asked_to_end: bool = False
    removed: bool = False
    exits: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    starting: asyncio.Task[tuple[Instance, Session | None]] | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        """Full id."""
        return self.record.id

    @cached_property
    def image(self) -> ImageConfig:
        """The image's configuration as it was at creation."""
        return ImageConfig.parse(self.record.image_config)

    @property
    def check(self) -> HealthCheck | None:
        """The health check in force."""
        return health(self.record.spec, self.image)

    @property
    def up(self) -> bool:
        """Whether a workload exists."""
        return is_up(self.record.state)

    def next_state(self, event: Event) -> State:
        """The state after `event`. Raises ConflictError where the table has none."""
        state = after(self.record.state, event)
        if state is None:
            raise ConflictError(f"{event} instance {self.record.name}: it is {self.record.state}")
        return state

    def running(self) -> Instance:
        """The hull of a running instance. Raises ConflictError."""
        if self.instance is None or self.record.state is not State.RUNNING:
            raise ConflictError(f"instance {self.record.name} is not running: it is {self.record.state}", self._hint())
        return self.instance

    def announce(self) -> None:
        """Wake everyone in `wait_for`."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds; it is asked again after every change."""
        while not condition():
            await self._changed.wait()

    def change(self, **values: Any) -> InstanceRecord:
        """A new record; saving it is the caller's."""
        self.record = replace(self.record, **values)
        return self.record

    def _hint(self) -> str:
        if self.record.state is State.PAUSED:
            return f"twinhull unpause {self.record.name}"
        return f"twinhull start {self.record.name}"


def view(live: Live, networks: dict[str, NetworkRecord], log_path: str, accelerator: str) -> InstanceView:
    """What `inspect` shows; secrets are only paths here, never content."""
    record = live.record
    return InstanceView(
        id=record.id,
        name=record.name,
        image=record.spec.image,
        image_id=record.image_id,
        runtime=str(record.spec.runtime),
        state=str(record.state),
        created_at=record.created_at,
        spec=record.spec,
        argv=_argv(live),
        started_at=record.started_at,
        finished_at=record.finished_at,
        exit_code=record.exit_code,
        oom_killed=record.oom_killed,
        exit_reason=record.exit_reason,
        error=record.error,
        restart_count=record.restart_count,
        health=_health_view(live.health),
        addresses=tuple(_address(endpoint, networks) for endpoint in live.endpoints),
        ports=record.published,
        accelerator=accelerator,
        log_path=log_path,
    )


def _argv(live: Live) -> tuple[str, ...]:
    """Nothing for a record of an earlier version that has nothing to run: one such must not hide all others from a list."""
    try:
        return argv(live.record.spec, live.image)
    except UserError:
        return ()


def _health_view(state: Health) -> HealthView:
    rows: list[dict[str, str | int | float]] = [
        {"started": probe.started, "ended": probe.ended, "code": probe.code, "output": probe.output} for probe in state.log
    ]
    return HealthView(state.status, state.failing_streak, tuple(rows))


def _address(endpoint: EndpointRecord, networks: dict[str, NetworkRecord]) -> AddressView:
    network = networks[endpoint.network_id]
    return AddressView(network.name, endpoint.address, endpoint.mac, network.gateway, endpoint.aliases)
