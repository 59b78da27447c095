"""One service's callers: who waits, who was put through, and to whom."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass

from twinhull.activator import sockets
from twinhull.activator.base import Counts, Sleeper
from twinhull.activator.line import Line

_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.005, 0.05, 1.2
"""Seconds between two attempts to reach an instance that refuses, because its program doesn't listen yet. They grow slowly: whoever has
waited for long waits a seventh longer than needed."""
_FIRST_PATIENCE, _LONGEST_PATIENCE = 0.1, 1.0
"""Seconds for an instance's kernel to take a connection. Short at first: with a full backlog it says nothing, and ours would ask again
only after a second."""


@dataclass(eq=False, slots=True)
class Place:
    """A connection that an instance has from here. fresh: see `Line`."""

    address: str
    fresh: bool = True


Waiter = asyncio.Future[Place]


class Desk:
    """`wanted` is called when somebody waits and nobody serves."""

    def __init__(self, wanted: Callable[[], None]) -> None:
        self.sleeper: Sleeper | None = None
        """None: no service to stand in for (any more, or yet)."""
        self.waiting = 0
        self.counts = Counts()
        self._line: Line[Waiter] = Line()
        self._wanted = wanted

    @property
    def open(self) -> int:
        """Connections that were put through and aren't over."""
        return self._line.held.total()

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost with it."""
        return self.sleeper is None and not self.waiting and not self.open and not self._line.addresses

    def serve(self, sleeper: Sleeper | None) -> None:
        """Stand in for this; None: those who wait are refused."""
        self.sleeper = sleeper
        self._line.limit = sleeper.limit if sleeper else 0
        if sleeper is None:
            for waiter in self._line.clear():
                waiter.set_exception(ConnectionAbortedError("the service is gone"))
        self._turns()

    def ready(self, addresses: tuple[str, ...]) -> None:
        """Who serves now."""
        self._line.addresses = addresses
        self._line.cold &= set(addresses)
        self._turns()
        self._ask()

    async def put_through(self, caller: socket.socket, port: int, hangups: sockets.Hangups) -> tuple[Place, socket.socket] | None:
        """A connection to an instance; `settled` is to be told when it isn't fresh any more, `over` at its end. None: refused.

        By the bound, the deadline, because the service went, or because the caller did.
        """
        begun = asyncio.get_running_loop().time()
        found = await self._wait(caller, port, hangups)
        passed, seconds, refused = self.counts.passed, self.counts.seconds, self.counts.refused
        if found is None:
            self.counts = Counts(passed, seconds, refused + 1)
        else:
            self.counts = Counts(passed + 1, seconds + asyncio.get_running_loop().time() - begun, refused)
        return found

    async def _wait(self, caller: socket.socket, port: int, hangups: sockets.Hangups) -> tuple[Place, socket.socket] | None:
        if self.sleeper is None or self.waiting >= self.sleeper.queue:
            return None
        self.waiting += 1
        try:
            if self.waiting == 1:
                self._ask()
            async with asyncio.timeout(self.sleeper.deadline) as scope:
                with hangups.watching(caller, lambda: sockets.hurry(scope, 0)):
                    return await self._reach(port)
        except (TimeoutError, ConnectionAbortedError):
            return None
        finally:
            self.waiting -= 1

    def settled(self, place: Place) -> None:
        """It is not fresh any more; may be said again."""
        if place.fresh:
            place.fresh = False
            self._line.settle(place.address)
            self._turns()

    def over(self, place: Place) -> None:
        """The connection has ended."""
        self.settled(place)
        self._line.release(place.address)
        self._turns()

    async def _reach(self, port: int) -> tuple[Place, socket.socket]:
        pause, patience = _FIRST_PAUSE, _FIRST_PATIENCE
        while True:
            place = await self._turn()
            try:
                made = await sockets.dial(place.address, port, patience)
            except OSError:
                self._line.cold.add(place.address)
                try:
                    await asyncio.sleep(pause)
                finally:
                    self.over(place)
            except BaseException:
                self.over(place)
                raise
            else:
                self._line.cold.discard(place.address)
                self._turns()
                return place, made
            pause, patience = min(_GROWTH * pause, _LONGEST_PAUSE), min(2 * patience, _LONGEST_PATIENCE)
            if self.sleeper is None:
                raise ConnectionAbortedError("the service is gone")

    async def _turn(self) -> Place:
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._line.join(waiter)
        self._turns()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._line.leave(waiter)
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self.over(waiter.result())
            raise

    def _turns(self) -> None:
        while turn := self._line.turn():
            waiter, address = turn
            place = Place(address)
            if waiter.done():  # cancelled, and about to leave
                self.over(place)
            else:
                waiter.set_result(place)

    def _ask(self) -> None:
        if self.waiting and not self._line.addresses and self.sleeper is not None:
            with contextlib.suppress(Exception):
                self._wanted()
