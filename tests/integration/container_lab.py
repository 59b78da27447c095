"""A busybox root, launches on it, and a look whether anything of them is left."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twinhull.instance import processes, staging
from twinhull.instance.base import STDERR, STDOUT, Exit, Instance, Launch, Paths, Process, Root, Session
from twinhull.instance.container import ContainerInstance
from twinhull.spec.instance import Resources, Security
from twinhull.sys import trees
from twinhull.sys.cgroup import Cgroup

ID_BASE = 0x70000000
ENV = ("PATH=/bin:/usr/bin",)
_PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n"
_GROUP = "root:x:0:\napp:x:1001:\nwheel:x:10:root,app\n"


def busybox_root(folder: Path) -> Path:
    """Debian's busybox-static with all its names."""
    for name in ("bin", "etc", "root", "usr/bin", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    shutil.copy("/usr/bin/busybox", folder / "bin/busybox")
    for name in subprocess.run(["/usr/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        if name != "busybox":
            (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc/passwd").write_text(_PASSWD)
    (folder / "etc/group").write_text(_GROUP)
    return folder


@dataclass
class Output:
    """What a session gave."""

    stdout: bytes = b""
    stderr: bytes = b""
    code: int = -1

    @property
    def text(self) -> str:
        return self.stdout.decode()


async def drain(session: Session) -> Output:
    """All output and the exit code; the session is closed."""
    found = Output()
    async for number, data in session.output():
        if number == STDOUT:
            found.stdout += data
        else:
            assert number == STDERR
            found.stderr += data
    found.code = await session.wait()
    await session.close()
    return found


async def execute(instance: Instance, *argv: str, stdin: bytes | None = None, **more: Any) -> Output:
    """exec to the end."""
    session = await instance.exec(Process(argv=argv, env=more.pop("env", ENV), stdin=stdin is not None, **more))
    feeding = asyncio.create_task(_feed(session, stdin)) if stdin is not None else None
    found = await drain(session)
    if feeding is not None:
        await feeding
    return found


async def eventually(condition: Callable[[], Awaitable[Any]], seconds: float = 10.0) -> Any:
    """The first true answer. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            if found := await condition():
                return found
            await asyncio.sleep(0.01)


async def _feed(session: Session, data: bytes) -> None:
    await session.send(data)
    await session.close_stdin()


@dataclass
class Lab:
    """Launches below one home; `hull` is the class under test."""

    home: Path
    root: Path
    hull: Callable[[Launch, Path], Instance] = ContainerInstance
    launches: list[Launch] = field(default_factory=list)

    def launch(self, *argv: str, **more: Any) -> Launch:
        identity = secrets.token_hex(32)
        wanted = {key: more.pop(key) for key in ("cwd", "user", "tty", "stdin", "env") if key in more}
        launch = Launch(
            id=identity,
            name=f"test-{identity[:6]}",
            paths=Paths(self.home / "state/instances" / identity[:12], self.home / "run/i" / identity[:12]),
            root=Root("busybox", (self.root,)),
            process=Process(argv=argv, env=wanted.pop("env", ENV), **wanted),
            hostname="inside",
            mounts=(),
            files=(),
            interfaces=(),
            resources=Resources(),
            security=Security(),
            ulimits=(),
            sysctls={},
            shm_size=1 << 20,
            init=False,
            id_base=ID_BASE,
            cgroup=f"{self.group}/{identity[:12]}",
            log_max_size=1 << 20,
            log_max_files=3,
        )
        launch = replace(launch, **more)
        self.launches.append(launch)
        return launch

    @property
    def group(self) -> str:
        return f"twinhull-test-{os.getpid()}"

    def instance(self, launch: Launch) -> Instance:
        return self.hull(launch, self.home / "run/oci")

    @asynccontextmanager
    async def running(self, *argv: str, **more: Any) -> AsyncIterator[Instance]:
        """Created and started; deleted afterwards, with nothing left."""
        launch = self.launch(*(argv or ("sleep", "1000")), **more)
        instance = self.instance(launch)
        try:
            await instance.create()
            await instance.start()
            yield instance
        finally:
            await instance.delete(purge=True)
        left = self.left(launch)
        assert not left, left

    async def run(self, *argv: str, feed: bytes | None = None, **more: Any) -> tuple[Output, Exit]:
        """create, attach, start, to the end."""
        launch = self.launch(*argv, stdin=feed is not None, **more)
        instance = self.instance(launch)
        try:
            await instance.create()
            session = await instance.attach()
            await instance.start()
            feeding = asyncio.create_task(_feed(session, feed)) if feed is not None else None
            found = await drain(session)
            if feeding is not None:
                await feeding
            end = await instance.wait()
            assert end.code == found.code
        finally:
            await instance.delete(purge=True)
        left = self.left(launch)
        assert not left, left
        return found, end

    def left(self, launch: Launch) -> list[str]:
        """What still is there of a launch."""
        places = [launch.paths.run, launch.paths.state, staging.STAGES / launch.id[:12]]
        places += [self.home / "run/oci" / runtime / launch.id for runtime in ("crun", "runc", "runsc")]
        found = [str(path) for path in places if path.exists()]
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if launch.id[:12] in line]
        found += [f"process {pid}" for pid in processes.mentioning(os.fsencode(launch.paths.run / "bundle"))]
        group = Cgroup(launch.cgroup)
        walked = os.walk("/sys/fs/cgroup")  # passes over what others remove meanwhile
        roots = [folder for folder, _, _ in walked if folder.endswith(f"/{launch.id[:12]}")]
        return found + ([f"cgroup {group.path}"] if group.exists else []) + roots

    async def close(self) -> None:
        for launch in self.launches:
            await self.instance(launch).delete(purge=True)
        Cgroup(self.group).remove()
        trees.remove(self.home)
