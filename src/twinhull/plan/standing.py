"""How a service stands, in one word and a reason: for `ps`, `up --wait`, events and metrics."""

from __future__ import annotations

from collections.abc import Sequence

from twinhull.plan import teardown
from twinhull.plan.actions import Phase, Standing
from twinhull.plan.condition import BAD, SATISFIED, Condition, failure, label, mute
from twinhull.plan.draft import Draft
from twinhull.plan.memory import RolloutStatus
from twinhull.plan.observed import Seen
from twinhull.plan.rollout import Member
from twinhull.plan.scene import Scene, ending


def removed(name: str, instances: Sequence[Seen]) -> Standing:
    """Of a service of an app that is taken down."""
    return Standing(name, Phase.REMOVED, 0, 0, not instances)


def of(scene: Scene, draft: Draft) -> Standing:
    """After its actions are asked for."""
    wanted = scene.wish.replicas
    if scene.wish.stopped:
        down = not any(teardown.runs(m.seen) for m in scene.members)
        return Standing(scene.name, Phase.STOPPED, 0, 0, down)
    good = (Condition.COMPLETED,) if scene.wish.spec.job else (Condition.READY,)
    ready = sum(m.at in good and not ending(m.seen) for m in scene.members)
    quiet = scene.name not in draft.restless
    phase, reason = _phase(scene, draft)
    settled = quiet and scene.rollout is None and phase in (Phase.UP, Phase.COMPLETED, Phase.FAILING)
    if phase is Phase.FAILING:
        settled = settled and all(_final(m, draft.now) for m in scene.current)
    return Standing(scene.name, phase, ready, wanted, settled or (phase is Phase.WAITING and scene.hopeless), reason)


def _final(member: Member, now: float) -> bool:
    """Whether it won't become better by itself."""
    return member.at in SATISFIED or member.at is Condition.GIVEN_UP or mute(member.seen, member.at, now)


def _phase(scene: Scene, draft: Draft) -> tuple[Phase, str]:
    wanted = scene.wish.replicas
    satisfied = sum(m.at in SATISFIED and not ending(m.seen) for m in scene.current)
    if scene.wish.spec.job and scene.memory.completed == scene.goal:
        return Phase.COMPLETED, ""
    if scene.rollout is not None:
        return Phase.UPDATING, scene.rollout.reason
    if scene.blocked and satisfied < wanted:
        return Phase.WAITING, scene.blocked
    if satisfied >= wanted:
        if wanted and all(m.at is Condition.COMPLETED for m in scene.current):
            return Phase.COMPLETED, ""
        return (Phase.SCALING_DOWN if len(scene.members) > wanted else Phase.UP), _aftermath(scene)
    return _short(scene, draft)


def _short(scene: Scene, draft: Draft) -> tuple[Phase, str]:
    """Fewer than wanted: starting, or failing and why."""
    bad = next((m for m in scene.current if m.at in BAD or mute(m.seen, m.at, draft.now)), None)
    if bad is not None:
        return Phase.FAILING, f"{label(bad.seen)}: {failure(bad.seen, bad.at, draft.now)}"
    for slot in range(1, scene.wish.replicas + 1) if draft.observed.failed else ():
        failed = draft.observed.failed.get(f"{scene.name}/{slot}")
        if failed is not None:
            return Phase.FAILING, f"{scene.name}-{slot}: {failed.text}"
    return Phase.STARTING, ""


def _aftermath(scene: Scene) -> str:
    """A rollout that came to nothing isn't forgotten while its revision is still the wanted one."""
    last = scene.memory.rollout
    if last is None or last.to != scene.wish.fingerprint or last.status not in (RolloutStatus.ROLLED_BACK, RolloutStatus.FAILED):
        return ""
    return f"{last.to} failed: {last.reason}"
