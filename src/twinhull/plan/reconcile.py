"""Observe → **plan** → apply: from what is wanted and what is there to the next actions, each with its reason.

The engine's loop: observe, `reconcile`, store the memory, begin the actions; when one ends, when something happens, or at `wake_at`: again.
plan/preview.py runs that loop on paper, for `up --dry-run`; plan/rollout.py has what people do to a rollout: pause, resume, abort.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from twinhull.plan import dependencies, healing, jobs, replicas, rollout, standing, teardown
from twinhull.plan.actions import CreateNetwork, CreateVolume, Plan, Standing
from twinhull.plan.condition import Condition, condition
from twinhull.plan.draft import Draft
from twinhull.plan.memory import Memory
from twinhull.plan.observed import Desired, Observed, Seen, Wish
from twinhull.plan.rollout import Member
from twinhull.plan.scene import Scene, scene
from twinhull.spec.selection import used


def reconcile(desired: Desired, observed: Observed, memory: Mapping[str, Memory]) -> Plan:
    """The next plan. Pure; O(n log n) in the number of instances."""
    draft = Draft(observed)
    seen = _by_service(observed.instances)
    if desired.removed:
        teardown.down(desired, seen, draft)
        standings = {name: standing.removed(name, instances) for name, instances in seen.items()}
        return Plan(tuple(draft.actions), {}, standings, draft.wake_at)
    _make_parts(desired, draft)
    memories = dict(memory)
    standings = _tend_all(desired, seen, memories, draft)
    teardown.orphans(desired, seen, draft, settled=all(each.settled for each in standings.values()))
    return Plan(tuple(draft.actions), memories, standings, draft.wake_at)


def _by_service(instances: Sequence[Seen]) -> dict[str, list[Seen]]:
    found: dict[str, list[Seen]] = {}
    for each in sorted(instances, key=lambda each: (each.service, each.slot, each.id)):
        found.setdefault(each.service, []).append(each)
    return found


def _make_parts(desired: Desired, draft: Draft) -> None:
    """Networks and volumes that the wanted services use."""
    networks, sources = used(wish.spec for wish in desired.wishes.values() if not wish.stopped)
    for name, network in desired.app.networks.items():
        if name in networks and not network.external and name not in draft.observed.networks:
            draft.ask(CreateNetwork(name, f"{desired.app.name} uses it, and it doesn't exist"))
    for name, volume in desired.app.volumes.items():
        if name in sources and not volume.external and name not in draft.observed.volumes:
            draft.ask(CreateVolume(name, f"{desired.app.name} uses it, and it doesn't exist"))


def _tend_all(desired: Desired, seen: Mapping[str, list[Seen]], memories: dict[str, Memory], draft: Draft) -> dict[str, Standing]:
    """Services in the file's order, dependencies first: each sees how those before it stand."""
    scenes: dict[str, Scene] = {}
    standings: dict[str, Standing] = {}
    behind = dependencies.dependants(desired.app)
    for name in desired.app.services:
        wish = desired.wishes.get(name)
        if wish is None:
            continue
        before = memories.get(name, Memory())
        view = _look(_narrow(wish, seen.get(name, ()), before), seen.get(name, ()), before, draft)
        view = _bar(view, scenes, desired, draft)
        scenes[name] = view
        if view.memory != Memory() or name in memories:
            memories[name] = view.memory
        if wish.stopped:
            waits = any(_goes_first(other, desired, seen) for other in behind[name])
            teardown.stop(wish, seen.get(name, ()), waits, draft)
        elif wish.spec.job:
            jobs.tend(view, draft)
        else:
            replicas.tend(view, dependencies.restart_at(wish, memories), draft)
        standings[name] = standing.of(view, draft)
    return standings


def _narrow(wish: Wish, instances: Sequence[Seen], memory: Memory) -> Wish:
    """Without revisions that no instance is of, or will be: what a service did long ago doesn't make it stateful now."""
    marks = {each.fingerprint for each in instances} | {rollout.target(wish, memory)}
    under_way = rollout.active(wish, memory)
    marks |= {under_way.previous} if under_way is not None else set()
    return replace(wish, known={mark: spec for mark, spec in wish.known.items() if mark in marks})


def _look(wish: Wish, instances: Sequence[Seen], memory: Memory, draft: Draft) -> Scene:
    """The service's instances in their conditions, and the memory brought up to date."""
    members = []
    for each in instances:
        at, changes = condition(each, wish, draft.now)
        draft.wake(changes)
        if at is Condition.STOPPED and healing.has_failed(memory, each, wish):
            at = Condition.BROKEN
        members.append(Member(each, at))
    if wish.stopped:
        return scene(wish, members, memory)
    memory = jobs.remember(scene(wish, members, memory)) if wish.spec.job else rollout.advance(wish, members, memory, draft)
    view = scene(wish, members, memory)
    failed = [(m.seen, m.at) for m in view.current if m.at is Condition.BROKEN or (m.at is Condition.SICK and not wish.spec.job)]
    if not failed:
        return view
    memory, tells = healing.note(memory, failed, wish, draft.now)
    for tell in tells:
        draft.ask(tell)
    return replace(view, memory=memory)


def _bar(view: Scene, scenes: Mapping[str, Scene], desired: Desired, draft: Draft) -> Scene:
    reason, hopeless = dependencies.blocked(view.wish, scenes, desired, draft.observed)
    return replace(view, blocked=reason, hopeless=hopeless) if reason else view


def _goes_first(other: str, desired: Desired, seen: Mapping[str, list[Seen]]) -> bool:
    wish = desired.wishes.get(other)
    return wish is not None and wish.stopped and any(teardown.runs(each) for each in seen.get(other, ()))
