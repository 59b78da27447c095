"""The line before a service: nobody is forgotten, nobody overtakes, nobody gets more than its limit."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from twinhull.activator.line import FRESH, Line

ADDRESSES = st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=3)


class Waiting(RuleBasedStateMachine):
    """Against a model that keeps lists."""

    def __init__(self) -> None:
        super().__init__()
        self.line: Line[int] = Line()
        self.next = 0
        self.waiting: list[int] = []
        self.given: list[str] = []
        self.fresh: list[str] = []

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

    @rule(addresses=ADDRESSES)
    def refuse(self, addresses: list[str]) -> None:
        self.line.cold = set(addresses)

    @rule(addresses=ADDRESSES, limit=st.integers(0, 3))
    def change(self, addresses: list[str], limit: int) -> None:
        self.line.addresses, self.line.limit = tuple(addresses), limit

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if self.fresh:
            address = data.draw(st.sampled_from(sorted(self.fresh)))
            self.line.settle(address)
            self.fresh.remove(address)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if settled := Counter(self.given) - Counter(self.fresh):
            address = data.draw(st.sampled_from(sorted(settled)))
            self.line.release(address)
            self.given.remove(address)

    @rule(count=st.integers(0, 20))
    def crowd(self, count: int) -> None:
        for _ in range(count):
            self.join()

    def room(self) -> list[str]:
        held, fresh = Counter(self.given), Counter(self.fresh)
        most = {each: 1 if each in self.line.cold else FRESH for each in self.line.addresses}
        return [each for each in self.line.addresses if fresh[each] < most[each] and not 0 < self.line.limit <= held[each]]

    @rule()
    def turns(self) -> None:
        """All that can be had: in order, each time to one of those with the fewest."""
        while turn := self.line.turn():
            key, address = turn
            assert key == self.waiting.pop(0)
            held, room = Counter(self.given), self.room()
            assert address in room
            assert held[address] == min(held[each] for each in room)
            self.given.append(address)
            self.fresh.append(address)
        assert not self.waiting or not self.room()

    @invariant()
    def counts(self) -> None:
        assert self.line.held == Counter(self.given)
        assert self.line.fresh == Counter(self.fresh)


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
