"""Who has to wait for whom: `depends_on` on the way up, the same the other way round on the way down."""

from __future__ import annotations

from collections.abc import Mapping

from twinhull.plan.condition import RUNS, SATISFIED, Condition, describe, label
from twinhull.plan.memory import Memory, RolloutStatus
from twinhull.plan.observed import Desired, Observed, Wish
from twinhull.plan.scene import Scene
from twinhull.spec.app import AppSpec, Dependency
from twinhull.spec.app import Condition as Needs
from twinhull.spec.instance import MountType, NetworkMode


def blocked(wish: Wish, scenes: Mapping[str, Scene], desired: Desired, observed: Observed) -> tuple[str, bool]:
    """(why an instance of the service can't start yet, whether that is for good); ("", False) if it can."""
    missing = _missing(wish, desired.app, observed)
    if missing:
        return missing
    waits = ("", False)
    for need in wish.spec.depends_on:
        reason, hopeless = _unmet(need, scenes, desired)
        if hopeless and need.required:
            return reason, True
        if reason and not hopeless and not waits[0]:
            waits = reason, False
    return waits


def _missing(wish: Wish, app: AppSpec, observed: Observed) -> tuple[str, bool] | None:
    template = wish.spec.template
    if template.network_mode is NetworkMode.BRIDGE:
        for attachment in template.networks:
            if attachment.network in app.networks and attachment.network not in observed.networks:
                return _lacks("network", attachment.network, app.networks[attachment.network].external)
    for mount in template.mounts:
        if mount.type is MountType.VOLUME and mount.source in app.volumes and mount.source not in observed.volumes:
            return _lacks("volume", mount.source, app.volumes[mount.source].external)
    return None


def _lacks(kind: str, name: str, external: bool) -> tuple[str, bool]:
    if external:
        return f"the external {kind} {name} does not exist: twinhull {kind} create {name}", True
    return f"waits for {kind} {name}", False


def _unmet(need: Dependency, scenes: Mapping[str, Scene], desired: Desired) -> tuple[str, bool]:
    """(what of that dependency is still missing, whether waiting is of no use)."""
    if need.service not in desired.app.services:
        return f"{need.service}, on which it depends, is not in the file", True
    scene = scenes.get(need.service)
    if scene is None:
        return "", False
    if _done(scene):
        return "", False
    if scene.wish.stopped:
        return f"{need.service}, on which it depends, is stopped", True
    if scene.blocked and not scene.current:
        return f"waits for {need.service}: {scene.blocked}", scene.hopeless
    match need.condition:
        case Needs.STARTED:
            return _started(scene), False
        case Needs.HEALTHY:
            return _healthy(scene)
        case Needs.COMPLETED:
            return _completed(scene)


def _started(scene: Scene) -> str:
    met = {Condition.COMPLETED, Condition.GIVEN_UP, Condition.HELD, Condition.RESTARTING, *RUNS}
    if not scene.wish.replicas or any(member.at in met for member in scene.current):
        return ""
    return f"waits for {scene.name} to start"


def _healthy(scene: Scene) -> tuple[str, bool]:
    ready = sum(member.at in SATISFIED for member in scene.current)
    if ready >= scene.wish.replicas:
        return "", False
    given_up = next((m for m in scene.current if m.at is Condition.GIVEN_UP), None)
    if given_up is not None:
        return f"{scene.name}, on which it depends, failed: {label(given_up.seen)} {describe(given_up.seen)}", True
    bad = next((m for m in scene.current if m.at in (Condition.UNREADY, Condition.SICK)), None)
    suffix = f": {label(bad.seen)} is {describe(bad.seen)}" if bad is not None else ""
    return f"waits for {scene.name} to be healthy ({ready} of {scene.wish.replicas}){suffix}", False


def _completed(scene: Scene) -> tuple[str, bool]:
    done = sum(member.at is Condition.COMPLETED for member in scene.current)
    if done >= scene.wish.replicas:
        return "", False
    failed = next((m for m in scene.current if m.at is Condition.GIVEN_UP), None)
    if failed is not None:
        return f"{scene.name}, on which it depends, failed: {label(failed.seen)} {describe(failed.seen)}", True
    return f"waits for {scene.name} to complete", False


def _done(scene: Scene) -> bool:
    return scene.wish.spec.job and scene.memory.completed == scene.goal


def restart_at(wish: Wish, memories: Mapping[str, Memory]) -> float:
    """Instances started before are restarted: on request, or as a dependency with `restart: true` was replaced."""
    replaced = (
        rollout.ended_at
        for need in wish.spec.depends_on
        if need.restart and need.service in memories and (rollout := memories[need.service].rollout) is not None
        if rollout.status in (RolloutStatus.DONE, RolloutStatus.ROLLED_BACK)
    )
    return max([wish.restart_at, *replaced])


def dependants(app: AppSpec) -> dict[str, frozenset[str]]:
    """Of each service: who depends on it, directly or through others."""
    found: dict[str, set[str]] = {name: set() for name in app.services}
    for name in reversed(app.services):
        for need in app.services[name].depends_on:
            if need.service in found:
                found[need.service] |= {name, *found[name]}
    return {name: frozenset(names) for name, names in found.items()}
