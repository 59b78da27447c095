"""The autoscaler of an engine: every second it measures, decides (plan/scale.py) and writes down how many instances each service has.

Laws: only what is wanted is changed here, the apps' loops make it so; a service that isn't active, or was stopped by a person, is left
alone; while a rollout is under way nothing is lowered; every change is an event with its reason. A request for a service that sleeps
doesn't wait for the next second: the activator calls `wake`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from twinhull.activator.base import Activator
from twinhull.engine.apps.allowance import Allowance
from twinhull.engine.apps.base import BoundView, ScaleView, TargetView
from twinhull.engine.apps.meters import Meters, Subject
from twinhull.engine.apps.sizing import Sizing
from twinhull.engine.apps.state import App, bounded
from twinhull.engine.events import Events
from twinhull.engine.live import Live
from twinhull.engine.tasks import Tasks
from twinhull.errors import ConflictError, NotFoundError
from twinhull.plan import scale
from twinhull.plan.budget import Grant
from twinhull.plan.memory import UNDER_WAY, Memory
from twinhull.plan.scale import INTERVAL, Bound, Decision, Load, ScaleMemory, decide

_log = logging.getLogger(__name__)
_CROWD = 0.05
"""Seconds after the first request for a service that sleeps until those that came with it are counted."""


@dataclass(eq=False)
class Scaler:
    """One per engine."""

    apps: Mapping[str, App]
    lives: Mapping[str, Live]
    meters: Meters
    activator: Activator
    allowance: Allowance
    sizing: Sizing
    events: Events
    tasks: Tasks
    clock: Callable[[], float] = time.time
    decisions: dict[str, tuple[int, Decision]] = field(default_factory=dict)
    """By "APP/SERVICE": instances before the last decision, and the decision."""
    grants: dict[str, Grant] = field(default_factory=dict)
    _changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a service went up, down, or woke."""
    _told: dict[str, str] = field(default_factory=dict)
    """What was last said about the budget, so that it is said once."""

    async def run(self) -> None:
        """Once a second, for ever."""
        self.activator.on_wanted = self.wake
        while True:
            begun = time.monotonic()
            try:
                await self.tick(self.clock())
            except Exception:
                _log.exception("autoscaler")
            await asyncio.sleep(max(0.0, begun + INTERVAL - time.monotonic()))

    async def tick(self, now: float) -> None:
        """One measurement and decision for all services."""
        subjects = self.subjects()
        await self.meters.look(subjects, now)
        subjects = tuple(each for each in subjects if self._is_current(each))  # what a person changed meanwhile is left alone
        for subject in subjects:
            if not subject.count and self.activator.waiting(subject.name):
                self.wake(subject.name)
        wishes = {subject.name: self._decide(subject, now, granted=-1) for subject in subjects}
        self.grants = self.allowance.admit(subjects, {name: decision.desired for name, decision in wishes.items()}, now)
        for subject in subjects:
            decision, grant = wishes[subject.name], self.grants.get(subject.name)
            if grant is not None and grant.instances < decision.desired:
                decision = self._decide(subject, now, granted=grant.instances)
            self._tell_budget(subject, grant)
            self._apply(subject, decision, self._reason(decision, grant))
        for subject, count, reason in self.allowance.evictions(subjects, self.meters.meters, now):
            self._set(subject, count, reason)
        await self.sizing.look(subjects, self.meters.meters, now)
        for name in self.decisions.keys() - {subject.name for subject in subjects}:
            del self.decisions[name]

    def wake(self, service: str) -> None:
        """Somebody waits for a service that has nobody: begin at once. Called by the activator; doesn't wait."""
        subject = next((each for each in self.subjects() if each.name == service), None)
        if subject is None:
            return
        if self._rouse(subject):
            self.tasks.spawn(f"crowd at {service}", self._count_crowd(subject))

    def _rouse(self, subject: Subject) -> bool:
        """As many as those who wait need, at least one. Whether something was changed."""
        now, present = self.clock(), subject.count
        waiting = self.activator.waiting(subject.name)
        wanted = max(present, bounded(subject.spec, _needed(subject, waiting)), 1)
        if wanted == present:
            return False
        grant = self.allowance.admit(self.subjects(), {subject.name: wanted}, now).get(subject.name)
        granted = wanted if grant is None else grant.instances
        self._tell_budget(subject, grant)
        if granted <= present:
            return False
        self.meters.of(subject.name, now).last_used = now
        self._remember(subject, granted, now)
        self._set(subject, granted, f"wake: {max(1, waiting)} waiting")
        return True

    async def _count_crowd(self, subject: Subject) -> None:
        """Requests come together: those right behind the first count before the next second does."""
        await asyncio.sleep(_CROWD)
        if self._is_current(subject) and self.activator.waiting(subject.name):
            self._rouse(subject)

    def _remember(self, subject: Subject, count: int, now: float) -> None:
        """It was wished for by more than a metric: kept for `scale_down_delay`."""
        before = subject.app.scaling.get(subject.spec.name, ScaleMemory())
        wishes = (*before.wishes, (now, count))
        subject.app.scaling[subject.spec.name] = replace(before, wishes=wishes, desired=(*before.desired, (now, count)))

    def used(self, app: App, services: Iterable[str]) -> None:
        """Somebody asked for these services: as good as a request."""
        now = self.clock()
        for service in services:
            self.meters.of(f"{app.name}/{service}", now).last_used = now

    def set_by_hand(self, app: App, counts: Mapping[str, int]) -> None:
        """A person is about to set these numbers: kept for `scale_down_delay` at least, then they are the autoscaler's again."""
        self.used(app, counts)
        now = self.clock()
        for service, count in counts.items():
            app.scaling[service] = ScaleMemory(wishes=((now, count),), desired=((now, count),))

    # what there is

    def subjects(self) -> tuple[Subject, ...]:
        """Services that are scaled now, in a fixed order."""
        return tuple(
            Subject(app, spec, self._lives(app, spec.name))
            for app in self.apps.values()
            if not app.wanted.removed
            for spec in app.spec.services.values()
            if spec.scale is not None and not spec.job and app.wants(spec.name)
        )

    def _lives(self, app: App, service: str) -> tuple[Live, ...]:
        members = (member.instance_id for member in app.members.values() if member.service == service)
        return tuple(live for each in members if (live := self.lives.get(each)) is not None and live.up)

    def _is_current(self, subject: Subject) -> bool:
        app, name = subject.app, subject.spec.name
        return self.apps.get(app.name) is app and app.spec.services.get(name) is subject.spec and app.wants(name)

    # deciding

    def _load(self, subject: Subject, now: float, granted: int) -> Load:
        meter = self.meters.of(subject.name, now)
        standing = subject.app.standings.get(subject.spec.name)
        samples = {name: tuple(kept) for name, kept in meter.samples.items()}
        return Load(now, subject.count, standing.ready if standing else 0, samples, meter.last_used, granted)

    def _decide(self, subject: Subject, now: float, *, granted: int) -> Decision:
        app, name = subject.app, subject.spec.name
        before = app.scaling.get(name, ScaleMemory())
        load = self._load(subject, now, granted)
        decision = decide(subject.scale, load, before)
        under_way = app.memory.get(name, Memory()).rollout
        if decision.desired >= load.current or under_way is None or under_way.status not in UNDER_WAY:
            return decision
        held = min(load.current, subject.scale.max)  # capacity was promised for as long as it is replaced
        bound = Bound("rollout", decision.desired, held, "nothing is scaled down while a rollout is under way")
        kept = replace(decision.memory, desired=before.desired, lowered_at=before.lowered_at)
        return replace(decision, desired=held, decided_by="rollout", bounds=(*decision.bounds, bound), memory=kept)

    @staticmethod
    def _reason(decision: Decision, grant: Grant | None) -> str:
        if decision.decided_by == "budget" and grant is not None and grant.reason:
            return f"budget: {grant.reason}"
        return decision.reason

    def _apply(self, subject: Subject, decision: Decision, reason: str) -> None:
        self.decisions[subject.name] = (subject.count, decision)
        subject.app.scaling[subject.spec.name] = decision.memory
        self._set(subject, decision.desired, reason)

    def _set(self, subject: Subject, count: int, reason: str) -> None:
        """Write it down, tell it, and have it made so."""
        app, name, before = subject.app, subject.spec.name, subject.count
        if count == before:
            return
        if not before:
            self.meters.of(subject.name, self.clock()).forget_sleep()
        app.change(autoscaled={**app.wanted.autoscaled, name: count})
        self._changes[subject.name, "up" if count > before else "down"] += 1
        self._changes[subject.name, "wake"] += not before
        app.note("scale", name, f"{before} → {count}; {reason}")
        self.events.emit("app", "autoscale", "", app.name, service=name, before=str(before), after=str(count), reason=reason)
        if not count:
            self.sizing.keep_warm(subject)
        app.wake()

    def _tell_budget(self, subject: Subject, grant: Grant | None) -> None:
        reason = grant.reason if grant is not None else ""
        if reason and self._told.get(subject.name) != reason:
            self.events.emit("app", "budget", "", subject.app.name, service=subject.spec.name, reason=reason)
        self._told[subject.name] = reason

    # showing

    def explain(self, app: App, service: str) -> ScaleView:
        """The last decision, and what it was made from. Raises NotFoundError, ConflictError."""
        spec = app.service(service)
        if spec.scale is None:
            raise ConflictError(f"service {service} of application {app.name} isn't scaled by itself", "x-twinhull: {scale: {…}}")
        subject = next((each for each in self.subjects() if each.app is app and each.spec.name == service), None)
        if subject is None:
            raise NotFoundError(f"service {service} of application {app.name} is stopped or not active", "twinhull start")
        now = self.clock()
        meter = self.meters.of(subject.name, now)
        before, decision = self.decisions.get(subject.name) or (subject.count, self._decide(subject, now, granted=-1))
        grant = self.grants.get(subject.name)
        load, counts = self._load(subject, now, -1), self.activator.counts(subject.name)
        return ScaleView(
            app=app.name,
            service=service,
            current=before,
            desired=load.current,
            ready=load.ready,
            min=spec.scale.min,
            max=spec.scale.max,
            decided_by=decision.decided_by,
            reason=self._reason(decision, grant),
            targets=tuple(_target_view(wish, meter.trouble) for wish in decision.wishes),
            bounds=tuple(BoundView(each.name, each.before, each.after, each.reason) for each in decision.bounds),
            panic=decision.panic,
            last_used=meter.last_used,
            waiting=self.activator.waiting(subject.name),
            granted=-1 if grant is None else grant.instances,
            budget=grant.reason if grant is not None else "",
            wake_at=decision.wake_at,
            cpus=self.sizing.size(subject).cpus,
            memory=self.sizing.size(subject).memory,
            ups=self._changes[subject.name, "up"],
            downs=self._changes[subject.name, "down"],
            wakes=self._changes[subject.name, "wake"],
            passed=counts.passed,
            held_seconds=counts.seconds,
            refused=counts.refused,
        )


def _needed(subject: Subject, waiting: int) -> int:
    """Instances for those who wait, as far as a target says how many each serves at once. `rate_up` counts zero as one."""
    each = next((target.value for target in subject.scale.targets if target.kind == "concurrency"), 0.0)
    needed = math.ceil(waiting / each) if each else 1
    return min(needed, math.ceil(subject.scale.rate_up)) if subject.scale.rate_up else needed


def _target_view(wish: scale.Wish, trouble: Mapping[str, str]) -> TargetView:
    name, reading = scale.key(wish.target), wish.reading
    note = "; ".join(word for word in (wish.note, trouble.get(name, "")) if word)
    return TargetView(name, wish.target.value, reading.stable, reading.panic, reading.latest, reading.age, wish.instances, note)
