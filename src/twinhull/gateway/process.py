"""The HAProxy master of one home: started detached, known by its socket, ended by its pid.

The master keeps root's id with few capabilities (to make workers that have none) and never touches a client's bytes; workers run as
`haproxy` in an empty root folder. Neither dies with the daemon. Its folder is `Home.run`/gateway, and all its paths are relative to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import grp
import json
import os
import pwd
import signal
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from twinhull.errors import PermanentError, TemporaryError
from twinhull.gateway.haproxy import Runtime
from twinhull.gateway.listeners import Listeners
from twinhull.sys import fs, proc

CONFIGURATION = "haproxy.cfg"
_CAPABILITIES = ("setuid", "setgid", "sys_chroot", "kill", "dac_read_search")
"""The last to get to a home that lies in a folder of somebody else's."""
_PATIENCE = 20.0
"""Seconds for a start or reload; a busy machine parses 10,000 routes in one."""
_GRACE = 5.0
_RECORD = "master.json"
_LOG = "haproxy.log"
_HOPELESS = ("Fatal errors found", "[haproxy.main()]")


@dataclass(frozen=True, slots=True)
class Record:
    """What the next daemon has to know. addresses: as in the settings; sockets: environment name → descriptor in the master."""

    pid: int
    started: int
    addresses: tuple[str, ...] = ()
    sockets: dict[str, int] = field(default_factory=dict)


class Master:
    """At most one process. Methods are called under the gateway's lock, but for `wait`."""

    def __init__(self, folder: Path, access_log: Path) -> None:
        self.folder = folder
        self.runtime = Runtime(folder / "sock")
        self.record: Record | None = None
        self.log = folder / _LOG
        self._access_log = access_log
        self._starting: asyncio.Future[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.record is not None and proc.alive(self.record.pid, self.record.started)

    async def adopt(self) -> Record | None:
        """What a predecessor left, if it still answers; what doesn't answer, or was never written down, is ended."""
        found = self._recorded()
        try:
            pid, _ = await self.runtime.master()
        except TemporaryError:
            if found is not None and proc.alive(found.pid, found.started):
                await _end(found)
            return None
        if found is None or found.pid != pid:
            await _end(Record(pid, proc.start_time(pid) or 0))
            return None
        self.record = found
        return found

    async def check(self, files: Mapping[str, bytes]) -> None:
        """Let HAProxy read the files without using them. Raises PermanentError with the line that it doesn't like."""
        trial = self.folder / "check"
        write_all(trial, files)
        probe = socket.socket()
        try:
            probe.bind(("127.0.0.1", 0))
            names = {f"GATEWAY_{kind}{number}": str(probe.fileno()) for kind in ("HTTP", "HTTPS") for number in (0, 1)}
            argv = ["haproxy", "-c", "-f", CONFIGURATION]
            result = await proc.run(argv, cwd=trial, env=names, pass_fds=(probe.fileno(),), check=False, timeout=_PATIENCE)
        except proc.ProcessError as error:
            raise PermanentError(f"the gateway needs HAProxy: {error.stderr}", "apt-get install haproxy") from error
        finally:
            probe.close()
        if result.status != 0:
            raise PermanentError(f"check the gateway's configuration: {_alerts(result.stderr.decode('utf-8', 'replace'))}")

    async def start(self, listeners: Listeners, addresses: tuple[str, ...]) -> None:
        """It serves on return. Its files must be there. Cancelled, it goes on in the background until what was started is written down."""
        self._starting = asyncio.ensure_future(self._start(listeners, addresses))
        await asyncio.shield(self._starting)

    async def _start(self, listeners: Listeners, addresses: tuple[str, ...]) -> None:
        # By this wrapper it is no child of ours: it outlives the daemon, and init reaps it.
        argv = ["setsid", "--fork", "setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{_kept()}"]
        argv += ["haproxy", "-S", "unix@sock/master,level,admin", "-f", CONFIGURATION]
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        access = os.open(self._access_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            launcher = await proc.start(
                argv,
                cwd=self.folder,
                env=listeners.environment,
                pass_fds=listeners.descriptors,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=access,
                stderr=log,
            )
            await launcher.wait()
        finally:
            os.close(log)
            os.close(access)
        pid = await self._ready()
        started = proc.start_time(pid)
        if started is None:
            raise PermanentError(f"start HAProxy: it ended at once: {self.tail()}")
        sockets = {name: int(number) for name, number in listeners.environment.items()}
        self.record = Record(pid, started, addresses, sockets)
        fs.write_atomic(self.folder / _RECORD, json.dumps(asdict(self.record)), 0o600, sync=False)

    async def reload(self) -> None:
        """A new worker with the files there are serves on return; the old one finishes what it has. Raises PermanentError if it can't."""
        before = await self.runtime.workers()
        _, failed = await self.runtime.master()
        assert self.record is not None
        os.kill(self.record.pid, signal.SIGUSR2)
        async with asyncio.timeout(_PATIENCE):
            while True:
                await asyncio.sleep(0.01)
                with contextlib.suppress(TemporaryError):
                    if (await self.runtime.master())[1] > failed:
                        raise PermanentError(f"reload HAProxy: {self.tail()}", "the old configuration goes on")
                    now = [worker for worker in await self.runtime.workers() if worker.current]
                    if now and now[0] not in before:
                        return

    async def stop(self) -> None:
        """TERM, grace, KILL; workers go with the master. Nothing happens if there is none."""
        await self.settle()
        found = self.record or self._recorded()
        self.record = None
        (self.folder / _RECORD).unlink(missing_ok=True)
        if found is not None and proc.alive(found.pid, found.started):
            await _end(found)

    async def settle(self) -> None:
        """Wait for the end of a start whose caller was cancelled, whatever comes of it."""
        if self._starting is not None and not self._starting.done():
            await asyncio.gather(self._starting, return_exceptions=True)

    async def wait(self) -> None:
        """Return when the process has ended, or there is none."""
        if self.record is not None and self.running:
            await proc.wait_pid(self.record.pid)

    def tail(self) -> str:
        """What HAProxy complained of last, on one line."""
        try:
            return _alerts(self.log.read_text(errors="replace")[-4000:])
        except OSError:
            return "it said nothing"

    async def _ready(self) -> int:
        """The master's pid once it answers."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            with contextlib.suppress(TemporaryError):
                if any(worker.current for worker in await self.runtime.workers()):
                    return (await self.runtime.master())[0]
            if asyncio.get_running_loop().time() > deadline or any(word in self._log() for word in _HOPELESS):
                raise PermanentError(f"start HAProxy: {self.tail()}")
            await asyncio.sleep(0.01)

    def _log(self) -> str:
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")
        return ""

    def _recorded(self) -> Record | None:
        try:
            value = json.loads((self.folder / _RECORD).read_text())
            return Record(int(value["pid"]), int(value["started"]), tuple(value["addresses"]), dict(value["sockets"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Each file whole; the folders that HAProxy wants as well."""
    for name, mode in (("", 0o700), ("sock", 0o700), ("certificates", 0o700), ("empty", 0o755)):
        (folder / name).mkdir(mode=mode, parents=True, exist_ok=True)
    for name, data in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != data:
            fs.write_atomic(path, data, 0o600, sync=False)


@functools.cache
def user() -> tuple[str, str]:
    """Whom the workers run as: user and group."""
    for name in ("haproxy", "nobody"):
        with contextlib.suppress(KeyError):
            return name, grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
    raise PermanentError("neither the user haproxy nor nobody exists", "install the package haproxy")


def _kept() -> str:
    return ",".join(f"+{name}" for name in _CAPABILITIES)


def _alerts(text: str) -> str:
    """The lines that matter."""
    bad = [line.partition(" : ")[2] for line in text.splitlines() if line.startswith(("[ALERT]", "[EMERG]"))]
    return "; ".join(dict.fromkeys(bad)) or text.strip()[-500:] or "it said nothing"


async def _end(found: Record) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(_GRACE):
                await proc.wait_pid(found.pid)
        except TimeoutError:
            os.kill(found.pid, signal.SIGKILL)
            await proc.wait_pid(found.pid)
