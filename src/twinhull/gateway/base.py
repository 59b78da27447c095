"""What the engine asks of a gateway, whatever proxy stands behind it."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from twinhull.spec.app import RouteSpec


@dataclass(frozen=True, slots=True)
class Server:
    """One instance behind a service. name: the instance's name. weight 0–256: its share of new requests; 0 takes none (drains)."""

    name: str
    address: str
    weight: int = 100


@dataclass(frozen=True, slots=True)
class Backend:
    """A service as the gateway sees it: `name` is "APP/SERVICE". Its servers change often, the routes seldom."""

    name: str
    routes: tuple[RouteSpec, ...]
    """With their ports resolved (never 0)."""
    servers: tuple[Server, ...] = ()
    activator: str = ""
    """Takes the requests while no server is up: it holds them, has an instance started, and passes them on. "" none.

    IP:PORT, or unix@PATH as the proxy's workers see it. It knows what is meant by the address alone, so all routes must have one port.
    """


@dataclass(frozen=True, slots=True)
class ServerStats:
    """sessions: open now (all states). Requests and errors are totals since the server was added."""

    name: str
    sessions: int
    requests: int
    errors: int
    status: str


@dataclass(frozen=True, slots=True)
class BackendStats:
    """Times in seconds; rate: requests per second over the last second; queue: requests that wait; p95 0 when unknown."""

    name: str
    rate: float
    sessions: int
    queue: int
    requests: int
    responses_5xx: int
    p95: float
    servers: tuple[ServerStats, ...]


class Gateway(abc.ABC):
    """Lives on when the daemon dies; `open` adopts it."""

    @abc.abstractmethod
    async def open(self) -> None:
        """Adopt what a predecessor left. Starts nothing until there is a route."""

    @abc.abstractmethod
    async def close(self, *, remove: bool = False) -> None:
        """Let go; with remove, end the proxy and leave nothing."""

    @abc.abstractmethod
    async def supervise(self) -> None:
        """Restart the proxy whenever it dies, with the last state; for ever."""

    @abc.abstractmethod
    async def apply(self, backends: tuple[Backend, ...]) -> None:
        """Exactly these. Effective on return: a new server takes requests, a removed or 0-weight one no new ones.

        Only servers changed: no reload. A server that is left out is removed once its sessions are over or after its route's timeout; see
        `sessions`.
        Raises ConflictError where two backends claim the same host, path and TLS, or a port of the machine is taken.
        """

    @abc.abstractmethod
    async def sessions(self, backend: str, server: str) -> int:
        """Open sessions of a server, 0 if it isn't known."""

    @abc.abstractmethod
    async def stats(self) -> tuple[BackendStats, ...]:
        """Of all backends, in one question to the proxy."""
