"""`up --dry-run`: the plans of a machine on which everything goes well at once, run on paper to the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from twinhull.plan.actions import (
    Action,
    Create,
    CreateNetwork,
    CreateVolume,
    Drain,
    Hooks,
    Remove,
    RemoveNetwork,
    RemoveVolume,
    Restart,
    RunHook,
    Serve,
    Start,
    Stop,
    Tell,
)
from twinhull.plan.health import enabled
from twinhull.plan.lifecycle import State
from twinhull.plan.memory import Memory
from twinhull.plan.observed import Desired, HookState, Observed, Seen
from twinhull.plan.reconcile import reconcile

_ROUNDS = 10_000


def preview(desired: Desired, observed: Observed, memory: Mapping[str, Memory]) -> tuple[Action, ...]:
    """All actions until nothing is left to do, in order. Jobs succeed; whatever is started is healthy and answers."""
    found: list[Action] = []
    observed = replace(observed, busy=frozenset(), failed={})
    for _ in range(_ROUNDS):
        plan = reconcile(desired, observed, memory)
        memory = plan.memory
        if not plan.actions and not plan.wake_at:
            break
        found.extend(plan.actions)
        observed = imagine(desired, observed, plan.actions) if plan.actions else replace(observed, now=plan.wake_at)
    return tuple(found)


def imagine(desired: Desired, observed: Observed, actions: tuple[Action, ...]) -> Observed:
    """What would be there after all of them went well."""
    networks, volumes = set(observed.networks), set(observed.volumes)
    there = {each.id: each for each in observed.instances}
    for action in actions:
        match action:
            case CreateNetwork():
                networks.add(action.network)
            case RemoveNetwork():
                networks.discard(action.network)
            case CreateVolume():
                volumes.add(action.volume)
            case RemoveVolume():
                volumes.discard(action.volume)
            case Create():
                made = _made(action, desired, observed.now)
                there[made.id] = made
            case Remove():
                there.pop(action.id, None)
            case Start() | Restart() | Stop() | RunHook() | Serve() | Drain():
                there[action.id] = _changed(there[action.id], action, desired, observed.now)
            case Tell():
                pass
            case _:
                assert_never(action)
    return replace(observed, instances=tuple(there.values()), networks=frozenset(networks), volumes=frozenset(volumes))


def _made(action: Create, desired: Desired, now: float) -> Seen:
    template = desired.wishes[action.service].spec.template
    name = f"{desired.app.name}-{action.service}-{action.slot}"
    identity = f"{action.key}@{now}"
    return Seen(identity, action.service, action.slot, action.fingerprint, State.CREATED, name, template.runtime, created_at=now)


def _changed(seen: Seen, action: Start | Restart | Stop | RunHook | Serve | Drain, desired: Desired, now: float) -> Seen:
    match action:
        case Start() | Restart():
            return _started(seen, desired, now)
        case Stop():
            return replace(seen, state=State.EXITED, stopped=True, finished_at=now, serving=False, sessions=0)
        case RunHook():
            after = action.hooks is Hooks.POST_START
            return replace(seen, post_start=HookState.DONE) if after else replace(seen, pre_stop=HookState.DONE)
        case Serve():
            since = seen.serving_since if seen.serving else now
            return replace(seen, serving=True, weight=action.weight, serving_since=since, draining_since=0.0)
        case Drain():
            return replace(seen, serving=False, weight=0, draining_since=now, sessions=0)


def _started(seen: Seen, desired: Desired, now: float) -> Seen:
    wish = desired.wishes.get(seen.service)
    fresh = replace(seen, started_at=now, stopped=False, post_start=HookState.NONE, pre_stop=HookState.NONE, draining_since=0.0)
    if wish is not None and wish.spec.job:
        return replace(fresh, state=State.EXITED, finished_at=now, exit_code=0)
    checked = wish is not None and enabled(wish.spec.template.health)
    answers = True if wish is not None and (wish.spec.expose or wish.spec.routes) else None
    return replace(fresh, state=State.RUNNING, health="healthy" if checked else "none", health_since=now, answering=answers)
