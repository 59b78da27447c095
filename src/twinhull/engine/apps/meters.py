"""What the autoscaler goes by: samples of each service from the gateway, the activator, the kernel's flows and the instances.

One look a second at the gateway, for all services together. What can't be read leaves no sample, and a target without one doesn't lower
anything. Nothing here decides.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from twinhull.activator.base import Activator
from twinhull.engine.apps.state import App, replicas
from twinhull.engine.live import Live
from twinhull.errors import TwinhullError
from twinhull.gateway.base import BackendStats, Gateway
from twinhull.instance.base import Stats
from twinhull.network.host import NetworkHost
from twinhull.plan import demand, resize
from twinhull.plan.demand import Sample, Traffic
from twinhull.plan.lifecycle import State
from twinhull.plan.scale import INTERVAL, key
from twinhull.spec.app import ScaleSpec, ScaleTarget, ServiceSpec

_log = logging.getLogger(__name__)
_STATS_SECONDS = 1.0
"""How long an instance may take to say what it uses."""
_SHORTEST = 0.5
"""Seconds between two looks below which a rate says too little."""
_SELDOM = 5.0
"""Seconds between two questions of which no target needs the answer: what is open beside the gateway (each walks through the kernel's
whole table of flows), and what the instances use (a guest has to answer)."""

Read = Callable[[App, ScaleTarget], Awaitable[float]]
"""The value of a queue or a query. Raises TwinhullError and OSError."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A service that is scaled. lives: its instances that are up."""

    app: App
    spec: ServiceSpec
    lives: tuple[Live, ...]

    @property
    def name(self) -> str:
        """ "APP/SERVICE"."""
        return f"{self.app.name}/{self.spec.name}"

    @property
    def count(self) -> int:
        """Instances that are wanted now."""
        return replicas(self.app.wanted, self.spec)

    @property
    def scale(self) -> ScaleSpec:
        """Its settings."""
        assert self.spec.scale is not None
        return self.spec.scale


@dataclass(eq=False)
class Meter:
    """Of one service. samples: by `key(target)`. uses: of its largest instance, for its size. memory: bytes that all of them use here."""

    last_used: float
    samples: dict[str, deque[Sample]] = field(default_factory=dict)
    looks: deque[tuple[float, Traffic]] = field(default_factory=deque)
    uses: deque[resize.Use] = field(default_factory=deque)
    memory: int = 0
    before: tuple[float, BackendStats] | None = None
    led: int = 0
    """Connections that its virtual addresses and published ports lead to it now."""
    led_at: float = 0.0
    inside_at: float = 0.0
    spent: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Instance id → (time, CPU nanoseconds) at the last look."""
    reading: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    """By key of a target: why it couldn't be read the last time."""

    def add(self, name: str, at: float, value: float, window: float) -> None:
        """One more sample; those before the window go."""
        kept = self.samples.setdefault(name, deque())
        kept.append(Sample(at, value))
        while kept[0].at <= at - window - INTERVAL:
            kept.popleft()

    def forget_sleep(self) -> None:
        """It wakes: an average over the time of sleep would say that nothing is needed. What was seen last may be why it wakes."""
        self.samples = {name: deque([kept[-1]]) for name, kept in self.samples.items() if kept}
        self.looks.clear()


@dataclass(eq=False)
class Meters:
    """All meters of an engine."""

    gateway: Gateway
    network: NetworkHost
    activator: Activator
    read: Read
    clock: Callable[[], float] = time.time
    meters: dict[str, Meter] = field(default_factory=dict)
    use_window: float = resize.WINDOW
    """Seconds of use that sizes go by."""

    def of(self, service: str, now: float) -> Meter:
        """Of "APP/SERVICE"; a new one counts as used now."""
        return self.meters.setdefault(service, Meter(now))

    async def look(self, subjects: Iterable[Subject], now: float) -> None:
        """One more sample of everything."""
        found = tuple(subjects)
        names = {subject.name for subject in found}
        for gone in self.meters.keys() - names:
            for task in self.meters.pop(gone).reading.values():
                task.cancel()
        stats = await self._gateway() if any(subject.spec.routes for subject in found) else {}
        await asyncio.gather(*(self._look(subject, None if stats is None else stats.get(subject.name), now) for subject in found))

    async def _gateway(self) -> Mapping[str, BackendStats] | None:
        try:
            return {backend.name: backend for backend in await self.gateway.stats()}
        except (TwinhullError, OSError, TimeoutError) as error:
            _log.warning("autoscaler: ask the gateway: %s", error)
            return None

    async def _look(self, subject: Subject, backend: BackendStats | None, now: float) -> None:
        meter = self.of(subject.name, now)
        await self._flows(subject, meter, now)
        self._traffic(subject, meter, backend, now)
        await self._inside(subject, meter, now)
        self._sources(subject, meter, now)

    # traffic

    async def _flows(self, subject: Subject, meter: Meter, now: float) -> None:
        """Connections that don't come through the gateway."""
        counted = not subject.spec.routes and _wants(subject, "concurrency")
        if now - meter.led_at < (INTERVAL / 2 if counted else _SELDOM) or not (counted or not subject.scale.min):
            return
        addresses = [endpoint.address for live in subject.lives for endpoint in live.endpoints]
        try:
            led = [await self.network.led_to(address) for address in addresses]
        except (TwinhullError, OSError) as error:
            _log.warning("autoscaler: connections of %s: %s", subject.name, error)
            return
        meter.led, meter.led_at = sum(count for count, _ in led), now
        meter.last_used = max([meter.last_used, *(now - age for _, age in led if math.isfinite(age))])

    def _traffic(self, subject: Subject, meter: Meter, backend: BackendStats | None, now: float) -> None:
        waiting = self.activator.waiting(subject.name)
        passed = self.activator.open_connections(subject.name)
        sessions = sum(server.sessions for server in backend.servers) if backend else passed + waiting
        inside = max(0, sessions - waiting) + meter.led
        queued = waiting + (backend.queue if backend else 0)
        if inside or queued:
            meter.last_used = now
        if subject.spec.routes and backend is None:
            meter.before = None
            return  # the gateway can't say
        look = self._rates(meter, backend, now, inside, queued)
        if look is None:
            return
        scale = subject.scale
        while meter.looks and meter.looks[0][0] <= now - max(scale.panic_window, INTERVAL):
            meter.looks.popleft()
        meter.looks.append((now, look))
        meter.add("concurrency", now, demand.concurrency([each for _, each in meter.looks], scale.window / 2), scale.window)
        if backend is not None and subject.spec.routes:
            meter.add("rps", now, look.arrivals, scale.window)
            if backend.p95 or not (look.arrivals or inside or queued):
                meter.add("p95", now, backend.p95, scale.window)

    @staticmethod
    def _rates(meter: Meter, backend: BackendStats | None, now: float, inside: int, queued: int) -> Traffic | None:
        if backend is None:
            return Traffic(0.0, 0.0, inside, queued)
        before, meter.before = meter.before, (now, backend)
        if before is None:
            return None
        at, earlier = before
        came = backend.requests - earlier.requests
        if now - at < _SHORTEST:
            meter.before = before
            return None
        if came < 0:
            return None  # another worker of the proxy began to count anew
        if came:
            meter.last_used = now
        open_before, open_now = earlier.sessions + earlier.queue, backend.sessions + backend.queue
        return Traffic(came / (now - at), max(0.0, came - (open_now - open_before)) / (now - at), inside, queued)

    # inside

    async def _inside(self, subject: Subject, meter: Meter, now: float) -> None:
        """CPU and memory, in percent of what an instance has: averages over the instances."""
        wanted = subject.scale.auto_resources or _wants(subject, "cpu", "memory")
        if now - meter.inside_at < (0 if wanted else _SELDOM):
            return
        meter.inside_at = now
        running = [live for live in subject.lives if live.record.state is State.RUNNING and live.instance is not None]
        found = await asyncio.gather(*(_stats(live) for live in running))
        known = [(live, stats) for live, stats in zip(running, found, strict=True) if stats is not None]
        meter.memory = sum(stats.host_memory for _, stats in known)
        cpus: list[tuple[float, float]] = []
        for live, stats in known:
            before = meter.spent.get(live.id)
            meter.spent[live.id] = (now, stats.cpu_ns)
            if before is not None and now > before[0] and stats.cpu_ns >= before[1]:
                used = (stats.cpu_ns - before[1]) / 1e9 / (now - before[0])
                cpus.append((used, live.record.spec.resources.cpus or 1.0))
        meter.spent = {live.id: meter.spent[live.id] for live, _ in known}
        window = subject.scale.window
        if cpus and len(known) == len(running):
            meter.add("cpu", now, 100.0 * sum(used / whole for used, whole in cpus) / len(cpus), window)
            self._use(meter, now, max(used for used, _ in cpus), max(stats.memory for _, stats in known))
        limits = [(stats.memory, stats.memory_limit) for _, stats in known if stats.memory_limit]
        if limits and len(limits) == len(running):
            meter.add("memory", now, 100.0 * sum(used / limit for used, limit in limits) / len(limits), window)

    def _use(self, meter: Meter, now: float, cpus: float, memory: int) -> None:
        meter.uses.append(resize.Use(now, cpus, memory))
        while meter.uses[0].at <= now - self.use_window:
            meter.uses.popleft()

    # elsewhere

    def _sources(self, subject: Subject, meter: Meter, now: float) -> None:
        """Queues and queries, each in its own time: none holds up another, or the decision."""
        for target in subject.scale.targets:
            name = key(target)
            if target.source and name not in meter.reading:
                task = asyncio.create_task(self._source(subject, meter, target), name=f"read {name}")
                meter.reading[name] = task
                task.add_done_callback(partial(_read, meter, name))

    async def _source(self, subject: Subject, meter: Meter, target: ScaleTarget) -> None:
        name = key(target)
        try:
            value = await self.read(subject.app, target)
        except Exception as error:
            if not isinstance(error, TwinhullError | OSError | TimeoutError):
                _log.exception("read %s", name)
            meter.trouble[name] = str(error) or type(error).__name__
            return
        meter.trouble.pop(name, None)
        meter.add(name, self.clock(), value, subject.scale.window)


def _read(meter: Meter, name: str, _task: object) -> None:
    meter.reading.pop(name, None)


def _wants(subject: Subject, *kinds: str) -> bool:
    return any(target.kind in kinds for target in subject.scale.targets)


async def _stats(live: Live) -> Stats | None:
    """None: it can't say now; a guest that stands still has no time."""
    assert live.instance is not None
    try:
        async with asyncio.timeout(_STATS_SECONDS):
            return await live.instance.stats()
    except (TwinhullError, OSError, TimeoutError, ValueError):
        return None
