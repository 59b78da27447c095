"""The change of a service from one revision to another: when it begins, goes on, fails, returns, ends.

Who is replaced next is plan/replicas.py's matter, who takes which traffic plan/traffic.py's.

running ─▶ monitoring ─▶ done
   │ ▲         │
   ▼ │         ▼ a new instance fails: failure_action
 paused    rolling-back ─▶ rolled-back
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from twinhull.plan.actions import Tell
from twinhull.plan.condition import SATISFIED, Condition, describe, failure, in_place, label
from twinhull.plan.draft import Draft
from twinhull.plan.healing import token
from twinhull.plan.memory import UNDER_WAY, Memory, Rollout, RolloutStatus
from twinhull.plan.observed import Seen, Wish
from twinhull.spec.app import FailureAction, Strategy, UpdateOrder, UpdatePolicy

DEFAULT_STEPS = (10, 50)
"""Percent of traffic for a canary whose steps the file leaves open."""
_ENDED = frozenset({RolloutStatus.ROLLED_BACK, RolloutStatus.FAILED})


@dataclass(frozen=True, slots=True)
class Member:
    """An instance of the service and its condition."""

    seen: Seen
    at: Condition


def target(wish: Wish, memory: Memory) -> str:
    """The revision that instances are made from now: the wanted one, or the one that a failed rollout returns to."""
    rollout = memory.rollout
    if rollout is not None and rollout.to == wish.fingerprint and _returning(rollout) and rollout.previous and not wish.spec.job:
        return rollout.previous
    return wish.fingerprint


def _returning(rollout: Rollout) -> bool:
    return rollout.status in (RolloutStatus.ROLLING_BACK, RolloutStatus.ROLLED_BACK)


def active(wish: Wish, memory: Memory) -> Rollout | None:
    """The rollout that is under way."""
    rollout = memory.rollout
    return rollout if rollout is not None and rollout.to == wish.fingerprint and rollout.status in UNDER_WAY else None


def policy(wish: Wish, rollout: Rollout | None) -> UpdatePolicy:
    """`rollback_config` on the way back, else `update_config`."""
    return wish.spec.rollback if rollout is not None and _returning(rollout) else wish.spec.update


def strategy(wish: Wish, rollout: Rollout | None) -> Strategy:
    """Rolling for all that is replaced in place and for the way back; else as the file says."""
    if rollout is None or _returning(rollout) or in_place(wish) or wish.spec.update.order is UpdateOrder.STOP_FIRST:
        return Strategy.ROLLING
    return wish.spec.rollout.strategy


def steps(wish: Wish) -> tuple[int, ...]:
    """Percent of traffic at each step of a canary."""
    return wish.spec.rollout.steps or DEFAULT_STEPS


def canaries(wish: Wish, rollout: Rollout) -> int:
    """How many instances of the new revision a canary wants at its present step; all after the last."""
    if rollout.step >= len(steps(wish)):
        return wish.replicas
    return min(wish.replicas, max(1, math.ceil(wish.replicas * steps(wish)[rollout.step] / 100)))


def advance(wish: Wish, members: Sequence[Member], memory: Memory, draft: Draft) -> Memory:
    """The memory after what is seen now; tells what has changed."""
    memory = _begin(wish, members, memory, draft)
    rollout = active(wish, memory)
    if rollout is None:
        return _remember_stable(wish, members, memory)
    if not _returning(rollout):
        rollout = _judge(wish, members, rollout, draft)
    if rollout.status in UNDER_WAY:
        rollout = _progress(wish, members, rollout, draft)
    stable = rollout.to if rollout.status is RolloutStatus.DONE else memory.stable
    return memory if rollout == memory.rollout else replace(memory, rollout=rollout, stable=stable)


def _begin(wish: Wish, members: Sequence[Member], memory: Memory, draft: Draft) -> Memory:
    before = memory.rollout
    known = before is not None and before.to == wish.fingerprint
    again = known and before is not None and before.status in _ENDED and wish.asked_at > before.ended_at
    if (known and not again) or all(member.seen.fingerprint == wish.fingerprint for member in members):
        return memory
    previous = memory.stable if memory.stable != wish.fingerprint else ""
    draft.ask(Tell(wish.spec.name, f"update to {wish.fingerprint}{f' from {previous}' if previous else ''} begins"))
    return replace(memory, rollout=Rollout(wish.fingerprint, previous, started_at=draft.now))


def _remember_stable(wish: Wish, members: Sequence[Member], memory: Memory) -> Memory:
    goal = target(wish, memory)
    if memory.stable == goal or any(member.seen.fingerprint != goal for member in members):
        return memory
    return replace(memory, stable=goal) if _satisfied(members, goal) >= wish.replicas else memory


def _satisfied(members: Sequence[Member], revision: str) -> int:
    return sum(member.at in SATISFIED and member.seen.fingerprint == revision for member in members)


def _judge(wish: Wish, members: Sequence[Member], rollout: Rollout, draft: Draft) -> Rollout:
    """Count the new instances that failed, and act when they are too many."""
    found = {key: text for key, text in _failures(wish, members, rollout, draft) if key not in rollout.failed}
    if not found:
        return rollout
    rollout = replace(rollout, failed=(*rollout.failed, *found))
    reason = next(iter(found.values()))
    ratio = len(rollout.failed) / max(1, wish.replicas)
    if rollout.status is RolloutStatus.PAUSED or ratio <= wish.spec.update.max_failure_ratio:
        return rollout
    worst = next((m.seen.id for m in members if token(m.seen) in found), "")
    return _fail(wish, rollout, reason, worst, draft)


def _fail(wish: Wish, rollout: Rollout, reason: str, instance: str, draft: Draft) -> Rollout:
    name = wish.spec.name
    match wish.spec.update.failure_action:
        case FailureAction.CONTINUE:
            return rollout
        case FailureAction.PAUSE:
            draft.ask(Tell(name, f"update to {rollout.to} paused: {reason}", "error", instance))
            return replace(rollout, status=RolloutStatus.PAUSED, reason=reason)
        case FailureAction.ROLLBACK if rollout.previous:
            draft.ask(Tell(name, f"update to {rollout.to} failed: {reason}; returning to {rollout.previous}", "error", instance))
            return _turn(rollout, reason)
        case FailureAction.ROLLBACK:
            draft.ask(Tell(name, f"update to {rollout.to} failed: {reason}; there is no earlier revision that was up", "error", instance))
            return replace(rollout, status=RolloutStatus.FAILED, reason=reason, ended_at=draft.now)


def _turn(rollout: Rollout, reason: str) -> Rollout:
    return replace(rollout, status=RolloutStatus.ROLLING_BACK, reason=reason, step=0, step_at=0.0, batch_at=0.0, proven=0)


def _failures(wish: Wish, members: Sequence[Member], rollout: Rollout, draft: Draft) -> list[tuple[str, str]]:
    """(token, text) of each failure of the new revision, instances that couldn't even be made or started included."""
    found = []
    taken = {member.seen.slot: member for member in members}
    # What the others do for long, it is not to have done in a moment.
    lasting = any(member.at is Condition.READY and member.seen.fingerprint != rollout.to for member in members)
    for member in members:
        if member.seen.fingerprint != rollout.to:
            continue
        text = failure(member.seen, member.at, draft.now)
        if not text and lasting and member.at is Condition.COMPLETED:
            text = describe(member.seen)
        if text:
            found.append((token(member.seen), f"{label(member.seen)}: {text}"))
    if not draft.observed.failed:
        return found
    for slot in range(1, 2 * wish.replicas + 1):
        failed = draft.observed.failed.get(f"{wish.spec.name}/{slot}")
        here = taken.get(slot)
        ours = here is None or (here.at is Condition.NEW and here.seen.fingerprint == rollout.to)
        if failed is not None and ours and failed.at >= rollout.started_at and failed.action in ("", "Create", "Start"):
            found.append((f"{slot}@{failed.at}", f"{wish.spec.name}-{slot} does not start: {failed.text}"))
    return found


def _progress(wish: Wish, members: Sequence[Member], rollout: Rollout, draft: Draft) -> Rollout:
    goal = target(wish, Memory(rollout=rollout))
    ready = _satisfied(members, goal)
    if ready > rollout.proven:
        rollout = replace(rollout, proven=ready, batch_at=draft.now)
    if rollout.status is RolloutStatus.PAUSED:
        return rollout
    rollout = _step(wish, ready, rollout, draft)
    if ready < wish.replicas or any(member.seen.fingerprint != goal for member in members):
        return replace(rollout, status=RolloutStatus.RUNNING) if rollout.status is RolloutStatus.MONITORING else rollout
    if rollout.status is RolloutStatus.RUNNING:
        rollout = replace(rollout, status=RolloutStatus.MONITORING)
    return _end(wish, rollout, draft)


def _step(wish: Wish, ready: int, rollout: Rollout, draft: Draft) -> Rollout:
    """Blue/green: switch once all are ready. Canary: on to the next share of traffic after each interval."""
    match strategy(wish, rollout):
        case Strategy.BLUE_GREEN if rollout.step == 0 and ready >= wish.replicas:
            draft.ask(Tell(wish.spec.name, f"all of {rollout.to} are ready: traffic switches to them"))
            return replace(rollout, step=1, step_at=draft.now)
        case Strategy.CANARY if rollout.step < len(steps(wish)):
            if rollout.step_at and not draft.wake(rollout.step_at + wish.spec.rollout.interval):
                rollout = replace(rollout, step=rollout.step + 1, step_at=0.0)
            if not rollout.step_at and rollout.step < len(steps(wish)) and ready >= canaries(wish, rollout):
                draft.wake(draft.now + wish.spec.rollout.interval)
                draft.ask(Tell(wish.spec.name, f"{steps(wish)[rollout.step]} % of traffic to {rollout.to}"))
                rollout = replace(rollout, step_at=draft.now)
    return rollout


def _end(wish: Wish, rollout: Rollout, draft: Draft) -> Rollout:
    if rollout.status is RolloutStatus.ROLLING_BACK:
        draft.ask(Tell(wish.spec.name, f"returned to {rollout.previous}, after {rollout.to} failed: {rollout.reason}", "warning"))
        return replace(rollout, status=RolloutStatus.ROLLED_BACK, ended_at=draft.now)
    if draft.wake(rollout.batch_at + wish.spec.update.monitor):
        return rollout
    draft.ask(Tell(wish.spec.name, f"updated to {rollout.to}"))
    return replace(rollout, status=RolloutStatus.DONE, ended_at=draft.now)


def pause(memory: Memory, reason: str) -> Memory:
    """What has begun draining is finished, nothing more is replaced. Unchanged where no rollout is running."""
    rollout = memory.rollout
    if rollout is None or rollout.status not in (RolloutStatus.RUNNING, RolloutStatus.MONITORING):
        return memory
    return replace(memory, rollout=replace(rollout, status=RolloutStatus.PAUSED, reason=reason))


def resume(memory: Memory, now: float) -> Memory:
    """Go on, from the same step; failures so far are forgiven. Unchanged where nothing is paused."""
    rollout = memory.rollout
    if rollout is None or rollout.status is not RolloutStatus.PAUSED:
        return memory
    step_at = now if rollout.step_at else 0.0
    return replace(memory, rollout=replace(rollout, status=RolloutStatus.RUNNING, reason="", step_at=step_at))


def abort(memory: Memory, reason: str) -> Memory:
    """Return to the previous revision. Unchanged where nothing is under way or there is nothing to return to."""
    rollout = memory.rollout
    if rollout is None or rollout.status not in UNDER_WAY or _returning(rollout) or not rollout.previous:
        return memory
    return replace(memory, rollout=_turn(rollout, reason))
