"""A service that runs to completion: once for each revision, again after a failure only when `up` asks."""

from __future__ import annotations

from dataclasses import replace

from twinhull.plan import healing
from twinhull.plan.actions import Create, Hooks, Remove, RunHook, Start
from twinhull.plan.condition import Condition, describe, label, revision
from twinhull.plan.draft import Draft
from twinhull.plan.leave import leave
from twinhull.plan.memory import Memory
from twinhull.plan.observed import HookState
from twinhull.plan.rollout import Member
from twinhull.plan.scene import Scene


def remember(scene: Scene) -> Memory:
    """The memory, with the job's success once all of its instances have ended well."""
    done = sum(member.at is Condition.COMPLETED for member in scene.current)
    if not scene.wish.replicas or done < scene.wish.replicas or scene.memory.completed == scene.goal:
        return scene.memory
    return replace(scene.memory, completed=scene.goal, stable=scene.goal)


def tend(scene: Scene, draft: Draft) -> None:
    """Ask for the next actions. Nothing of the new revision is made before all of the old is gone."""
    for member in scene.old:
        leave(member, scene.wish, f"{label(member.seen)} ran revision {member.seen.fingerprint}, wanted is {scene.goal}", draft)
    for member in scene.current:
        if member.seen.slot > scene.wish.replicas:
            leave(member, scene.wish, f"{scene.name} runs {scene.wish.replicas} at once", draft)
        else:
            _run(member, scene, draft)
    if scene.old or scene.blocked or scene.memory.completed == scene.goal:
        return
    taken = {member.seen.slot for member in scene.current}
    for slot in range(1, scene.wish.replicas + 1):
        if slot in taken:
            continue
        if draft.wake(healing.until(scene.memory, slot, scene.wish)):
            draft.restless.add(scene.name)
        else:
            draft.ask(Create(scene.name, slot, scene.goal, f"{scene.name} runs once for revision {scene.goal}"))


def _run(member: Member, scene: Scene, draft: Draft) -> None:
    seen = member.seen
    match member.at:
        case Condition.NEW if not scene.blocked:
            draft.ask(Start(seen.id, seen.service, seen.slot, f"{label(seen)} is made and doesn't run yet"))
        case Condition.STARTING if revision(scene.wish, seen.fingerprint).post_start and seen.post_start is HookState.NONE:
            draft.ask(RunHook(seen.id, seen.service, seen.slot, "post_start of the file", Hooks.POST_START))
        case Condition.STOPPED | Condition.BROKEN if scene.memory.completed != scene.goal:
            draft.restless.add(seen.service)
            if not draft.wake(healing.until(scene.memory, seen.slot, scene.wish)):
                draft.ask(Remove(seen.id, seen.service, seen.slot, f"{label(seen)} runs again: {describe(seen)}"))
        case _:
            pass
