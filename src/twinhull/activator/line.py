"""Who waits for a service and who gets whom: first come, first served, to the instance with the fewest. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

K = TypeVar("K")


class Line(Generic[K]):
    """`limit`: connections at once per address, 0 any number. Every address that `turn` gives is given back with `release`."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.addresses: tuple[str, ...] = ()
        self.held: Counter[str] = Counter()
        """Address → connections that it has from here."""
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

    def release(self, address: str) -> None:
        """One connection less."""
        self.held[address] -= 1
        if not self.held[address]:
            del self.held[address]

    def turn(self) -> tuple[K, str] | None:
        """Who is next, and where to; None while there is nobody, or no room."""
        if not self._waiting or not self.addresses:
            return None
        address = min(self.addresses, key=lambda each: self.held[each])
        if self.limit and self.held[address] >= self.limit:
            return None
        key = next(iter(self._waiting))
        del self._waiting[key]
        self.held[address] += 1
        return key, address
