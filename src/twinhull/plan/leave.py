"""The way out of an instance, one step a plan: no new connections, open ones end, pre_stop, stop, remove."""

from __future__ import annotations

from twinhull.plan.actions import Action, Drain, Hooks, Remove, Restart, RunHook, Stop
from twinhull.plan.condition import RUNS, Condition, revision
from twinhull.plan.draft import Draft
from twinhull.plan.lifecycle import State, is_up
from twinhull.plan.observed import HookState, Seen, Wish
from twinhull.plan.rollout import Member
from twinhull.spec.app import ServiceSpec

DRAIN_LEAST = 0.25
"""Seconds for connections that were on their way to the instance when it left the balancers."""
DRAIN_BLIND = 1.0
"""Seconds of draining where nobody can tell how many connections are open."""
_LOOK_AGAIN = 0.5


def drain_timeout(spec: ServiceSpec) -> float:
    """Seconds that open connections get: the grace period, or as long as a request may take by its route."""
    return max([spec.template.stop_timeout, *(route.timeout for route in spec.routes)])


def leave(member: Member, wish: Wish, reason: str, draft: Draft) -> None:
    """The next step towards removal."""
    seen = member.seen
    if seen.state is State.RESTARTING or (is_up(seen.state) and emptied(member, wish, reason, draft)):
        draft.ask(Stop(seen.id, seen.service, seen.slot, reason))
    elif not is_up(seen.state):
        draft.ask(Remove(seen.id, seen.service, seen.slot, reason))


def restart(member: Member, wish: Wish, reason: str, draft: Draft) -> None:
    """The next step towards a restart in place."""
    seen = member.seen
    if not is_up(seen.state) or emptied(member, wish, reason, draft):
        draft.ask(Restart(seen.id, seen.service, seen.slot, reason))


def halt(member: Member, wish: Wish, reason: str, draft: Draft, *, drain: bool) -> bool:
    """Stop it where it runs, but keep it. Whether it is down already."""
    seen = member.seen
    if seen.state is State.RESTARTING:
        draft.ask(Stop(seen.id, seen.service, seen.slot, reason))
    if not is_up(seen.state):
        return seen.state is not State.RESTARTING
    if (emptied if drain else _hooked)(member, wish, reason, draft):
        draft.ask(Stop(seen.id, seen.service, seen.slot, reason))
    return False


def emptied(member: Member, wish: Wish, reason: str, draft: Draft) -> bool:
    """Whether it is out of the balancers, without connections, and its pre_stop hook has run; if not, the next step is asked for."""
    seen = member.seen
    if seen.serving:
        return _not_yet(draft, Drain(seen.id, seen.service, seen.slot, reason))
    if seen.draining_since and member.at in RUNS and not _drained(seen, revision(wish, seen.fingerprint), draft):
        draft.restless.add(seen.service)
        return False
    return _hooked(member, wish, reason, draft)


def _not_yet(draft: Draft, action: Action) -> bool:
    draft.ask(action)
    return False


def _drained(seen: Seen, spec: ServiceSpec, draft: Draft) -> bool:
    least, most = seen.draining_since + DRAIN_LEAST, seen.draining_since + drain_timeout(spec)
    if draft.now >= most or (seen.sessions == 0 and draft.now >= least):
        return True
    if seen.sessions < 0:
        return not draft.wake(min(most, seen.draining_since + DRAIN_BLIND))
    draft.wake(least if seen.sessions == 0 else min(most, draft.now + _LOOK_AGAIN))
    return False


def _hooked(member: Member, wish: Wish, reason: str, draft: Draft) -> bool:
    seen = member.seen
    if seen.state is not State.RUNNING or member.at is Condition.HELD or not revision(wish, seen.fingerprint).pre_stop:
        return True
    match seen.pre_stop:
        case HookState.NONE:
            return _not_yet(draft, RunHook(seen.id, seen.service, seen.slot, reason, Hooks.PRE_STOP))
        case HookState.RUNNING:
            draft.restless.add(seen.service)
            return False
        case HookState.DONE | HookState.FAILED:
            return True
