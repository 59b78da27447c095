"""Who waits for a service and who gets whom: first come, first served, to the instance with the fewest. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

K = TypeVar("K")
FRESH = 8
"""Connections that an instance gets before it has said something on one of them, or had some time. A program with a short backlog
(busybox's has 9) is overrun by a crowd that is let in at once: its kernel takes more than it can keep, and those hang for seconds."""


class Line(Generic[K]):
    """`limit`: connections at once per address, 0 any number.

    Every address that `turn` gives is first fresh, until `settle`; at the end it is given back with `release`.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.addresses: tuple[str, ...] = ()
        self.held: Counter[str] = Counter()
        """Address → connections that it has from here."""
        self.fresh: Counter[str] = Counter()
        """Address → how many of these are fresh."""
        self.cold: set[str] = set()
        """Addresses that refused last: one connection at a time tries whether they still do."""
        self._waiting: dict[K, None] = {}

    def join(self, key: K) -> None:
        """At the end."""
        self._waiting[key] = None

    def leave(self, key: K) -> None:
        """Without a turn."""
        self._waiting.pop(key, None)

    def clear(self) -> tuple[K, ...]:
        """Everybody leaves; who that was."""
        gone = tuple(self._waiting)
        self._waiting.clear()
        return gone

    def settle(self, address: str) -> None:
        """One of its connections is not fresh any more."""
        _less(self.fresh, address)

    def release(self, address: str) -> None:
        """One connection less, of those that aren't fresh."""
        _less(self.held, address)

    def turn(self) -> tuple[K, str] | None:
        """Who is next, and where to; None while there is nobody, or no room."""
        free = [each for each in self.addresses if self._has_room(each)]
        if not self._waiting or not free:
            return None
        address = min(free, key=lambda each: self.held[each])
        key = next(iter(self._waiting))
        del self._waiting[key]
        self.held[address] += 1
        self.fresh[address] += 1
        return key, address

    def _has_room(self, address: str) -> bool:
        full = self.limit and self.held[address] >= self.limit
        return not full and self.fresh[address] < (1 if address in self.cold else FRESH)


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
