"""The machine's budget: how many instances each service may have, when not all can have what they want; who shrinks when memory runs out.

Admission is by request (`resources` of an instance), not by use: what was granted can be kept without the kernel killing anybody.
Everybody's `min` comes first, in order of priority; then priorities from the highest, and among equals those that have instances keep
them, and the rest goes round. Pure; the autoscaler takes the grant as one more bound (scale.Load.granted).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True)
class Room:
    """What may be given away. cpus: in whole CPUs, memory: bytes; 0: without bound."""

    cpus: float = 0.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """service: "APP/SERVICE". have: instances there are; cpus, memory: the request of one instance."""

    service: str
    priority: int
    least: int
    wanted: int
    have: int
    cpus: float = 0.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """instances ≤ wanted. reason: why not all, "" if all."""

    instances: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """What a service really uses. memory: bytes of all its instances together."""

    service: str
    priority: int
    least: int
    instances: int
    memory: int


@dataclass(frozen=True, slots=True)
class Eviction:
    """So many instances of the service have to go, before the kernel chooses."""

    service: str
    instances: int
    reason: str


class _Purse:
    """What is left while it is given away."""

    def __init__(self, room: Room) -> None:
        self.cpus = room.cpus or float("inf")
        self.memory = room.memory or float("inf")

    def take(self, claim: Claim, count: int) -> int:
        """As many of `count` as there is room for."""
        by_cpus = int((self.cpus + 1e-9) / claim.cpus) if claim.cpus and self.cpus != float("inf") else count
        by_memory = int(self.memory / claim.memory) if claim.memory and self.memory != float("inf") else count
        given = max(0, min(count, by_cpus, by_memory))
        self.cpus -= given * claim.cpus
        self.memory -= given * claim.memory
        return given


def admit(room: Room, claims: Iterable[Claim]) -> dict[str, Grant]:
    """What each may have now. Deterministic; more room never gives anybody less of the whole."""
    ordered = sorted(claims, key=lambda claim: (-claim.priority, claim.service))
    purse = _Purse(room)
    given = {claim.service: purse.take(claim, min(claim.least, claim.wanted)) for claim in ordered}
    for _, group in groupby(ordered, key=lambda claim: claim.priority):
        equals = list(group)
        for claim in equals:
            given[claim.service] += purse.take(claim, min(claim.have, claim.wanted) - given[claim.service])
        _go_round(purse, equals, given)
    return {claim.service: Grant(given[claim.service], _why(claim, given[claim.service], ordered)) for claim in ordered}


def _go_round(purse: _Purse, equals: Sequence[Claim], given: dict[str, int]) -> None:
    """One at a time to whoever has the smallest part of what it wants."""
    queue = [(given[c.service] / c.wanted, c.service, c) for c in equals if given[c.service] < c.wanted]
    heapq.heapify(queue)
    while queue:
        _, name, claim = heapq.heappop(queue)
        if not purse.take(claim, 1):
            continue
        given[name] += 1
        if given[name] < claim.wanted:
            heapq.heappush(queue, (given[name] / claim.wanted, name, claim))


def _why(claim: Claim, given: int, ordered: Sequence[Claim]) -> str:
    if given >= claim.wanted:
        return ""
    higher = [other.service for other in ordered if other.priority > claim.priority and other.wanted]
    ahead = f"; {', '.join(higher[:3])} {'has' if len(higher) == 1 else 'have'} precedence" if higher else ""
    return f"the machine's budget has room for {given} of {claim.wanted}{ahead}"


def evict(limit: int, uses: Iterable[Use]) -> tuple[Eviction, ...]:
    """Which instances go when more than `limit` bytes are really used: what is beyond a min before the rest, the lowest priority first."""
    ordered = sorted(uses, key=lambda use: (use.priority, -use.memory, use.service))
    over = float(sum(use.memory for use in ordered) - limit)
    going: dict[str, int] = {}
    for spare in (True, False):
        for use in ordered:
            there = use.instances - going.get(use.service, 0)
            may_go = max(0, there - use.least) if spare else there
            each = use.memory / use.instances if use.instances else 0.0
            while over > 0 and may_go > 0 and each > 0:
                going[use.service] = going.get(use.service, 0) + 1
                may_go -= 1
                over -= each
    return tuple(
        Eviction(use.service, going[use.service], f"memory is short, and its priority {use.priority} is the lowest")
        for use in ordered
        if use.service in going
    )
