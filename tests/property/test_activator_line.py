"""The line before a service: nobody is forgotten, nobody overtakes, nobody gets more than its limit."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from twinhull.activator.line import Line

ADDRESSES = st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=3)


class Waiting(RuleBasedStateMachine):
    """Against a model that keeps lists."""

    def __init__(self) -> None:
        super().__init__()
        self.line: Line[int] = Line()
        self.next = 0
        self.waiting: list[int] = []
        self.given: list[str] = []

    @rule()
    def join(self) -> None:
        self.line.join(self.next)
        self.waiting.append(self.next)
        self.next += 1

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from([*self.waiting, -1]))
        self.line.leave(gone)
        self.waiting = [each for each in self.waiting if each != gone]

    @rule()
    def clear(self) -> None:
        assert list(self.line.clear()) == self.waiting
        self.waiting = []

    @rule(addresses=ADDRESSES, limit=st.integers(0, 3))
    def change(self, addresses: list[str], limit: int) -> None:
        self.line.addresses, self.line.limit = tuple(addresses), limit

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.given:
            address = data.draw(st.sampled_from(sorted(self.given)))
            self.line.release(address)
            self.given.remove(address)

    @rule()
    def turns(self) -> None:
        """All that can be had: in order, each time to one of those with the fewest."""
        while turn := self.line.turn():
            key, address = turn
            assert key == self.waiting.pop(0)
            assert address in self.line.addresses
            held = Counter(self.given)
            assert held[address] == min(held[each] for each in self.line.addresses)
            assert not self.line.limit or held[address] < self.line.limit
            self.given.append(address)
        held = Counter(self.given)
        full = self.line.limit and all(held[each] >= self.line.limit for each in self.line.addresses)
        assert not self.waiting or not self.line.addresses or full

    @invariant()
    def counts(self) -> None:
        assert self.line.held == Counter(self.given)


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
