"""Crash loops: what has failed in which slot how often, and when it may be tried again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from twinhull.plan.actions import Tell
from twinhull.plan.condition import Condition, describe, label, times
from twinhull.plan.memory import Crash, Memory
from twinhull.plan.observed import Seen, Wish

_BACKOFF_FIRST = 1.0
_BACKOFF_MOST = 60.0
_STEADY = 60.0
"""Seconds of running after which a failure isn't part of a loop any more."""
_FORGET = 600.0
"""Seconds after which a slot without failures is forgotten (as Kubernetes resets its back-off after ten minutes)."""


def backoff(count: int) -> float:
    """Seconds before the replacement after `count` failures in a row: at once, then doubling from one second to a minute."""
    return 0.0 if count <= 1 else min(_BACKOFF_MOST, _BACKOFF_FIRST * 2.0 ** min(count - 2, 20))


def token(seen: Seen) -> str:
    """One run of one instance."""
    return f"{seen.id}@{seen.started_at}"


def until(memory: Memory, slot: int, wish: Wish) -> float:
    """When a new instance may be made in that slot; 0: at once."""
    return max((crash.until for crash in memory.crashes if crash.slot == slot and crash.at >= wish.asked_at), default=0.0)


def has_failed(memory: Memory, seen: Seen, wish: Wish) -> bool:
    """Whether this run of the instance is known to have failed: we stopped it for that, and it isn't started again but replaced."""
    return any(crash.last == token(seen) and crash.at >= wish.asked_at for crash in memory.crashes)


def note(memory: Memory, failed: Sequence[tuple[Seen, Condition]], wish: Wish, now: float) -> tuple[Memory, list[Tell]]:
    """The memory with failures that it didn't know yet, and what to tell of them."""
    known = {crash.slot: crash for crash in memory.crashes}
    tells: list[Tell] = []
    for seen, at in failed:
        before = known.get(seen.slot)
        if before is not None and before.last == token(seen):
            continue
        ran = (now if at is Condition.SICK else seen.finished_at) - seen.started_at
        loop = before is not None and before.at >= wish.asked_at and not (seen.started_at and ran >= _STEADY)
        count = before.count + 1 if before is not None and loop else 1
        delay = backoff(count)
        known[seen.slot] = Crash(seen.slot, count, token(seen), now, now + delay)
        tells.append(_tell(seen, count, delay))
    if not tells:
        return memory, []
    kept = tuple(crash for _, crash in sorted(known.items()) if crash.at >= now - _FORGET)
    return replace(memory, crashes=kept), tells


def _tell(seen: Seen, count: int, delay: float) -> Tell:
    often = f", {times(count)} in a row" if count > 1 else ""
    when = f"in {delay:g} s" if delay else "now"
    return Tell(seen.service, f"{label(seen)}: {describe(seen)}{often}; replacing it {when}", "warning", seen.id)
