"""A service as the planner sees it: its instances with their conditions, split by revision, and what governs them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from twinhull.plan.condition import Condition, in_place
from twinhull.plan.lifecycle import is_up
from twinhull.plan.memory import Memory, Rollout, RolloutStatus
from twinhull.plan.observed import HookState, Seen, Wish
from twinhull.plan.rollout import Member, active, policy, strategy, target
from twinhull.spec.app import Strategy, UpdateOrder, UpdatePolicy


@dataclass(frozen=True, slots=True)
class Scene:
    """members: by slot; current: of the revision `goal` that instances are made from now; old: of any other.

    blocked: why no instance may start yet, "" none. hopeless: it will stay blocked unless something changes.
    """

    wish: Wish
    memory: Memory
    goal: str
    current: tuple[Member, ...]
    old: tuple[Member, ...]
    blocked: str = ""
    hopeless: bool = False

    @property
    def name(self) -> str:
        """The service's."""
        return self.wish.spec.name

    @property
    def members(self) -> tuple[Member, ...]:
        """All."""
        return (*self.current, *self.old)

    @property
    def rollout(self) -> Rollout | None:
        """The one under way."""
        return active(self.wish, self.memory)

    @property
    def frozen(self) -> bool:
        """Whether replacing is paused."""
        return self.rollout is not None and self.rollout.status is RolloutStatus.PAUSED

    @property
    def policy(self) -> UpdatePolicy:
        """What governs replacing."""
        return policy(self.wish, self.rollout)

    @property
    def strategy(self) -> Strategy:
        """How traffic moves."""
        return strategy(self.wish, self.rollout)

    @property
    def parallelism(self) -> int:
        """How many at a time, at least 1."""
        return self.policy.parallelism or max(1, self.wish.replicas)

    @property
    def one_by_one(self) -> bool:
        """Whether the old has to go before the new comes."""
        return in_place(self.wish) or self.policy.order is UpdateOrder.STOP_FIRST


def scene(wish: Wish, members: Iterable[Member], memory: Memory) -> Scene:
    """Split by revision."""
    goal = target(wish, memory)
    ordered = sorted(members, key=lambda member: member.seen.slot)
    current = tuple(member for member in ordered if member.seen.fingerprint == goal)
    return Scene(wish, memory, goal, current, tuple(member for member in ordered if member.seen.fingerprint != goal))


def available(member: Member) -> bool:
    """Whether it is capacity: ready, and in the balancers."""
    return member.at is Condition.READY and member.seen.serving


def ending(seen: Seen) -> bool:
    """Whether it was told to end, and hasn't yet."""
    return seen.stopped and is_up(seen.state)


def leaving(seen: Seen) -> bool:
    """Whether it has begun to go."""
    return seen.draining_since > 0 or seen.pre_stop is not HookState.NONE
