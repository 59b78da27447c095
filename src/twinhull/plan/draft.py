"""A plan in the making: collects actions and wake-up times, and knows which keys have to be left alone for now."""

from __future__ import annotations

from twinhull.plan.actions import Action
from twinhull.plan.observed import Observed

_RETRY_FIRST = 1.0
_RETRY_MOST = 60.0


def retry_delay(count: int) -> float:
    """Seconds until an action that failed `count` times in a row is tried again: doubles up to a minute."""
    return min(_RETRY_MOST, _RETRY_FIRST * 2.0 ** min(count - 1, 20))


class Draft:
    """Local to one call of the planner; nothing of it is seen outside."""

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.now = observed.now
        self.actions: list[Action] = []
        self.wake_at = 0.0
        self.asked: set[str] = set()
        self.restless: set[str] = set()
        """Services of which something is still to be done, now or later."""

    def ask(self, action: Action) -> bool:
        """Add it, unless its key is busy or has failed a moment ago. Whether it was added."""
        key = action.key
        self.restless.add(key.partition("/")[0])
        if key in self.asked or key in self.observed.busy:
            return False
        failed = self.observed.failed.get(key)
        same = failed is not None and failed.action in ("", type(action).__name__)
        if failed is not None and same and self.wake(failed.at + retry_delay(failed.count)):
            return False
        self.asked.add(key)
        self.actions.append(action)
        return True

    def wake(self, when: float) -> bool:
        """Plan again at that time. Whether it is still to come."""
        if when <= self.now:
            return False
        self.wake_at = min(self.wake_at, when) if self.wake_at else when
        return True
