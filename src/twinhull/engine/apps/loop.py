"""Observe → plan → apply, for one application, until it is as it should be; then it sleeps until something happens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

from twinhull.engine.apps.balance import Balance
from twinhull.engine.apps.hands import Hands, answers, probed_port
from twinhull.engine.apps.observe import observe
from twinhull.engine.apps.state import App, desired
from twinhull.engine.live import Live
from twinhull.engine.tasks import Tasks
from twinhull.errors import TwinhullError
from twinhull.plan import reconcile
from twinhull.plan.actions import Action, Drain, Plan, Serve, Tell
from twinhull.plan.lifecycle import State
from twinhull.plan.memory import UNDER_WAY, RolloutStatus
from twinhull.plan.observed import Failure, Observed
from twinhull.spec.app import SERVICE_LABEL, ServiceSpec

_log = logging.getLogger(__name__)
_PROBE_FIRST, _PROBE_EVERY = 0.002, 0.05
"""Seconds between two connects to a port that doesn't answer yet: soon at first, since somebody may wait for it; each a half longer."""
_DRAIN_LOOK = 0.25
"""Seconds between two questions how many connections are open."""
_FAULT_LOOK = 0.5
"""Seconds between two questions what the gateway holds against instances, while a new revision is on trial."""
_ON_TRIAL = frozenset({RolloutStatus.RUNNING, RolloutStatus.MONITORING})
_TRY_AGAIN = 2.0
"""Seconds until what is in the way of a change of traffic is tried again."""


@dataclass(frozen=True)
class Loop:
    """Drives apps; one task each. `parts`: names of the networks and volumes that there are for an app. `ended`: the app has gone."""

    hands: Hands
    balance: Balance
    tasks: Tasks
    parts: Callable[[App], Awaitable[tuple[Collection[str], Collection[str]]]]
    ended: Callable[[App], Awaitable[None]]

    def start(self, app: App) -> None:
        """In the background."""
        app.wake()
        app.task = self.tasks.spawn(f"app {app.name}", self._run(app))

    async def _run(self, app: App) -> None:
        while not app.gone.is_set():
            app.woken.clear()
            try:
                wake_at = await self._turn(app)
            except TwinhullError as error:
                _log.warning("app %s: %s", app.name, error)
                wake_at = time.time() + 1.0
            except Exception:
                _log.exception("app %s", app.name)
                wake_at = time.time() + 5.0
            if not app.gone.is_set():
                await _wait(app, wake_at)

    async def _turn(self, app: App) -> float:
        """One observation, plan and beginning of its actions. When to look again at the latest (0: when something happens)."""
        observed = await self._observe(app)
        plan = reconcile.reconcile(desired(app), observed, app.memory)
        if plan.memory != app.memory:
            app.memory = dict(plan.memory)
            app.save()
        app.standings = plan.standings
        app.settled = not plan.actions and not app.busy and all(standing.settled for standing in plan.standings.values())
        await self._begin(app, plan, observed.now)
        app.settled = app.settled or bool(app.trouble)
        app.announce()
        parts = {f"network:{name}" for name in observed.networks} | {f"volume:{name}" for name in observed.volumes}
        again = parts & app.failed.keys()  # couldn't be removed: to be tried once more
        if app.wanted.removed and not (plan.actions or app.busy or app.members or again):
            await self.ended(app)
            return 0.0
        return min((at for at in (plan.wake_at, *looks(app, observed.now)) if at), default=0.0)

    async def _observe(self, app: App) -> Observed:
        lives = self.hands.instances.lives
        self._probe_ports(app)
        sessions = await self.balance.sessions(app)
        rolling = any(memory.rollout is not None and memory.rollout.status in UNDER_WAY for memory in app.memory.values())
        faults = await self.balance.faults(app) if rolling else {}
        return observe(app, lives, time.time(), await self.parts(app), (sessions, faults))

    async def _begin(self, app: App, plan: Plan, now: float) -> None:
        traffic = [action for action in plan.actions if isinstance(action, Serve | Drain)]
        if traffic or app.trouble:
            await self._lead(app, traffic, now)
        for other in plan.actions:
            if isinstance(other, Tell):
                await self.hands.do(app, other)
            elif not isinstance(other, Serve | Drain):
                app.busy.add(other.key)
                self._note(app, other)
                self.tasks.spawn(f"{type(other).__name__.lower()} {app.name} {other.key}", self._do(app, other))
        if plan.actions:
            app.woken.set()  # what was told or led elsewhere is done already, and something may follow from it

    async def _lead(self, app: App, traffic: list[Serve | Drain], now: float) -> None:
        """Change who serves. What is in the way of it is told once, and tried again at every turn."""
        try:
            await self.balance.apply(app, traffic, now)
        except TwinhullError as error:
            if app.trouble != error.message:
                app.trouble = error.message
                app.note("lead", app.name, error.message, failed=True)
        else:
            app.trouble = ""
        for action in traffic:
            self._note(app, action)

    async def _do(self, app: App, action: Action) -> None:
        try:
            await self.hands.do(app, action)
            app.failed.pop(action.key, None)
        except Exception as error:
            if not isinstance(error, TwinhullError):
                _log.exception("app %s: %s", app.name, action)
            before, kind = app.failed.get(action.key), type(action).__name__
            text = str(error) or type(error).__name__
            count = before.count + 1 if before and before.action == kind else 1
            app.failed[action.key] = Failure(text, time.time(), count, kind)
            app.note(kind, action.key, text, failed=True)
        finally:
            app.busy.discard(action.key)
            app.wake()

    def _note(self, app: App, action: Action) -> None:
        kind = type(action).__name__
        app.note(kind, action.key, action.reason)
        self.hands.instances.events.emit("app", kind.lower(), "", app.name, subject=action.key, reason=action.reason)

    # ports that should answer

    def _probe_ports(self, app: App) -> None:
        for member in app.members.values():
            live = self.hands.instances.lives.get(member.instance_id)
            if live is None or live.record.state is not State.RUNNING or live.health.status != "none":
                app.answering.pop(member.instance_id, None)
                app.probed.pop(member.instance_id, None)
                continue
            if app.probed.get(live.id) == live.record.started_at:
                continue
            app.probed[live.id] = live.record.started_at
            found = app.made_from(member.service, member.fingerprint)
            port = probed_port(found[0]) if found else 0
            if port and live.endpoints:
                app.answering[live.id] = False
                self.balance.tell_activator(app)
                self.tasks.spawn(f"probe {live.record.name}", self._probe(app, live, port))

    async def _probe(self, app: App, live: Live, port: int) -> None:
        """Until it answers or doesn't run any more."""
        started, pause = live.record.started_at, _PROBE_FIRST
        if self.balance.activator.waiting(f"{app.name}/{live.record.spec.labels.get(SERVICE_LABEL, '')}"):
            await asyncio.sleep(_PROBE_EVERY)  # the first request is on its way, and shall not wait for a probe
        while live.record.state is State.RUNNING and app.probed.get(live.id) == started:
            if await answers(live.endpoints[0].address, port):
                if app.probed.get(live.id) == started:
                    app.answering[live.id] = True
                    app.wake()
                return
            await asyncio.sleep(pause)
            pause = min(_PROBE_EVERY, pause * 1.5)


def looks(app: App, now: float) -> Iterator[float]:
    """When to look for what no event tells: connections that end, errors that are answered, the end of what is in the way."""
    if any(member.state.draining_since for member in app.members.values()):
        yield now + _DRAIN_LOOK
    if any(_on_trial(app, spec) for spec in app.spec.services.values()):
        yield now + _FAULT_LOOK
    if app.trouble:
        yield now + _TRY_AGAIN


def _on_trial(app: App, spec: ServiceSpec) -> bool:
    """Whether what the gateway sees of the service may turn a rollout back."""
    memory = app.memory.get(spec.name)
    return bool(spec.routes) and memory is not None and memory.rollout is not None and memory.rollout.status in _ON_TRIAL


async def _wait(app: App, until: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, until - time.time()) if until else None):
            await app.woken.wait()
