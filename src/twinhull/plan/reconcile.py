"""Observe → **plan** → apply: from what is wanted and what is there to the next actions, each with its reason.

The engine's loop: observe, `reconcile`, store the memory, begin the actions; when one ends, when something happens, or at `wake_at`: again.
`preview` runs that loop on paper, for `up --dry-run`. `pause`, `resume` and `abort` are what people do to a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping

from twinhull.plan.actions import Plan
from twinhull.plan.memory import Memory
from twinhull.plan.observed import Desired, Observed


def reconcile(desired: Desired, observed: Observed, memory: Mapping[str, Memory]) -> Plan:
    """The next plan. Pure; O(n log n) in the number of instances."""
    raise NotImplementedError
