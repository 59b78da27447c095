"""What the engine asks of an activator: it takes connections in place of a service that has no instance now.

Laws:
- Bytes of a caller stay in the kernel until an instance takes them, so what is held is bounded by socket buffers, whatever is sent.
- A service holds at most `queue` connections, each for at most `deadline` seconds; all others get an answer at once.
- Nothing leads here while instances serve: the gateway and the network's rules go to them directly.
- Who is killed leaves sockets that refuse; the next `open` and `apply` bind them again.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass

QUEUE = 1000
"""Connections that a service holds at most."""
DEADLINE = 60.0
"""Seconds that one is held at most."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """Where connections that the network leads here were meant to go.

    address: a virtual address, or an address of this machine ("" any). port 0: any. target: the port of the instance, 0 the same.
    peers: who may ask, as networks; () anybody.
    """

    address: str
    port: int = 0
    target: int = 0
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sleeper:
    """A service that may sleep: "APP/SERVICE".

    http_ports: ports of instances that the gateway asks with HTTP/1.1 (a refusal is a 503 with Retry-After); raw_ports: those it asks
    otherwise (a refusal is a closed connection). limit: connections at once that an instance gets from here, 0 any number.
    """

    service: str
    http_ports: tuple[int, ...] = ()
    raw_ports: tuple[int, ...] = ()
    tcp: tuple[Entrance, ...] = ()
    queue: int = QUEUE
    deadline: float = DEADLINE
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one service since the daemon's start: connections handed over, seconds that they were held, and connections refused."""

    passed: int = 0
    seconds: float = 0.0
    refused: int = 0


class Activator(abc.ABC):
    """One per engine."""

    on_wanted: Callable[[str], None]
    """Called at once, with the service, when somebody begins to wait for one that has nobody. Must not wait itself."""

    @abc.abstractmethod
    async def open(self) -> None:
        """Listen for what the network leads here."""

    @abc.abstractmethod
    async def close(self) -> None:
        """End everything that is held or passed on."""

    @abc.abstractmethod
    async def apply(self, sleepers: Iterable[Sleeper]) -> None:
        """Stand in for exactly these. Connections to services that aren't among them any more: those that wait are refused."""

    @property
    @abc.abstractmethod
    def port(self) -> int:
        """The TCP port in the daemon's network namespace that `spec.service.ServiceRecord.activator` is."""

    @abc.abstractmethod
    def address(self, service: str, port: int) -> str:
        """What the gateway's backend has as activator for this port of the instances; the same for ever."""

    @abc.abstractmethod
    def ready(self, service: str, addresses: tuple[str, ...]) -> None:
        """Who serves now; those who wait go there. Nobody: it sleeps. Doesn't wait; kept for services not applied yet."""

    @abc.abstractmethod
    def waiting(self, service: str) -> int:
        """Connections that are held."""

    def counts(self, service: str) -> Counts:
        """What there was so far, for metrics."""
        return Counts()

    @abc.abstractmethod
    def open_connections(self, service: str) -> int:
        """Connections that were handed over and aren't over."""
