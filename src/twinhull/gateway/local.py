"""The gateway of one daemon: HAProxy on this machine.

Invariant: what is applied is on disk, so that whoever restarts the proxy (this daemon, or the next) brings back the last state.
Every change goes to all workers: one that a reload left behind still chooses servers for the connections it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping

from pydantic import TypeAdapter

from twinhull.errors import ConflictError, PermanentError, TemporaryError, TwinhullError, UserError
from twinhull.gateway import accesslog, asleep, configuration, routes, servers, stats
from twinhull.gateway.base import Backend, BackendStats, Gateway
from twinhull.gateway.certificates import Certificate, Store, crt_list
from twinhull.gateway.haproxy import Seen, Worker
from twinhull.gateway.listeners import Listeners, listen, taken_over
from twinhull.gateway.process import CONFIGURATION, Master, user, write_all
from twinhull.gateway.renewal import Doer, Renewals
from twinhull.gateway.routes import Pool, Routing
from twinhull.gateway.settings import Settings
from twinhull.gateway.stats import Rows
from twinhull.home import Home
from twinhull.spec.app import RouteSpec
from twinhull.sys import trees

_log = logging.getLogger("twinhull.gateway")
_backends: TypeAdapter[tuple[Backend, ...]] = TypeAdapter(tuple[Backend, ...])
_APPLIED, _DIRTY = "applied.json", "dirty"
_REAP_PAUSE = 0.25
_ROTATE_PAUSE = 10.0
_OWN_LOG = 1 << 20
_RESTART_PAUSE = 0.2


class HaproxyGateway(Gateway):
    """See `Gateway`. One at a time for a home."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._folder = home.run / "gateway"
        self._access_log = home.state / "gateway" / "access.log"
        self._master = Master(self._folder, self._access_log)
        self._store = Store(home.config, home.state)
        self._listeners = Listeners()
        self._lock = asyncio.Lock()
        self._routing = Routing()
        self._former: dict[str, Pool] = {}
        self._challenges: dict[str, str] = {}
        self._deadlines: dict[tuple[int, str, str], float] = {}
        self._changed = asyncio.Event()
        self._reaping = asyncio.Event()
        self.renewals = Renewals(settings, self._store, Doer(self._acme_hosts, self._answer, self.install))

    # life

    async def open(self) -> None:
        """Adopt what a predecessor left. Starts nothing until there is a route."""
        self._access_log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, ValueError, TwinhullError):
            self._routing = routes.build(_backends.validate_json((self._folder / _APPLIED).read_bytes()))
        found = await self._master.adopt()
        if found and found.addresses != self._addresses:
            await self._master.stop()
        elif found:
            self._listeners = taken_over(found.pid, found.sockets)
        if self._routing.pools and not self._master.running:
            try:
                await self._start(self._routing)
            except (TwinhullError, OSError, TimeoutError) as error:
                _log.error("%s", error)  # the first `apply` tells whoever asks
        self._reaping.set()

    async def close(self, *, remove: bool = False) -> None:
        """Let go; with remove (or when there is no route), end the proxy and leave nothing but logs and certificates."""
        async with self._lock:
            await self._master.settle()
            self._listeners.close()
            if remove or not self._routing.pools:
                await self._master.stop()
                trees.remove(self._folder)

    async def supervise(self) -> None:
        """Restart the proxy whenever it dies, finish removals, rotate the log, renew certificates; for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._heal(), name="gateway: heal")
            group.create_task(self._reap(), name="gateway: remove servers")
            group.create_task(self._rotate(), name="gateway: rotate the access log")
            group.create_task(self.renewals.run(), name="gateway: renew certificates")

    # changes

    async def apply(self, backends: tuple[Backend, ...]) -> None:
        """See `Gateway.apply`."""
        routing = routes.build(backends)
        async with self._lock:
            certificates = self._store.select(routing.certificates)
            await self._bring_about(routing, certificates)
            self._sweep(routing)
            self._routing = routing
            self._former |= routing.pools
            self._write({_APPLIED: _backends.dump_json(backends)})
        self._changed.set()
        self._reaping.set()
        self.renewals.look()

    async def _bring_about(self, routing: Routing, certificates: Mapping[str, Certificate]) -> None:
        if self._master.running:
            try:
                await self._change(routing, certificates)
            except TemporaryError:
                if self._master.running:
                    raise
        if routing.pools and not self._master.running:  # not there yet, or killed just now
            await self._start(routing)

    async def install(self, certificate: Certificate) -> None:
        """Serve with this certificate from now on, without a reload."""
        async with self._lock:
            files = self._files(self._routing)
            fresh = self._content(certificate.name) is None
            self._write(files)
            if not self._master.running:
                return
            for worker in await self._master.runtime.workers():
                with contextlib.suppress(TwinhullError) if not worker.current else contextlib.nullcontext():
                    await self._install(worker, certificate, fresh=fresh)

    async def _install(self, worker: Worker, certificate: Certificate, *, fresh: bool) -> None:
        runtime = self._master.runtime
        if fresh:
            await runtime.tell(worker, f"new ssl cert {certificate.name}")
        # Blank lines would end the payload.
        text = "\n".join(line for line in certificate.pem.decode().splitlines() if line.strip())
        await runtime.tell(worker, f"set ssl cert {certificate.name} <<\n{text}\n")
        await runtime.tell(worker, f"commit ssl cert {certificate.name}")
        if fresh:
            await runtime.tell(worker, f"add ssl crt-list {configuration.CERTIFICATES} {certificate.name}")

    async def _start(self, routing: Routing) -> None:
        self._ensure_listeners(routing)
        files = self._files(routing)
        await self._master.check(files)
        self._write(files)
        await self._master.start(self._listeners, self._addresses)
        self._changed.set()

    async def _change(self, routing: Routing, certificates: Mapping[str, Certificate]) -> None:
        if routing.needs_tls and not self._listeners.https and not (self._master.record and _has_tls(self._master.record.sockets)):
            # The sockets are inherited, so a further one needs another process.
            self._ensure_listeners(routing)
            await self._master.stop()
            await self._start(routing)
        elif self._is_live(routing):
            await self._change_live(routing, certificates)
        else:
            await self._reload(routing)

    async def _reload(self, routing: Routing) -> None:
        files = self._files(routing)
        await self._master.check(files)
        before = self._files(self._routing)
        self._write({_DIRTY: b""})
        self._write(files)
        try:
            await self._master.reload()
        except (TwinhullError, TimeoutError) as error:
            self._write(before)
            raise PermanentError(f"reload the gateway: {error or 'no answer in time'}") from error
        (self._folder / _DIRTY).unlink()
        for worker in await self._master.runtime.workers():
            if not worker.current:
                with contextlib.suppress(TwinhullError):
                    await self._converge(worker, routing)

    async def _change_live(self, routing: Routing, certificates: Mapping[str, Certificate]) -> None:
        """Servers, maps and certificates: no reload, unless the proxy refuses."""
        texts = {name: text for name, text in configuration.maps(routing).items() if self._content(name) != text.encode()}
        try:
            for worker in await self._master.runtime.workers():
                with contextlib.suppress(TwinhullError) if not worker.current else contextlib.nullcontext():
                    for name, text in texts.items():
                        await self._master.runtime.replace_map(worker, name, text)
                    await self._converge(worker, routing)
                    for certificate in {one.name: one for one in certificates.values()}.values():
                        held = self._content(certificate.name)
                        if held != certificate.pem:
                            await self._install(worker, certificate, fresh=held is None)
        except PermanentError as error:
            _log.warning("%s; reloading instead", error)
            await self._reload(routing)
        self._write(self._files(routing))

    async def _converge(self, worker: Worker, routing: Routing) -> None:
        runtime = self._master.runtime
        seen = await runtime.servers(worker)
        pools: Mapping[str, Pool] = routing.pools
        if not worker.current:
            pools = self._as_known(routing, {row["pxname"] for row in await runtime.statistics(worker)})
        for command in servers.changes(pools, seen):
            await runtime.tell(worker, command)

    def _as_known(self, routing: Routing, names: set[str]) -> dict[str, Pool]:
        """The pools of an old worker with the servers of today: a changed route has another pool, but the old one is still asked."""
        today = {pool.service: pool.servers for pool in routing.pools.values()}
        former = {name: self._former[name] for name in names if name in self._former}
        return {name: dataclasses.replace(pool, servers=today.get(pool.service, ())) for name, pool in former.items()}

    # what is on disk

    @property
    def _addresses(self) -> tuple[str, ...]:
        return (self._settings.http, self._settings.https)

    def _ensure_listeners(self, routing: Routing) -> None:
        """Listen on what isn't listened on yet. The TLS port is taken too if it is free, for a later route. Raises ConflictError."""
        if not self._listeners.http:
            self._listeners.http = listen(self._settings.http)
        if not self._listeners.https:
            if routing.needs_tls and not self._settings.https:
                raise UserError("a route asks for TLS, but the gateway has no address for it", "set https in [gateway] of config.toml")
            with contextlib.suppress(ConflictError) if not routing.needs_tls else contextlib.nullcontext():
                self._listeners.https = listen(self._settings.https)

    def _ground(self) -> configuration.Ground:
        sockets = self._master.record.sockets if self._master.running and self._master.record else self._listeners.environment
        tls = sum(_is_tls(name) for name in sockets)
        name, group = user()
        return configuration.Ground(self._home.tag, len(sockets) - tls, tls, name, group)

    def _is_live(self, routing: Routing) -> bool:
        """Whether the proxy runs with this but for what its runtime API changes."""
        text = configuration.render(routing, self._settings, self._ground(), servers=False)
        present = (self._content(CONFIGURATION) or b"").decode()
        return configuration.without_servers(present) == text and self._content(_DIRTY) is None

    def _content(self, name: str) -> bytes | None:
        """A file of the proxy's folder; None if it isn't there."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / name).read_bytes()
        return None

    def _files(self, routing: Routing) -> dict[str, bytes]:
        """Everything that HAProxy reads."""
        certificates = self._store.select(routing.certificates).values()
        texts = {
            CONFIGURATION: configuration.render(routing, self._settings, self._ground(), servers=True),
            configuration.CHALLENGES: configuration.lines(self._challenges),
            configuration.CERTIFICATES: crt_list(certificates),
            **configuration.maps(routing),
            **configuration.error_files(),
        }
        return {name: text.encode() for name, text in texts.items()} | {one.name: one.pem for one in certificates}

    def _write(self, files: Mapping[str, bytes]) -> None:
        write_all(self._folder, files)

    def _sweep(self, routing: Routing) -> None:
        """Remove the sockets of hops that the proxy has no more, a predecessor's too."""
        names = asleep.sockets(routing.pools.values())
        for path in self._home.proxy_root.glob(f"*{asleep.SUFFIX}"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    # questions

    async def sessions(self, backend: str, server: str) -> int:
        """See `Gateway.sessions`."""
        return stats.sessions(await self._statistics(backend), backend, server)

    async def stats(self) -> tuple[BackendStats, ...]:
        """See `Gateway.stats`."""
        return stats.summarise(await self._statistics(), await asyncio.to_thread(stats.percentiles, self._access_log, time.time()))

    async def metrics(self) -> bytes:
        """For Prometheus, of the current worker; b"" when there is no proxy. Raises TemporaryError."""
        return await self._master.runtime.metrics() if self._master.running else b""

    async def _statistics(self, backend: str = "") -> list[Rows]:
        """Of all workers; at least those of a service, where one is named (asked often, so the current worker is asked for no more)."""
        if not self._master.running:
            return []
        pools = [pool.name for pool in self._routing.pools.values() if pool.service == backend]
        found = []
        for worker in await self._master.runtime.workers():
            with contextlib.suppress(TwinhullError) if not worker.current else contextlib.nullcontext():
                for pool in pools if backend and worker.current else [""]:
                    found.append(await self._master.runtime.statistics(worker, pool))
        return found

    # background

    async def _heal(self) -> None:
        while True:
            self._changed.clear()
            if self._master.record is None:
                await self._changed.wait()
                continue
            await self._master.wait()
            async with self._lock:
                if self._master.record is None or self._master.running:
                    continue
                _log.warning("HAProxy ended: %s; starting it again", self._master.tail())
                try:
                    await self._start(self._routing)
                except (TwinhullError, OSError, TimeoutError) as error:
                    _log.error("%s", error)
            await asyncio.sleep(_RESTART_PAUSE)  # one that dies at once must not keep the machine busy

    async def _reap(self) -> None:
        """Delete servers that were left out, once nobody uses them or their route's timeout is over."""
        while True:
            await self._reaping.wait()
            self._reaping.clear()
            left = True
            while left:
                async with self._lock:
                    try:
                        left = await self._reap_once()
                    except TwinhullError as error:
                        _log.warning("%s", error)
                if left:
                    await asyncio.sleep(_REAP_PAUSE)

    async def _reap_once(self) -> bool:
        """Whether some are left."""
        if not self._master.running:
            return False
        left = {}
        for worker in await self._master.runtime.workers():
            gone = servers.leaving(self._routing.pools, await self._master.runtime.servers(worker))
            rows = await self._master.runtime.statistics(worker) if gone else []
            busy = {(row["pxname"], row["svname"]): row["scur"] != "0" for row in rows}
            for server in gone:
                key = (worker.pid, server.pool, server.name)
                left[key] = self._deadlines.get(key) or time.monotonic() + self._patience(server)
                if await self._delete(worker, server, busy=busy.get(key[1:], False), late=time.monotonic() > left[key]):
                    del left[key]
        self._deadlines = left
        return bool(left)

    async def _delete(self, worker: Worker, server: Seen, *, busy: bool, late: bool) -> bool:
        where = f"{server.pool}/{server.name}"
        runtime = self._master.runtime
        if busy and late:
            await runtime.ask(worker, f"shutdown sessions server {where}")
        return not busy and "deleted" in await runtime.ask(worker, f"del server {where}")

    def _patience(self, server: Seen) -> float:
        pool = self._routing.pools.get(server.pool)
        return pool.route.timeout if pool else RouteSpec().timeout

    async def _rotate(self) -> None:
        while True:
            try:
                await asyncio.to_thread(accesslog.rotate, self._access_log, self._settings.log_max_size, self._settings.log_max_files)
                await asyncio.to_thread(accesslog.rotate, self._master.log, _OWN_LOG, 2)
            except OSError as error:
                _log.warning("rotate %s: %s", self._access_log, error)
            await asyncio.sleep(_ROTATE_PAUSE)

    async def _answer(self, challenges: Mapping[str, str]) -> None:
        """ACME's proofs."""
        async with self._lock:
            self._challenges = dict(challenges)
            lines = configuration.lines(self._challenges)
            self._write({configuration.CHALLENGES: lines.encode()})
            for worker in await self._master.runtime.workers():
                if worker.current:
                    await self._master.runtime.replace_map(worker, configuration.CHALLENGES, lines)

    def _acme_hosts(self) -> list[str]:
        return [host for host, kind in self._routing.certificates.items() if kind == "acme"] if self._master.running else []


def _is_tls(name: str) -> bool:
    return name.startswith("GATEWAY_HTTPS")


def _has_tls(sockets: Mapping[str, int]) -> bool:
    return any(map(_is_tls, sockets))
