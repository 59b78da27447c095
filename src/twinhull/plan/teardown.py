"""The way down: `down`, `stop`, orphans. Dependants before what they depend on; then networks and volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twinhull.plan.actions import Remove, RemoveNetwork, RemoveVolume
from twinhull.plan.condition import Condition
from twinhull.plan.dependencies import dependants
from twinhull.plan.draft import Draft
from twinhull.plan.leave import halt
from twinhull.plan.lifecycle import State, is_up
from twinhull.plan.observed import Desired, Seen, Wish
from twinhull.plan.rollout import Member
from twinhull.spec.app import ServiceSpec
from twinhull.spec.instance import InstanceSpec


def down(desired: Desired, seen: Mapping[str, Sequence[Seen]], draft: Draft) -> None:
    """Everything of the app, in the order of `depends_on` backwards."""
    behind = dependants(desired.app)
    up = {name for name, instances in seen.items() if any(runs(each) for each in instances)}
    for name, instances in seen.items():
        if name not in desired.app.services and not desired.remove_orphans:
            continue
        waits = [other for other in behind.get(name, frozenset()) if other in up]
        for instance in instances:
            if not runs(instance) or not waits:
                remove(instance, desired, draft, f"{desired.app.name} is taken down")
    if any(name in desired.app.services or desired.remove_orphans for name in seen):
        return
    _remove_parts(desired, draft, orphaned=bool(seen))


def _remove_parts(desired: Desired, draft: Draft, *, orphaned: bool) -> None:
    """Networks that orphans may still use stay."""
    app = desired.app
    reason = f"{app.name} is taken down"
    for network in sorted(draft.observed.networks):
        if not orphaned and not (network in app.networks and app.networks[network].external):
            draft.ask(RemoveNetwork(network, reason))
    for volume in sorted(draft.observed.volumes) if desired.remove_volumes else ():
        if not orphaned and not (volume in app.volumes and app.volumes[volume].external):
            draft.ask(RemoveVolume(volume, f"{reason}, with its volumes"))


def orphans(desired: Desired, seen: Mapping[str, Sequence[Seen]], draft: Draft, *, settled: bool) -> None:
    """Instances of services that the file doesn't name (any more), if that was asked for; those that a rollback took away once the
    others, who may still ask them, are as they should be."""
    for name, instances in seen.items():
        if name in desired.app.services:
            continue
        for instance in instances:
            if desired.remove_orphans:
                remove(instance, desired, draft, f"{name} is not in the file")
            elif name in desired.dropped and settled:
                remove(instance, desired, draft, f"{name} is not in the revision")


def remove(instance: Seen, desired: Desired, draft: Draft, reason: str) -> None:
    """Stop it if it runs, then remove it."""
    if _halted(instance, _wish(instance.service, desired), draft, reason):
        draft.ask(Remove(instance.id, instance.service, instance.slot, reason))


def stop(wish: Wish, instances: Sequence[Seen], waits: bool, draft: Draft) -> None:
    """`stop SERVICE`: its instances stay, stopped; those that depend on it and are being stopped too go before."""
    for instance in instances:
        if runs(instance) and waits:
            draft.restless.add(instance.service)
        else:
            _halted(instance, wish, draft, f"{wish.spec.name} is stopped")


def _halted(instance: Seen, wish: Wish, draft: Draft, reason: str) -> bool:
    at = Condition.HELD if instance.state is State.PAUSED else Condition.STARTING
    return halt(Member(instance, at), wish, reason, draft, drain=False)


def _wish(service: str, desired: Desired) -> Wish:
    if service in desired.wishes:
        return desired.wishes[service]
    spec = desired.app.services.get(service) or ServiceSpec(service, InstanceSpec(image=""))
    return Wish(spec, "")


def runs(instance: Seen) -> bool:
    """Whether it has to be stopped before it can be removed."""
    return is_up(instance.state) or instance.state is State.RESTARTING
