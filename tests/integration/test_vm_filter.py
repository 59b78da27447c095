"""What holds a running QEMU: the system call filter of each of its threads, and what becomes of one that strays."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest
from tests.integration.filters import ALLOW, ERRNO, KILL, LAST, of_thread, speak, threads, verdict
from tests.integration.vm_lab import busybox_root, launch, output_of, started
from tests.integration.vm_net import Wire

from twinhull.home import Home
from twinhull.instance.base import HostMount
from twinhull.instance.vm import process, syscalls
from twinhull.sys.cgroup import Cgroup

pytestmark = pytest.mark.timeout(400)
MOST = 70
"""Allowed calls, those with conditions on their arguments included (docs/adr/0006-qemu-system-calls.md)."""
_SOCKET = 41


@pytest.fixture(scope="module")
def erofs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_root(tmp_path_factory.mktemp("root"))


async def test_every_thread_has_a_list_of_at_most_seventy(home: Home, erofs: Path, tmp_path: Path) -> None:
    """With all there is: an interface, a volume, disks and workers that have just been busy."""
    with Wire() as wire:
        mounts = (HostMount("/data", tmp_path),)
        wanted = launch(home, erofs, "/bin/sleep", "1000", mounts=mounts, interfaces=(wire.interface,), taps=(wire.tap,))
        async with started(home, wanted) as instance:
            await output_of(instance, "cp /bin/busybox /data; cp /bin/busybox /root; sync")
            vmm = process.recorded(wanted.paths.run)
            assert vmm is not None
            pid = vmm.pid
            filters = {tid: of_thread(tid) for tid in threads(pid)}
            names = {tid: Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip() for tid in filters}
            assert await output_of(instance, "echo alive") == "alive"
    Cgroup(home.cgroup).remove()
    conditional = {"ioctl", "clone", "prctl"}
    numbers = syscalls.allowed(kvm=instance.accelerator == "kvm", volumes=True)
    for tid, programs in filters.items():
        allowed = {number for number in range(LAST) if verdict(programs, number) == ALLOW}
        print(f"\n{names[tid]}: {len(allowed)} system calls allowed, {len(conditional)} more with some arguments", end="")
        assert allowed == set(numbers.values()) - {numbers[name] for name in conditional}
        assert len(allowed) + len(conditional) <= MOST
        assert verdict(programs, 101) == KILL
        assert verdict(programs, _SOCKET) == KILL
    assert any("CPU" in name for name in names.values())
    assert len(filters) >= 4


async def test_nobody_answers_for_execve_any_more(home: Home, erofs: Path) -> None:
    """The filter asks; the launcher has gone, so the kernel says that there's no such call, and QEMU goes on."""
    wanted = launch(home, erofs, "/bin/sleep", "1000")
    async with started(home, wanted) as instance:
        vmm = process.recorded(wanted.paths.run)
        assert vmm is not None
        await asyncio.to_thread(speak, vmm.pid, syscalls.EXECVE)
        assert await output_of(instance, "echo alive") == "alive"
        assert verdict(of_thread(vmm.pid), syscalls.EXECVE) == syscalls.ASK
        assert verdict(of_thread(vmm.pid), 435) == ERRNO | errno.ENOSYS
    Cgroup(home.cgroup).remove()


async def test_a_qemu_that_strays_is_ended_and_its_exit_says_why(home: Home, erofs: Path) -> None:
    wanted = launch(home, erofs, "/bin/sleep", "1000")
    async with started(home, wanted) as instance:
        vmm = process.recorded(wanted.paths.run)
        assert vmm is not None
        await asyncio.to_thread(speak, vmm.pid, _SOCKET)
        ended = await asyncio.wait_for(instance.wait(), 60)
        assert ended.code == 137
        assert ended.reason.startswith("vmm-lost: QEMU made a system call")
    Cgroup(home.cgroup).remove()
