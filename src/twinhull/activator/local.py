"""The activator of one daemon: UNIX sockets in the root folder of the gateway's workers, one TCP port for the network.

The UNIX sockets say by their names which service and port is meant; the path is below a folder that only root enters, and the workers'
root folder is inside it. Connections on the TCP port tell by their original destination.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from twinhull.activator import sockets
from twinhull.activator.base import Activator, Counts, Entrance, Sleeper
from twinhull.activator.desk import Desk
from twinhull.home import Home

_log = logging.getLogger("twinhull.activator")
_FOLDER = "activator"
_FULL_PAUSE = 0.5
_LAST_WORDS = 30.0
"""Seconds for what is under way to a caller, or from it, once it has hung up; as long as the gateway grants."""
_FRESH = 0.1
"""Seconds after which an instance that says nothing on a connection will have accepted it."""
_BODY = b'{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"no instance could take the request in time"}\n'
_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: application/problem+json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)

Refuse = Callable[[socket.socket], Awaitable[None]]
Way = tuple[Desk, int]
"""A service and the port of its instances."""


class LocalActivator(Activator):
    """See `Activator`."""

    def __init__(self, home: Home) -> None:
        self.on_wanted = lambda _service: None
        self._folder = home.proxy_root / _FOLDER
        self._desks: dict[str, Desk] = {}
        self._doors: dict[tuple[str, int], tuple[socket.socket, asyncio.Task[None]]] = {}
        """(service, port) → what the gateway connects to."""
        self._entrances: dict[tuple[str, int], tuple[str, Entrance]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate: socket.socket | None = None
        self._hangups: sockets.Hangups | None = None

    # life

    async def open(self) -> None:
        """See `Activator.open`."""
        self._hangups = sockets.Hangups()
        self._gate = sockets.listen_tcp()
        self._start(self._receive(self._gate, self._from_network), self._gate, "activator: network")

    async def close(self) -> None:
        """See `Activator.close`."""
        for key in tuple(self._doors):
            await self._shut(key)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._gate is not None and self._hangups is not None:
            self._hangups.close()
            self._gate = self._hangups = None

    async def apply(self, sleepers: Iterable[Sleeper]) -> None:
        """See `Activator.apply`."""
        wanted = {sleeper.service: sleeper for sleeper in sleepers}
        doors = {(sleeper.service, port) for sleeper in wanted.values() for port in (*sleeper.http_ports, *sleeper.raw_ports)}
        for key in self._doors.keys() - doors:
            await self._shut(key)
        for name in {*self._desks, *wanted}:
            self._desk(name).serve(wanted.get(name))
        self._entrances = {(each.address, each.port): (name, each) for name, sleeper in wanted.items() for each in sleeper.tcp}
        for key in doors:
            self._ensure(key)
        self._sweep()

    @property
    def port(self) -> int:
        """See `Activator.port`."""
        assert self._gate is not None, "open first"
        return int(self._gate.getsockname()[1])

    def address(self, service: str, port: int) -> str:
        """See `Activator.address`. As the workers see it: their root folder is not the machine's."""
        return f"unix@/{_FOLDER}/{_file(service, port)}"

    # state

    def ready(self, service: str, addresses: tuple[str, ...]) -> None:
        """See `Activator.ready`."""
        self._desk(service).ready(addresses)
        self._forget(service)

    def waiting(self, service: str) -> int:
        """See `Activator.waiting`."""
        desk = self._desks.get(service)
        return desk.waiting if desk else 0

    def counts(self, service: str) -> Counts:
        """See `Activator.counts`."""
        desk = self._desks.get(service)
        return desk.counts if desk else Counts()

    def open_connections(self, service: str) -> int:
        """See `Activator.open_connections`."""
        desk = self._desks.get(service)
        return desk.open if desk else 0

    def _desk(self, service: str) -> Desk:
        if service not in self._desks:
            self._desks[service] = Desk(lambda: self.on_wanted(service))
        return self._desks[service]

    def _forget(self, service: str) -> None:
        desk = self._desks.get(service)
        if desk is not None and desk.idle:
            del self._desks[service]

    # doors

    def _ensure(self, key: tuple[str, int]) -> None:
        path = self._folder / _file(*key)
        if key in self._doors and path.exists():
            return
        for folder, mode in ((self._folder.parent.parent, 0o700), (self._folder.parent, 0o755), (self._folder, 0o755)):
            folder.mkdir(mode=mode, parents=True, exist_ok=True)  # whoever comes first, the gateway or this
        listener = sockets.listen_unix(path)
        if key in self._doors:  # the file was removed under it
            self._doors.pop(key)[1].cancel()

        async def serve(caller: socket.socket) -> None:
            desk = self._desk(key[0])
            plain = desk.sleeper is not None and key[1] in desk.sleeper.http_ports
            await self._serve(caller, (desk, key[1]), _unavailable if plain else _abort)

        self._doors[key] = listener, self._start(self._receive(listener, serve), listener, f"activator: {key[0]} {key[1]}")

    async def _shut(self, key: tuple[str, int]) -> None:
        _, task = self._doors.pop(key)
        (self._folder / _file(*key)).unlink(missing_ok=True)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _sweep(self) -> None:
        """Sockets that a predecessor left, and services that are nothing to us."""
        names = {_file(*key) for key in self._doors}
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                if path.name not in names:
                    path.unlink(missing_ok=True)
        for service in tuple(self._desks):
            self._forget(service)

    async def _from_network(self, caller: socket.socket) -> None:
        found = self._way(caller)
        if found is None:
            sockets.abort(caller)
        else:
            sockets.watch(caller)
            await self._serve(caller, found, _abort)

    def _way(self, caller: socket.socket) -> Way | None:
        """Where the caller wanted to go, if it may."""
        try:
            meant, peer = sockets.destination(caller), ipaddress.ip_address(caller.getpeername()[0])
        except OSError:
            return None
        if meant is None:
            return None
        address, port = meant
        for key in ((address, port), (address, 0), ("", port)):
            service, entrance = self._entrances.get(key, ("", None))
            if entrance is not None and (not entrance.peers or any(peer in ipaddress.ip_network(each) for each in entrance.peers)):
                return self._desk(service), entrance.target or port
        return None

    # callers

    async def _receive(self, listener: socket.socket, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                caller, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # out of descriptors or memory: what waits goes on waiting in the kernel
                    _log.warning("accept a connection: %s", error)
                    await asyncio.sleep(_FULL_PAUSE)
                continue
            self._start(_guarded(serve, caller), caller, "activator: caller")

    async def _serve(self, caller: socket.socket, way: Way, refuse: Refuse) -> None:
        desk, port = way
        assert self._hangups is not None
        found = await desk.put_through(caller, port, self._hangups)
        if found is None:
            await refuse(caller)
            return
        place, instance = found
        timer = asyncio.get_running_loop().call_later(_FRESH, desk.settled, place)
        try:
            await self._pass_on(caller, instance, lambda: desk.settled(place))
        finally:
            timer.cancel()
            instance.close()
            desk.over(place)

    async def _pass_on(self, caller: socket.socket, instance: socket.socket, heard: Callable[[], None]) -> None:
        """Until it is over. What breaks on one side breaks on the other."""
        assert self._hangups is not None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as scope:
                with self._hangups.watching(caller, lambda: sockets.hurry(scope, loop.time() + _LAST_WORDS)):
                    await sockets.splice(caller, instance, heard)
        except OSError:
            sockets.abort(caller)
            sockets.abort(instance)

    def _start(self, work: Coroutine[Any, Any, None], held: socket.socket, name: str) -> asyncio.Task[None]:
        """`held` is closed at the end, also of a task that is cancelled before it begins."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(lambda _: held.close())
        task.add_done_callback(self._tasks.discard)
        return task


async def _guarded(serve: Callable[[socket.socket], Awaitable[None]], caller: socket.socket) -> None:
    try:
        await serve(caller)
    except Exception:
        _log.exception("a connection that was held")


async def _unavailable(caller: socket.socket) -> None:
    await sockets.say(caller, _UNAVAILABLE)


async def _abort(caller: socket.socket) -> None:
    sockets.abort(caller)


def _file(service: str, port: int) -> str:
    """Short, because HAProxy's path has at most 107 bytes, and safe, whatever the names."""
    return f"{hashlib.sha256(service.encode()).hexdigest()[:16]}.{port}"
