"""A launcher that waits: it starts a QEMU as any other does, and goes with its daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests import leaks
from tests.integration.vm_lab import busybox_root, launch, output_of

from twinhull.home import Home
from twinhull.instance.vm import process, template
from twinhull.instance.vm.launchers import Launchers
from twinhull.instance.vm.machine import VmInstance
from twinhull.sys import proc
from twinhull.sys.cgroup import Cgroup

pytestmark = pytest.mark.timeout(200)

_DAEMON = """
import asyncio, sys
from twinhull.instance.vm.launchers import Launchers
async def main():
    made = Launchers()
    made.keep()
    while made._spare is None:
        await asyncio.sleep(0.01)
    print(made._spare.process.pid, flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


async def _ready(launchers: Launchers) -> int:
    async with asyncio.timeout(30):
        while launchers._spare is None:  # noqa: ASYNC110 - nobody else waits for it
            await asyncio.sleep(0.01)
    return launchers._spare.process.pid


async def test_it_starts_one_guest_and_is_followed_by_another(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launchers = Launchers()
    monkeypatch.setattr(process, "launchers", launchers)
    launchers.keep()
    try:
        first = await _ready(launchers)
        wanted = launch(home, busybox_root(tmp_path), "/bin/sleep", "1000")
        instance = VmInstance(wanted, home, "tcg", templates=False)
        try:
            await instance.create()
            await instance.start()
            assert await output_of(instance, "echo hi") == "hi"
            vmm = process.recorded(wanted.paths.run)
            assert vmm is not None
            assert f"Uid:\t{wanted.id_base}" in Path(f"/proc/{vmm.pid}/status").read_text()
            assert await _ready(launchers) != first
        finally:
            await instance.delete(purge=True)
        assert not proc.alive(first)
    finally:
        await launchers.close()
    template.settle()
    Cgroup(home.cgroup).remove()
    leaks.assert_clean(home, ignore=lambda leak: leak.kind == "file" and "/cache/" in leak.name)


async def test_one_that_died_is_done_without(home: Home, tmp_path: Path) -> None:
    launchers = Launchers()
    launchers.keep()
    pid = await _ready(launchers)
    os.kill(pid, signal.SIGKILL)
    await proc.wait_pid(pid)
    assert await launchers.launch(tmp_path, {}, (0,), 5.0) is None
    await launchers.close()


def test_it_dies_with_its_daemon() -> None:
    with subprocess.Popen([sys.executable, "-c", _DAEMON], stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        assert proc.alive(pid)
        daemon.kill()
    asyncio.run(proc.wait_pid(pid))
