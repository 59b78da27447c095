"""The real agent without a VM: it serves on a UNIX socket inside namespaces of the host, with a busybox tree as root.

Invariant: `Lab.end` leaves no process, mount or file; the agent is PID 1 of its namespace, so its end is everybody's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from twinhull.instance.base import Process, Session
from twinhull.instance.vm.agent import AGENT, AgentClient
from twinhull.instance.vm.guest import ALL_CAPABILITIES, GuestConfig
from twinhull.spec.instance import Resources
from twinhull.sys import proc

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER_CAPS = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
PATH = "PATH=/bin:/usr/bin"
_UNSHARE = ("unshare", "-m", "-p", "-n", "-u", "-i", "--fork", "--kill-child", "--mount-proc")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:Web:/home/web:/bin/sh\n",
    "etc/group": "root:x:0:\nweb:x:102:\nextra:x:500:web\n",
    "etc/not-a-program": "x",
}


def build_agent() -> Path:
    """The agent with sanitizers, or the one that TWINHULL_TEST_AGENT names."""
    chosen = os.environ.get("TWINHULL_TEST_AGENT")
    if chosen:
        return Path(chosen)
    make = ["make", "-s", "-C", str(REPOSITORY / "agent"), "sanitized"]
    subprocess.run(["flock", str(REPOSITORY / "agent" / "Makefile"), *make], check=True)  # parallel workers build it once
    return REPOSITORY / "build" / "guest" / "test" / "agent"


def make_root(root: Path) -> None:
    """A root with busybox' applets, users, and what the sanitized agent needs to run as a tool inside."""
    for folder in ("bin", "etc", "tmp", "root", "usr/bin", "home/web"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy("/usr/bin/busybox", root / "bin" / "busybox")
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    for name, text in _FILES.items():
        (root / name).write_text(text)


def copy_libraries(program: Path, root: Path) -> None:
    """The shared libraries of a program that isn't static, at the same places in the root."""
    listing = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    for word in listing.split():
        if word.startswith("/"):
            target = root / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(word), target)


def config(*argv: str, **changes: object) -> GuestConfig:
    """A guest that runs argv, with Docker's defaults. Fields of Process among the changes go to the process."""
    fields = {name: changes.pop(name) for name in list(changes) if name in Process.__dataclass_fields__}
    process = replace(Process(argv=argv, env=(PATH,)), **fields)  # type: ignore[arg-type]
    base = GuestConfig(
        process=process,
        init=False,
        hostname="lab",
        read_only=False,
        unmasked=False,
        no_new_privileges=True,
        caps=DOCKER_CAPS,
        seccomp=b"",
        resources=Resources(),
        rlimits=(),
        sysctls=(),
        mounts=(),
        volumes={},
        files=(),
        interfaces=(),
        shm_size=1 << 20,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class Lab:
    """One agent. `connect` may be called again and again, as by daemons that come and go."""

    def __init__(self, folder: Path, agent: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.volumes = folder / "volumes"
        self.output: list[tuple[int, int, bytes]] = []
        self.logged = 0
        self._agent = agent
        self._socket = folder / "agent.sock"
        self._process: asyncio.subprocess.Process | None = None
        self._clients: list[AgentClient] = []

    async def start(self, setup: str = "true") -> None:
        """`setup`: shell commands in the new network namespace, before the agent takes it over."""
        self.volumes.mkdir(exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._socket))
        listener.listen()
        script = f'{setup} && exec "$0" guest {listener.fileno()} "$1" "$2"'
        self._process = await proc.start(
            [*_UNSHARE, "sh", "-ec", script, str(self._agent), str(self.root), str(self.volumes)],
            env={"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
            pass_fds=[listener.fileno()],
            stderr=asyncio.subprocess.PIPE,
        )
        listener.close()

    async def connect(self, log_offset: int | None = None, *, log: bool = True) -> AgentClient:
        """A client that logs into `output`; by default it goes on where the last one was."""
        client = await AgentClient.connect(
            self._socket,
            log_offset=self.logged if log_offset is None else log_offset,
            timeout=20,
            on_output=self._log if log else None,
        )
        self._clients.append(client)
        return client

    def _log(self, offset: int, time_ns: int, fd: int, data: bytes) -> None:
        assert time_ns > 10**18
        self.output.append((offset, fd, data))
        self.logged = offset + len(data)

    def text(self, fd: int = 1) -> bytes:
        """All of the workload's output on that descriptor, as logged."""
        return b"".join(data for _, number, data in self.output if number == fd)

    @property
    def pid(self) -> int:
        """unshare's; the agent is its child."""
        assert self._process is not None
        return self._process.pid

    async def wait_gone(self) -> int:
        """The agent's own exit status (after SHUTDOWN)."""
        assert self._process is not None
        return await self._process.wait()

    async def end(self) -> str:
        """Returns what the agent wrote to its stderr: nothing, unless a sanitizer found something."""
        for client in self._clients:
            await client.close()
        assert self._process is not None
        assert self._process.stderr is not None
        if self._process.returncode is None:
            self._process.kill()
        said = await self._process.stderr.read()
        await self._process.wait()
        return said.decode(errors="replace")


async def collect(session: Session) -> tuple[int, bytes, bytes]:
    """Exit code, stdout, stderr."""
    streams: dict[int, list[bytes]] = {1: [], 2: []}
    async for fd, data in session.output():
        streams[fd].append(data)
    return await session.wait(), b"".join(streams[1]), b"".join(streams[2])


async def sh(client: AgentClient, script: str, **fields: object) -> tuple[int, bytes, bytes]:
    """An exec of a shell script."""
    process = replace(Process(argv=("sh", "-c", script), env=(PATH,)), **fields)  # type: ignore[arg-type]
    return await collect(await client.exec(process))


async def tool(client: AgentClient, *argv: str, data: bytes | None = None) -> tuple[int, bytes, bytes]:
    """One of the agent's tools, inside, with `data` on stdin."""
    session = await client.exec(Process(argv=(AGENT, *argv), env=(), stdin=data is not None), tool=True)
    collecting = asyncio.create_task(collect(session))
    if data is not None:
        await session.send(data)
        await session.close_stdin()
    return await collecting


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something to become true."""

    async def check() -> bool:
        return condition()

    await until_true(check, seconds)


async def until_true(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """The same for what has to be asked for."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def privileged(guest: GuestConfig) -> GuestConfig:
    """The same with everything allowed."""
    return replace(guest, caps=ALL_CAPABILITIES, unmasked=True, no_new_privileges=False)
