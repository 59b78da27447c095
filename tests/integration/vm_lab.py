"""What the VM tests share: a busybox root as an erofs file, launches, and an instance that is always deleted."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import leaks

from twinhull.home import Home
from twinhull.instance.base import Launch, Paths, Process, Root, Session
from twinhull.instance.vm import template
from twinhull.instance.vm.machine import VmInstance
from twinhull.spec.instance import Resources, Security
from twinhull.sys.cgroup import Cgroup

ID_BASE = 0x7000_0000
BOOT = 180.0
"""Seconds a boot may take on a busy machine without hardware virtualization."""
_FOLDERS = ("bin", "etc", "tmp", "root", "proc", "sys", "dev", "run", "var")


def busybox_root(folder: Path) -> Path:
    """An erofs file with a static busybox, two users, and nothing else."""
    tree, image = folder / "tree", folder / "root.erofs"
    for name in _FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("busybox") or "/usr/bin/busybox", tree / "bin" / "busybox")
    applets = subprocess.run([tree / "bin" / "busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in set(applets) - {"busybox"}:
        (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n")
    (tree / "etc" / "group").write_text("root:x:0:\nalice:x:1000:\n")
    (tree / "tmp").chmod(0o1777)
    subprocess.run(["mkfs.erofs", "--all-root", "-T0", image, tree], capture_output=True, check=True)
    return image


def launch(home: Home, erofs: Path, *argv: str, number: int = 0, **changes: Any) -> Launch:
    """A launch of a busybox command; `changes` are fields of Launch, or of its Process."""
    instance_id = (f"{number:04x}{os.getpid():08x}" + "0" * 64)[:64]
    process = Process(argv, env=("PATH=/bin",))
    inner = {name: changes.pop(name) for name in ("env", "cwd", "user", "tty", "stdin", "rows", "cols") if name in changes}
    paths = Paths(home.instance_state(instance_id), home.instance_run(instance_id))
    base = Launch(
        id=instance_id,
        name=f"vm{number}",
        paths=paths,
        root=Root("test", erofs=erofs),
        process=replace(process, **inner),
        hostname="guest",
        mounts=(),
        files=(),
        interfaces=(),
        resources=Resources(),
        security=Security(),
        ulimits=(),
        sysctls={},
        shm_size=16 << 20,
        init=False,
        id_base=ID_BASE + number * 65536,
        cgroup=f"{home.cgroup}/{instance_id[:12]}",
        log_max_size=1 << 20,
        log_max_files=3,
    )
    return replace(base, **changes)


@asynccontextmanager
async def created(home: Home, wanted: Launch, *, templates: bool = True) -> AsyncIterator[VmInstance]:
    """An instance after `create`, deleted with its state in the end."""
    instance = VmInstance(wanted, home, templates=templates)
    try:
        async with asyncio.timeout(BOOT):
            await instance.create()
        yield instance
    finally:
        await instance.delete(purge=True)
        await asyncio.to_thread(template.settle)  # it writes into the home, which may go next


@asynccontextmanager
async def started(home: Home, wanted: Launch, *, templates: bool = True) -> AsyncIterator[VmInstance]:
    """An instance after `start`."""
    async with created(home, wanted, templates=templates) as instance:
        await instance.start()
        yield instance


async def collect(session: Session) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of a session."""
    parts: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
    async for stream, data in session.output():
        parts[stream] += data
    return await session.wait(), bytes(parts[1]), bytes(parts[2])


async def shell(instance: VmInstance, script: str, **process: Any) -> tuple[int, bytes, bytes]:
    """Run a shell script inside by exec."""
    session = await instance.exec(Process(("/bin/sh", "-c", script), env=("PATH=/bin",), **process))
    try:
        return await asyncio.wait_for(collect(session), 60)
    finally:
        await session.close()


async def output_of(instance: VmInstance, script: str) -> str:
    """stdout of a script that must succeed."""
    code, out, err = await shell(instance, script)
    assert code == 0, (script, code, out, err)
    return out.decode().strip()


def decided(cache: Path) -> Home:
    """A home whose accelerator is decided already; `lend` gives that to another, so that each test needn't probe."""
    from twinhull import home as homes
    from twinhull.instance.vm import accelerator, assets

    made = homes.at(cache)
    asyncio.run(accelerator.choose(made, assets.load()))
    return made


def assert_gone(home: Home) -> None:
    """No process, mount, cgroup or file of the home's instances is left; what is cached may stay."""
    template.settle()
    Cgroup(home.cgroup).remove()  # the daemon's, above the instances' own
    leaks.assert_clean(home, ignore=lambda leak: leak.kind == "file" and "/cache/" in leak.name)


def lend(decided_home: Home, home: Home) -> None:
    """Copy the decision."""
    home.cache.mkdir(parents=True, exist_ok=True)
    shutil.copy(decided_home.cache / "accelerator.json", home.cache)
