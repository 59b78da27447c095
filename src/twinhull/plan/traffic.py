"""Who takes new connections, and what share: every ready instance, except where a blue/green switch or a canary says otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from twinhull.plan import rollout
from twinhull.plan.actions import Drain, Serve
from twinhull.plan.condition import RUNS, Condition, label
from twinhull.plan.draft import Draft
from twinhull.plan.memory import Rollout, RolloutStatus
from twinhull.plan.rollout import Member
from twinhull.plan.scene import Scene
from twinhull.spec.app import Strategy

WEIGHT = 100
"""Of an instance among equals."""
_HEAVIEST = 256


def holds(scene: Scene, under_way: Rollout, draft: Draft) -> bool:
    """Whether all old instances stay for now, so that traffic can return to them at once."""
    match scene.strategy:
        case Strategy.BLUE_GREEN:
            return not under_way.step or draft.wake(under_way.step_at + scene.wish.spec.rollout.interval)
        case Strategy.CANARY:
            return under_way.step < len(rollout.steps(scene.wish))
        case Strategy.ROLLING:
            return False


def direct(scene: Scene, stay: Sequence[Member], draft: Draft) -> None:
    """Ask for what has to change. An instance that isn't ready leaves the balancers only where another is: a bad answer beats none."""
    ready = [m for m in stay if m.at is Condition.READY]
    switched = _direct_ready(scene, ready, draft)
    for member in stay:
        seen = member.seen
        if not seen.serving:
            continue
        if member.at is Condition.READY:
            off, reason = switched[seen.fingerprint == scene.goal], f"traffic of {scene.name} goes to the other revision"
        else:
            off = bool(ready) or not (member.at in RUNS or member.at is Condition.RESTARTING)
            reason = f"{label(seen)} is not ready"
        if off:
            draft.ask(Drain(seen.id, seen.service, seen.slot, reason))


def _direct_ready(scene: Scene, ready: Sequence[Member], draft: Draft) -> tuple[bool, bool]:
    """Serve those that are to. Whether those of the (old, current) revision can be drained in the same change: the others are enough."""
    current = [m for m in ready if m.seen.fingerprint == scene.goal]
    old = [m for m in ready if m.seen.fingerprint != scene.goal]
    new_weight, old_weight = _weights(scene, len(current), len(old))
    complete = [_serve(scene, members, weight, draft) for members, weight in ((current, new_weight), (old, old_weight))]
    enough = scene.wish.replicas
    return not old_weight and complete[0] and len(current) >= enough, not new_weight and complete[1] and len(old) >= enough


def _serve(scene: Scene, members: Sequence[Member], weight: int, draft: Draft) -> bool:
    """Whether all of them serve now, or will with this plan."""
    complete = True
    for member in members:
        seen = member.seen
        if weight and not (seen.serving and seen.weight == weight):
            complete &= draft.ask(Serve(seen.id, seen.service, seen.slot, _why(scene, member, weight), weight))
    return complete


def _weights(scene: Scene, new: int, old: int) -> tuple[int, int]:
    """Weight of each of the `new` instances of the current revision and of the `old` others; 0: no traffic."""
    under_way = scene.rollout
    if under_way is None or not new or not old:
        return WEIGHT, WEIGHT
    if under_way.status is RolloutStatus.ROLLING_BACK and new >= scene.wish.replicas:
        return WEIGHT, 0  # nothing more for the revision that failed than has to be
    match scene.strategy:
        case Strategy.BLUE_GREEN:
            return (WEIGHT, 0) if under_way.step else (0, WEIGHT)
        case Strategy.CANARY:
            percent = _percent(scene, under_way)
            last = under_way.step >= len(rollout.steps(scene.wish))
            return (WEIGHT, WEIGHT) if last and 100 * new >= percent * (new + old) else _shares(percent, new, old)
    return WEIGHT, WEIGHT


def _percent(scene: Scene, under_way: Rollout) -> int:
    """The share of the new revision, which never falls: of this step once its instances are ready, until then of the one before.

    After the last step it is that one's at least: the new instances take over as equals once they are enough for it.
    """
    steps = rollout.steps(scene.wish)
    if under_way.step_at:
        return steps[under_way.step]
    return steps[under_way.step - 1] if under_way.step else 0


def _shares(percent: int, new: int, old: int) -> tuple[int, int]:
    """Weights with which `new` instances together take that percentage."""
    if percent <= 0:
        return 0, WEIGHT
    if percent >= 100:
        return WEIGHT, 0
    each_new, each_old = percent / new, (100 - percent) / old
    scale = _HEAVIEST / max(each_new, each_old)
    return max(1, round(each_new * scale)), max(1, round(each_old * scale))


def _why(scene: Scene, member: Member, weight: int) -> str:
    what = f"{label(member.seen)} is ready"
    return what if weight == WEIGHT else f"{what}; weight {weight} by the rollout of {scene.name}"
