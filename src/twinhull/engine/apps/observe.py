"""What is there of an application, in the planner's terms."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from twinhull.engine.apps.state import App
from twinhull.engine.live import Live
from twinhull.plan.lifecycle import State
from twinhull.plan.observed import HookState, Observed, Seen
from twinhull.store.apps import Member

_LOST = ("lost", "monitor-lost", "vmm-lost")
"""How exit reasons begin that aren't the program's doing."""


def observe(
    app: App,
    lives: Mapping[str, Live],
    now: float,
    parts: tuple[Collection[str], Collection[str]],
    traffic: tuple[Mapping[str, int], Mapping[str, str]],
) -> Observed:
    """parts: names of the networks and volumes that exist. traffic: by instance id, open sessions, and what the gateway holds against it.

    Members whose instance has gone are forgotten on the way.
    """
    for instance_id in [each for each in app.members if each not in lives]:
        _forget(app, instance_id)
    seen = tuple(_seen(app, member, lives[member.instance_id], now, traffic) for member in app.members.values())
    networks, volumes = parts
    return Observed(now, seen, frozenset(networks), frozenset(volumes), frozenset(app.busy), dict(app.failed))


def _forget(app: App, instance_id: str) -> None:
    del app.members[instance_id]
    app.health.pop(instance_id, None)
    app.answering.pop(instance_id, None)
    app.probed.pop(instance_id, None)


def _seen(app: App, member: Member, live: Live, now: float, traffic: tuple[Mapping[str, int], Mapping[str, str]]) -> Seen:
    record = live.record
    state = member.state
    if record.state is State.EXITED and live.asked_to_end and not state.stopped and not state.held:
        app.mark(live.id, held=True)
    health = live.health.status
    if app.health.get(live.id, ("", 0.0))[0] != health:
        app.health[live.id] = (health, now)
    sessions, faults = traffic
    hook = HookState(state.post_start) if state.post_start_of == record.started_at else HookState.NONE
    return Seen(
        live.id,
        member.service,
        member.slot,
        member.fingerprint,
        record.state,
        record.name,
        record.spec.runtime,
        record.created_at,
        record.started_at,
        record.finished_at,
        record.exit_code,
        record.oom_killed,
        lost=record.exit_reason.lower().startswith(_LOST),
        stopped=state.stopped,
        held=app.members[live.id].state.held,
        reason=record.error or record.exit_reason,
        restarts=record.restart_count,
        health=health,
        health_since=app.health[live.id][1],
        answering=app.answering.get(live.id),
        fault=faults.get(live.id, ""),
        serving=state.serving,
        weight=state.weight,
        serving_since=state.serving_since,
        draining_since=state.draining_since,
        sessions=sessions.get(live.id, -1),
        post_start=hook,
        pre_stop=HookState(state.pre_stop),
    )
