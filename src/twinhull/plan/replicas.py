"""A service that runs: who is made, started, kept, replaced, let go. Never below what was promised, never two writers.

The law of capacity: during a planned change, instances that are ready and take connections don't become fewer than the service wants,
or than there were; with stop-first (and always for services that write to a volume) not more than `parallelism` fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from twinhull.plan import healing, rollout, traffic
from twinhull.plan.actions import Create, Hooks, Remove, RunHook, Start
from twinhull.plan.condition import RUNS, SATISFIED, Condition, describe, in_place, label, revision
from twinhull.plan.draft import Draft
from twinhull.plan.leave import leave, restart
from twinhull.plan.lifecycle import State, is_up
from twinhull.plan.observed import HookState, Seen
from twinhull.plan.rollout import Member
from twinhull.plan.scene import Scene, available, ending, leaving
from twinhull.spec.app import Strategy

PROOF = 1.0
"""Seconds that a new instance takes real traffic before an old one is drained for it (less where `monitor` is less)."""


@dataclass(frozen=True, slots=True)
class _Roles:
    """Who of a service is what. Each member has one role; `stay` of both revisions is told apart by fingerprint."""

    stay: list[Member]
    go: list[tuple[Member, str]]
    again: list[tuple[Member, str]]
    """To be restarted in place."""
    new: int
    """How many instances to make."""


def tend(scene: Scene, restart_at: float, draft: Draft) -> None:
    """Ask for the next actions."""
    roles = _cast(scene, restart_at, draft)
    traffic.direct(scene, roles.stay, draft)
    for member, reason in roles.go:
        leave(member, scene.wish, reason, draft)
    for member, reason in roles.again:
        restart(member, scene.wish, reason, draft)
    may_start = _may_start(scene, draft)
    for member in roles.stay:
        if member.seen.fingerprint != scene.goal:
            continue
        if member.at not in (Condition.NEW, Condition.STOPPED):
            _run(member, scene, draft)
        elif may_start > 0 and f"{scene.name}/{member.seen.slot}" not in draft.observed.busy:
            may_start -= 1
            draft.ask(Start(member.seen.id, scene.name, member.seen.slot, _why_start(member.seen)))
        else:
            draft.restless.add(scene.name)
    if not _gated(scene):
        _make(scene, roles.new, draft)


def _may_start(scene: Scene, draft: Draft) -> int:
    """How many may be started now: of those that write to a volume, no more than there are wanted at once."""
    if _gated(scene):
        return 0
    if not in_place(scene.wish):
        return len(scene.current)
    busy = draft.observed.busy
    running = sum(is_up(m.seen.state) or m.seen.state is State.RESTARTING or f"{scene.name}/{m.seen.slot}" in busy for m in scene.members)
    return scene.wish.replicas - running


def _gated(scene: Scene) -> bool:
    """Dependencies hold back the first instance of a revision; what runs already is healed and scaled without them."""
    return bool(scene.blocked) and not any(member.at in RUNS for member in scene.current)


def _cast(scene: Scene, restart_at: float, draft: Draft) -> _Roles:
    doomed = [m for m in scene.current if _doomed(scene, m, restart_at)]
    coming = [m for m in scene.current if not _doomed(scene, m, restart_at)]
    sick = [m for m in coming if m.at is Condition.SICK]
    mended = in_place(scene.wish)
    sound = coming if mended else [m for m in coming if m.at is not Condition.SICK]
    kept_old, gone_old = _split_old(scene, draft)
    wanted = _wanted(scene, sound, kept_old, draft)
    ranked = sorted(sound, key=_removal)
    surplus = ranked[: max(0, len(sound) - wanted)]
    over = {m.seen.id for m in surplus}
    stay = [m for m in sound if m.seen.id not in over]
    again = [*_mend(scene, stay, draft)] if mended else []
    again += _restarts(scene, stay, restart_at, {m.seen.id for m, _ in again})
    apart = {m.seen.id for m, _ in again}
    stay = [m for m in stay if m.seen.id not in apart]
    tired, waiting = ([], 0) if mended else _tired(scene, sick, stay, wanted, draft)
    go = [(m, f"{label(m.seen)} is being stopped") for m in doomed]
    go += [(m, _why_surplus(scene, wanted)) for m in surplus]
    go += [(m, f"{label(m.seen)} is {describe(m.seen)}, and replaced") for m in tired]
    go += [(m, _why_old(scene, m)) for m in gone_old]
    resting = {m.seen.id for m in tired}
    stay += [m for m in sick if not mended and m.seen.id not in resting]
    return _Roles(stay + kept_old, go, again, max(0, wanted - len(sound) - waiting))


def _doomed(scene: Scene, member: Member, restart_at: float) -> bool:
    """Whether it can't come back: its pre_stop hook has run, and not for a restart; or, where the load decides, it was told to end.

    Whoever wakes a service doesn't wait until the last of its old instances has ended. Elsewhere one is waited for and started again,
    so that `stop` and `start` in a hurry keep what it has written.
    """
    seen = member.seen
    told = seen.pre_stop is not HookState.NONE or (ending(seen) and scene.wish.spec.scale is not None)
    return seen.state is State.RUNNING and told and seen.started_at >= restart_at


def _removal(member: Member) -> tuple[int, int]:
    """Who goes first when there are too many: what isn't ready, then the highest slots."""
    if member.at is Condition.READY:
        rank = 3 if member.seen.serving else 2
    else:
        rank = 1 if member.at in (Condition.STARTING, Condition.COMPLETED) else 0
    return rank, -member.seen.slot


def _why_surplus(scene: Scene, wanted: int) -> str:
    return f"scale {scene.name} down to {wanted}" if wanted else f"scale {scene.name} down to nothing"


def _why_old(scene: Scene, member: Member) -> str:
    under_way = scene.rollout
    if under_way is not None and under_way.to == member.seen.fingerprint:
        return f"return {scene.name} to {scene.goal}: {under_way.reason}"
    return f"{label(member.seen)} is of revision {member.seen.fingerprint}, wanted is {scene.goal}"


def _split_old(scene: Scene, draft: Draft) -> tuple[list[Member], list[Member]]:
    """(kept, gone) of the old ones."""
    if not scene.old:
        return [], []
    if _gated(scene):
        kept = {m.seen.id for m in scene.old if not leaving(m.seen)}
    elif scene.one_by_one:
        kept = _kept_one_by_one(scene, draft)
    else:
        kept = _kept_start_first(scene, draft)
    return [m for m in scene.old if m.seen.id in kept], [m for m in scene.old if m.seen.id not in kept]


def _kept_start_first(scene: Scene, draft: Draft) -> set[str]:
    ranked = sorted(((rank, -m.seen.slot, m) for m in scene.old if (rank := _use(m)) < 3), key=lambda each: each[:2])
    candidates = [m for _, _, m in ranked]
    allowed = max(0, scene.wish.replicas - _proven(scene, scene.current, draft))
    under_way = scene.rollout
    if scene.frozen:
        allowed = max(allowed, sum(rank < 2 for rank, _, _ in ranked))
    elif under_way is not None and traffic.holds(scene, under_way, draft):
        allowed = max(allowed, min(scene.wish.replicas, len(candidates)))
    return {m.seen.id for m in candidates[:allowed]}


def _use(member: Member) -> int:
    """How much an old instance is worth keeping: 0 serves, 1 could, 2 could be called back, 3 is of no use."""
    if member.at is not Condition.READY or member.seen.pre_stop is not HookState.NONE:
        return 3
    if member.seen.serving:
        return 0
    return 2 if member.seen.draining_since else 1


def _proven(scene: Scene, members: Sequence[Member], draft: Draft) -> int:
    """How many of the current revision have shown that they can take the place of an old one."""
    contested = any(available(m) for m in scene.old)
    proof = min(PROOF, scene.policy.monitor)
    count = 0
    for member in members:
        if available(member):
            count += not draft.wake(member.seen.serving_since + proof)
        else:
            count += member.at in (Condition.COMPLETED, Condition.HELD) and not contested
    return count


def _kept_one_by_one(scene: Scene, draft: Draft) -> set[str]:
    useful = [m for m in scene.old if available(m)]
    if scene.frozen:
        return {m.seen.id for m in scene.old if not leaving(m.seen)}
    ready = len(useful) + sum(available(m) or m.at in (Condition.COMPLETED, Condition.HELD) for m in scene.current)
    missing = max(0, scene.wish.replicas - ready)
    surplus = max(0, ready - scene.wish.replicas)
    take = surplus + (0 if _delayed(scene, draft) else max(0, scene.parallelism - missing))
    return {m.seen.id for m in useful[take:]}


def _delayed(scene: Scene, draft: Draft) -> bool:
    """Whether the pause between two batches isn't over."""
    under_way = scene.rollout
    return under_way is not None and bool(under_way.batch_at) and draft.wake(under_way.batch_at + scene.policy.delay)


def _wanted(scene: Scene, sound: list[Member], kept_old: list[Member], draft: Draft) -> int:
    """How many instances of the current revision there should be for now."""
    replicas = scene.wish.replicas
    if not scene.old:
        return replicas
    if scene.one_by_one:
        return max(min(replicas, len(sound)), replicas - len(scene.old))
    holes = replicas - len(kept_old)
    proven = _proven(scene, sound, draft)
    under_way = scene.rollout
    if scene.frozen:
        step = 0
    elif under_way is not None and scene.strategy is Strategy.BLUE_GREEN:
        step = replicas
    elif under_way is not None and scene.strategy is Strategy.CANARY:
        step = rollout.canaries(scene.wish, under_way)
    else:
        step = 0 if proven and _delayed(scene, draft) else proven + scene.parallelism
    return min(replicas, max(step, holes, len(sound)))


def _tired(scene: Scene, sick: list[Member], stay: list[Member], wanted: int, draft: Draft) -> tuple[list[Member], int]:
    """Of those that are unhealthy for long: who goes now, and for how many it is too early to make another."""
    if not sick:
        return [], 0
    ordered = sorted(sick, key=lambda m: (m.seen.health_since, m.seen.slot))
    bearable = max(0, wanted - sum(m.at in SATISFIED for m in stay))
    early = sum(draft.wake(healing.until(scene.memory, m.seen.slot, scene.wish)) for m in ordered)
    room = max(0, scene.parallelism - max(0, len(scene.current) - scene.wish.replicas))
    return ordered[: max(0, len(ordered) - bearable)], max(early, len(ordered) - room)


def _mend(scene: Scene, stay: list[Member], draft: Draft) -> Iterator[tuple[Member, str]]:
    """In place: those that are unhealthy for long, when their back-off is over."""
    for member in stay:
        if member.at is Condition.SICK and not draft.wake(healing.until(scene.memory, member.seen.slot, scene.wish)):
            yield member, f"{label(member.seen)} is {describe(member.seen)}"


def _restarts(scene: Scene, stay: list[Member], restart_at: float, apart: set[str]) -> list[tuple[Member, str]]:
    """Those that a `restart` still has before it, `parallelism` at a time."""
    due = [m for m in stay if m.at in RUNS and m.seen.started_at < restart_at and m.seen.id not in apart]
    if not due:
        return []
    missing = max(0, scene.wish.replicas - sum(available(m) for m in stay))
    waiting = [m for m in due if available(m)]
    chosen = [m for m in due if not available(m)] + waiting[: max(0, scene.parallelism - missing)]
    return [(m, f"restart of {scene.name}") for m in chosen]


def _run(member: Member, scene: Scene, draft: Draft) -> None:
    """What one that stays needs to come up, or to be replaced."""
    seen = member.seen
    match member.at:
        case Condition.BROKEN:
            draft.restless.add(seen.service)
            if not draft.wake(healing.until(scene.memory, seen.slot, scene.wish)):
                draft.ask(Remove(seen.id, seen.service, seen.slot, f"{label(seen)}: {describe(seen)}"))
        case Condition.STARTING if revision(scene.wish, seen.fingerprint).post_start and seen.post_start is HookState.NONE:
            draft.ask(RunHook(seen.id, seen.service, seen.slot, "post_start of the file", Hooks.POST_START))
        case _:
            pass


def _why_start(seen: Seen) -> str:
    return f"{label(seen)} is made and doesn't run yet" if seen.state is State.CREATED else f"{label(seen)} is stopped, and wanted"


def _make(scene: Scene, count: int, draft: Draft) -> None:
    if in_place(scene.wish):
        count = min(count, scene.wish.replicas - len(scene.current) - len(scene.old))
    taken = {member.seen.slot for member in (*scene.current, *scene.old)}
    slot = 0
    while count > 0:
        slot += 1
        if slot in taken:
            continue
        count -= 1
        if draft.wake(healing.until(scene.memory, slot, scene.wish)):
            draft.restless.add(scene.name)
            continue
        draft.ask(Create(scene.name, slot, scene.goal, _why_make(scene)))


def _why_make(scene: Scene) -> str:
    under_way = scene.rollout
    if scene.old or under_way is not None:
        return f"update {scene.name} to {scene.goal}"
    there = sum(not ending(member.seen) for member in scene.current)
    return f"{scene.name} has {there} of {scene.wish.replicas}"
