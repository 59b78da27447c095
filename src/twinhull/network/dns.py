"""Names: dnsmasq processes that answer for the networks, each asked through one network's gateway address.

A *view* is what one kind of instance may know: the names of all networks it is attached to, and where to ask for the rest.
Most instances are on one network and share that network's view. dnsmasq can't answer by who asks, so each view is a process
(about 2 MB), and nftables sends an instance's queries to its view's port (rules.py). So a name of network A can't be asked for
from network B, and nobody outside can ask at all.

The names themselves are files (names.py). The processes outlive the daemon like the workloads do; a new daemon adopts those
whose configuration is still right. They run as `dnsmasq` (or `nobody`) without capabilities, and serve no DHCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import pwd
import re
import signal
import socket
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhull.errors import PermanentError, TwinhullError, UserError
from twinhull.home import Home
from twinhull.network import addresses
from twinhull.network.names import Names
from twinhull.network.ports import Port
from twinhull.spec.network import NetworkRecord
from twinhull.sys import fs, proc, trees

_FIRST_PORT = 10053
_LAST_PORT = 10452
_GRACE = 2.0
_HOST_RESOLV = "/etc/resolv.conf"
_RESTART_PAUSE = 1.0
_SERVER = re.compile(r"[0-9A-Fa-f:.]+(#[0-9]{1,5})?")


@dataclass(frozen=True)
class View:
    """The networks of an instance, the one with its default route first, and the DNS servers asked for ("" = the host's)."""

    records: tuple[NetworkRecord, ...]
    servers: tuple[str, ...] = ()

    @functools.cached_property
    def name(self) -> str:
        """File-name-safe, the same for the same set of networks under the same first one."""
        first, *others = (record.number for record in self.records)
        text = "-".join(f"{number:x}" for number in [first, *sorted(others)])
        return text + ("." + hashlib.sha256(" ".join(self.servers).encode()).hexdigest()[:8] if self.servers else "")

    @property
    def gateway(self) -> str:
        """The address it listens on."""
        return self.records[0].gateway

    @property
    def upstream(self) -> bool:
        """Whether other names are asked for outside."""
        return any(not record.internal for record in self.records)

    @classmethod
    def of(cls, ports: Sequence[Port], servers: tuple[str, ...]) -> View | None:
        """What an instance with these ports may know; None without ports. Labels and the like don't matter for it."""
        if not ports:
            return None
        first = next((port for port in ports if port.interface.default), ports[0])
        others = {port.record.id: port.record for port in ports if port.record.id != first.record.id}
        return cls((first.record, *(others[key] for key in sorted(others))), servers)


def configuration(view: View, port: int, folders: Sequence[Path], pid_file: Path, user: str) -> str:
    """dnsmasq.conf for a view. Source: dnsmasq(8)."""
    lines = [
        f"port={port}",
        f"listen-address={view.gateway}",
        "bind-interfaces",
        "no-hosts",
        "domain-needed",
        "cache-size=1000",
        "dns-forward-max=1000",
        f"pid-file={pid_file}",
        f"user={user}",
    ]
    lines += [f"hostsdir={folder}" for folder in folders]
    lines += [f"local=/{zone}/" for record in view.records for zone in addresses.reverse_zones(record.subnet)]
    if not view.upstream:
        lines.append("no-resolv")
    elif view.servers:
        lines += ["no-resolv", *(f"server={_checked_server(server)}" for server in view.servers)]
    else:
        lines.append(f"resolv-file={_HOST_RESOLV}")
    return "\n".join(lines) + "\n"


def _checked_server(text: str) -> str:
    """An address, perhaps with #port, and nothing that could be another line of the configuration."""
    if not _SERVER.fullmatch(text):
        raise UserError(f"DNS server {text!r}: not an address")
    return text


@dataclass(frozen=True, slots=True)
class _Running:
    pid: int
    started: int
    port: int


class Resolvers:
    """All dnsmasq processes and names of one daemon."""

    names: Names

    def __init__(self, home: Home) -> None:
        self._home = home
        self._folder = home.run / "dns"
        self._views: dict[str, View] = {}
        self._running: dict[str, _Running] = {}
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()

    async def open(self) -> None:
        """Make the folders."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.names = Names(self._home)
        self.names.open()

    def port(self, view: View) -> int | None:
        """Where the view is served on its gateway's address, if it runs."""
        running = self._running.get(view.name)
        return running.port if running else None

    async def ensure(self, view: View) -> int:
        """Serve the view; returns the port on its gateway's address. Adopts a process that a predecessor left.

        Cancelled, it goes on in the background, because dnsmasq is a daemon as soon as it starts; `retire` waits for it.
        """
        return await asyncio.shield(asyncio.ensure_future(self._ensure(view)))

    async def _ensure(self, view: View) -> int:
        async with self._lock:
            self._views[view.name] = view
            running = self._running.get(view.name) or self._adoptable(view)
            if running is None or not proc.alive(running.pid, running.started):
                running = await self._start(view)
            self._running[view.name] = running
            self._changed.set()
            return running.port

    async def keep(self, names: Collection[str]) -> None:
        """End every process of this home but those of these views, also unknown ones."""
        async with self._lock:
            for name in {*self._running, *self._on_disk()} - set(names):
                await self._stop(name)
            known = {running.pid for running in self._running.values()} | {found.pid for found in map(self._recorded, names) if found}
            for pid in await asyncio.to_thread(strays, self._folder, known):
                await _end(pid)

    async def retire(self, names: Iterable[str]) -> None:
        """End the processes of these views."""
        async with self._lock:
            for name in names:
                await self._stop(name)

    async def close(self, *, remove: bool) -> None:
        """With `remove`: end the processes and forget all names."""
        if remove:
            await self.keep(())
            trees.remove(self._folder)
            self.names.remove()

    def using(self, record: NetworkRecord) -> list[str]:
        """Names of the views that include this network."""
        return [name for name, view in self._views.items() if any(other.id == record.id for other in view.records)]

    # processes

    async def supervise(self) -> None:
        """Restart what dies, for ever."""
        while True:
            self._changed.clear()
            watched = [asyncio.create_task(proc.wait_pid(running.pid)) for running in self._running.values()]
            watched.append(asyncio.create_task(_wait(self._changed)))
            try:
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in watched:
                    task.cancel()
                await asyncio.gather(*watched, return_exceptions=True)
            if await self._revive():
                await asyncio.sleep(_RESTART_PAUSE)  # one that dies at once must not keep the machine busy

    async def _revive(self) -> bool:
        """Start again what isn't there. Whether there was something; what fails is tried again at the next call."""
        found = False
        for name, running in list(self._running.items()):
            if proc.alive(running.pid, running.started) or name not in self._views:
                continue
            _reap(running.pid)
            found = True
            with contextlib.suppress(TwinhullError, OSError):
                async with self._lock:
                    if self._running.get(name) == running:
                        self._running[name] = await self._start(self._views[name], running.port)
        return found

    async def _start(self, view: View, port: int = 0) -> _Running:
        port = port or _free_port(view.gateway, {running.port for name, running in self._running.items() if name != view.name})
        config = self._folder / f"{view.name}.conf"
        fs.write_atomic(config, self._configuration(view, port), sync=False)
        await _launch(config)
        pid = int(self._pid_file(view.name).read_text())
        started = proc.start_time(pid)
        if started is None:
            raise PermanentError(f"start dnsmasq for {view.gateway}: it ended at once")
        fs.write_atomic(self._folder / f"{view.name}.json", json.dumps({"pid": pid, "started": started, "port": port}), sync=False)
        return _Running(pid, started, port)

    def _adoptable(self, view: View) -> _Running | None:
        found = self._recorded(view.name)
        if found is None or not proc.alive(found.pid, found.started):
            return None
        if _content(self._folder / f"{view.name}.conf") == self._configuration(view, found.port):
            return found
        os.kill(found.pid, signal.SIGKILL)
        return None

    def _recorded(self, name: str) -> _Running | None:
        try:
            value = json.loads((self._folder / f"{name}.json").read_text())
            return _Running(int(value["pid"]), int(value["started"]), int(value["port"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _configuration(self, view: View, port: int) -> str:
        folders = [self.names.folder(record.number) for record in view.records]
        return configuration(view, port, folders, self._pid_file(view.name), _user())

    def _pid_file(self, name: str) -> Path:
        return self._folder / f"{name}.pid"

    def _on_disk(self) -> set[str]:
        return {path.name.removesuffix(".json") for path in self._folder.glob("*.json")}

    async def _stop(self, name: str) -> None:
        running = self._running.pop(name, None) or self._recorded(name)
        self._views.pop(name, None)
        if running and proc.alive(running.pid, running.started):
            await _end(running.pid)
        for suffix in ("json", "conf", "pid"):
            (self._folder / f"{name}.{suffix}").unlink(missing_ok=True)


def strays(folder: Path, known: Collection[int]) -> list[int]:
    """dnsmasq processes whose configuration is in `folder`, but `known`."""
    prefix = f"--conf-file={folder}/".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in known:
            with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
                if arguments[0].endswith(b"dnsmasq") and any(argument.startswith(prefix) for argument in arguments):
                    found.append(int(entry))
    return found


@functools.cache
def _user() -> str:
    for name in ("dnsmasq", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise PermanentError("neither the user dnsmasq nor nobody exists", "install the package dnsmasq-base")


def _free_port(address: str, taken: Collection[int]) -> int:
    for port in range(_FIRST_PORT, _LAST_PORT):
        if port not in taken and _bindable(address, port):
            return port
    raise PermanentError(f"no free port for DNS on {address}")


def _bindable(address: str, port: int) -> bool:
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
                probe.bind((address, port))
    except OSError:
        return False
    return True


async def _launch(config: Path) -> None:
    """Start dnsmasq; it listens when this returns."""
    try:
        await proc.run(["dnsmasq", f"--conf-file={config}"], timeout=20)
    except proc.ProcessError as error:
        if "inotify" in error.stderr:
            hint = "each network needs one inotify instance: sysctl -w fs.inotify.max_user_instances=1024"
            raise PermanentError(f"start a resolver: {error.stderr.strip()}", hint) from error
        raise


async def _end(pid: int) -> None:
    """TERM, grace, KILL; reaped if it is ours."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(_GRACE):
                await proc.wait_pid(pid)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            await proc.wait_pid(pid)
    _reap(pid)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _content(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
