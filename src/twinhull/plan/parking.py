"""How many guests should wait for their instances, and of which shape. Pure.

Demand is what was asked for lately: as many as were started within WINDOW seconds, at most `limit` of a shape, as long as the budget
lasts; the shape that was asked for last comes first.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

WINDOW = 900.0
"""Seconds for which a start counts as demand."""
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Bounds:
    """`limit`: of one shape. `budget`: bytes for all; `cost`: bytes of one."""

    limit: int
    budget: int
    cost: int


def wanted(demand: Mapping[K, Sequence[float]], now: float, bounds: Bounds) -> dict[K, int]:
    """Shape → how many should wait. `demand`: times of starts, in seconds on the clock of `now`, ascending."""
    left = bounds.budget // bounds.cost if bounds.cost > 0 else 0
    chosen: dict[K, int] = {}
    for shape in sorted(demand, key=lambda one: demand[one][-1] if demand[one] else float("-inf"), reverse=True):
        recent = sum(now - at < WINDOW for at in demand[shape])
        count = min(recent, bounds.limit, left)
        if count > 0:
            chosen[shape] = count
            left -= count
    return chosen
