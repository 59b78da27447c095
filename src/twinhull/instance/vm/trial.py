"""A guest that belongs to no instance: booted or restored to see whether it answers, and gone afterwards.

Invariant: while it lives its folder is locked by this process, so what a killed one left is told apart by the lock and removed by `sweep`.
Called by `accelerator.py` (the probe) and `template.py`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from twinhull.errors import UnsupportedError
from twinhull.home import Home
from twinhull.instance.vm import process, qemu
from twinhull.instance.vm.agent import AgentClient
from twinhull.instance.vm.assets import Assets
from twinhull.instance.vm.qmp import Monitor
from twinhull.sys import trees

_IDS = 0x7FFE_0000
"""Ids for the jail: the last 65,536 before podman's, which no instance gets."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Trial:
    """A QEMU that runs. Its methods raise UnsupportedError with QEMU's words when it ends before they are done."""

    run: Path
    vmm: process.Vmm
    messages: process.Messages

    async def agent(self, seconds: float) -> AgentClient:
        """The agent, when it answers. The caller closes it."""
        with process.address(self.run, process.AGENT_SOCKET) as path:
            return await self.unless_ended(AgentClient.connect(path, timeout=seconds))

    async def monitor(self) -> Monitor:
        """QEMU's monitor. The caller closes it."""
        with process.address(self.run, process.QMP_SOCKET) as path:
            return await self.unless_ended(Monitor.connect(path))

    async def unless_ended(self, action: Awaitable[_T]) -> _T:
        """What `action` returns."""
        doing = asyncio.ensure_future(action)
        ended = asyncio.create_task(self.vmm.wait(), name="trial's end")
        try:
            await asyncio.wait((doing, ended), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise UnsupportedError(f"QEMU ended: {self.messages.text() or 'no message'}")
            return await doing
        finally:
            for task in (doing, ended):
                task.cancel()
            await asyncio.gather(doing, ended, return_exceptions=True)


Describe = Callable[[str, qemu.Channels], qemu.Vm]
"""(name, listening sockets) → the machine."""


@asynccontextmanager
async def running(home: Home, kind: str, guest: Assets, describe: Describe) -> AsyncIterator[Trial]:
    """Start QEMU in a jail and a folder of its own (`kind`-…), and leave nothing of it."""
    with _folder(home, kind) as run:
        try:
            with ExitStack() as stack, process.Messages() as messages:
                vm = describe(str(run), process.listen(run, stack))
                vmm = await process.start(vm, process.Cage(run, _IDS, guest.kernel, guest.initrd), messages)
                stack.close()
                yield Trial(run, vmm, messages)
        finally:
            await process.end(run)
            trees.remove(run)


async def sweep(home: Home, kind: str) -> None:
    """End and remove what processes that were killed left behind."""
    for run in home.run.glob(f"{kind}-*"):
        with _claimed(run) as ours:
            if ours:
                await process.end(run)
                trees.remove(run)


@contextmanager
def _folder(home: Home, kind: str) -> Iterator[Path]:
    home.run.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=home.run))
    with _claimed(run):
        yield run


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; False if another process (or task) holds it, or if it's gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
