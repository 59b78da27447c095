"""QEMU's jail as seen from outside, and what happens when its launcher dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from twinhull.errors import PermanentError
from twinhull.home import Home
from twinhull.instance.vm import accelerator, assets, jail, process, qemu, tsc
from twinhull.instance.vm.console import Console
from twinhull.instance.vm.process import Volume
from twinhull.instance.vm.qmp import Monitor
from twinhull.sys.cgroup import Cgroup

_BASE = 0x7000_0000


def _vm(run: Path, channels: qemu.Channels, **changes: object) -> qemu.Vm:
    cpu = qemu.Cpu(qemu.Accelerator.TCG, 1, tsc.khz())
    fields: dict[str, object] = {
        "name": str(run),
        "binary": accelerator.binary(),
        "kernel": process.KERNEL,
        "initrd": process.INITRD,
        "memory": qemu.ram(0),
        "cpu": cpu,
        "channels": channels,
    }
    return qemu.Vm(**(fields | changes))  # type: ignore[arg-type]


def _cage(run: Path, **changes: object) -> process.Cage:
    guest = assets.load()
    fields: dict[str, object] = {"run": run, "id_base": _BASE, "kernel": guest.kernel, "initrd": guest.initrd}
    return process.Cage(**(fields | changes))  # type: ignore[arg-type]


@asynccontextmanager
async def _running(home: Home, volumes: tuple[Volume, ...] = (), **changes: object) -> AsyncIterator[tuple[process.Vmm, Path]]:
    run = home.run / "i" / "jailed"
    run.mkdir(parents=True)
    try:
        with ExitStack() as stack, process.Messages() as messages:
            vm = _vm(run, process.listen(run, stack), volumes=jail.VOLUMES if volumes else "")
            vmm = await process.start(vm, _cage(run, volumes=volumes, **changes), messages)
            monitor = await Monitor.connect(run / process.QMP_SOCKET)
            await monitor.close()
        yield vmm, run
    finally:
        await process.end(run)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


async def test_qemu_is_nobody_and_can_do_nothing(home: Home) -> None:
    async with _running(home) as (vmm, _):
        status = _status(vmm.pid)
        assert status["Uid"].split() == status["Gid"].split() == [str(_BASE)] * 4
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert status["Groups"] == ""
        for kind in ("mnt", "pid", "ipc", "uts", "net", "user"):
            assert os.readlink(f"/proc/{vmm.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind


async def test_qemu_sees_its_libraries_and_nothing_else(home: Home) -> None:
    async with _running(home) as (vmm, _):
        root = Path(f"/proc/{vmm.pid}/root")
        assert sorted(path.name for path in root.iterdir()) == ["dev", "etc", "initrd", "kernel", "lib", "lib64", "proc", "usr", "volumes"]
        assert [path.name for path in (root / "etc").iterdir()] == ["ld.so.cache"]
        mounts = [line.split() for line in Path(f"/proc/{vmm.pid}/mountinfo").read_text().splitlines()]
        assert [fields[4] for fields in mounts if "ro" not in fields[5].split(",")] == ["/proc"]
        # nothing of the host is open but what it was given
        targets = {os.readlink(f"/proc/{vmm.pid}/fd/{name}") for name in os.listdir(f"/proc/{vmm.pid}/fd")}
        assert all(target.startswith(("/dev/null", "socket:", "anon_inode:", "/memfd:qemu-messages")) for target in targets), targets


async def test_volumes_are_the_only_writable_files(home: Home, tmp_path: Path) -> None:
    (tmp_path / "rw").mkdir()
    (tmp_path / "ro").mkdir()
    (tmp_path / "file").write_text("x")
    volumes = (Volume(0, tmp_path / "rw"), Volume(1, tmp_path / "ro", read_only=True), Volume(2, tmp_path / "file"))
    async with _running(home, volumes) as (vmm, _):
        lines = [line.split() for line in Path(f"/proc/{vmm.pid}/mountinfo").read_text().splitlines()]
        options = {fields[4]: fields[5].split(",") for fields in lines if fields[4].startswith("/volumes/")}
        assert ("rw" in options["/volumes/0"], "ro" in options["/volumes/1"], "rw" in options["/volumes/2"]) == (True, True, True)
        assert all("idmapped" in words for words in options.values())
        # chown, dac_override, fowner, fsetid: 9p keeps ownership with them, in this user namespace only
        assert int(_status(vmm.pid)["CapEff"], 16) == 0b11011


async def test_qemu_is_in_its_cgroup_and_recorded(home: Home) -> None:
    group = Cgroup(f"{home.cgroup}/jailed")
    group.create()
    try:
        async with _running(home, cgroups=group.folders) as (vmm, run):
            assert group.pids() == [vmm.pid]
            assert process.recorded(run) == vmm
            assert process.lost(run) == [vmm.pid]
    finally:
        group.remove()
        Cgroup(home.cgroup).remove()


async def test_the_end_is_the_end_and_may_be_asked_for_again(home: Home) -> None:
    async with _running(home) as (vmm, run):
        await process.end(run)
        assert not vmm.alive
        await process.end(run)
        assert process.lost(run) == []


async def test_a_reused_pid_is_left_alone(home: Home) -> None:
    async with _running(home) as (vmm, _):
        await process.Vmm(vmm.pid, vmm.started + 1).kill()
        assert vmm.alive


async def test_arguments_that_qemu_refuses_are_told(home: Home) -> None:
    run = home.run / "refused"
    run.mkdir(parents=True)
    with ExitStack() as stack, process.Messages() as messages:
        vm = _vm(run, process.listen(run, stack), kernel="/none")
        with pytest.raises(PermanentError, match="/none"):
            vmm = await process.start(vm, _cage(run), messages)
            await asyncio.wait_for(vmm.wait(), 10)
            raise PermanentError(f"start QEMU: {messages.text()}")
    await process.end(run)


async def test_a_missing_volume_is_told_and_nothing_runs(home: Home) -> None:
    run = home.run / "missing"
    run.mkdir(parents=True)
    with ExitStack() as stack, process.Messages() as messages:
        volume = Volume(0, Path("/does/not/exist"))
        with pytest.raises(PermanentError, match="/does/not/exist"):
            await process.start(_vm(run, process.listen(run, stack)), _cage(run, volumes=(volume,)), messages)
    assert process.recorded(run) is None
    assert process.lost(run) == []


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.04, 0.06, 0.1])
async def test_a_launch_that_nobody_waits_for_is_found_and_ended(home: Home, delay: float) -> None:
    """The daemon was killed just after it had started the launcher; its successor deletes."""
    run = home.run / "orphan"
    (run / "root").mkdir(parents=True)
    with ExitStack() as stack, process.Messages() as messages:
        vm = _vm(run, process.listen(run, stack))
        description = process._describe(vm, _cage(run), messages.descriptor)
        package = str(Path(jail.__file__).parents[3])
        descriptors = (*process._descriptors(vm), messages.descriptor)
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", jail.BOOT, package, str(run)], stdin=subprocess.PIPE, pass_fds=descriptors
        )
        assert launcher.stdin is not None
        launcher.stdin.write(json.dumps(description).encode())
        launcher.stdin.close()
    await asyncio.sleep(delay)  # the moment of death, not a wait for something
    await process.end(run)
    assert launcher.wait(10) in (0, 1, -signal.SIGKILL)
    await process.end(run)
    assert process.lost(run) == []
    vmm = process.recorded(run)
    assert vmm is None or not vmm.alive


async def test_console_floods_cost_little_and_control_characters_nothing(tmp_path: Path) -> None:
    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"early " * 20_000 + b"\n\x1b]0;owned\x07\x1b[2Jlast words\n")
        writer.close()

    async with await asyncio.start_unix_server(flood, tmp_path / "console.sock"):
        console = Console()
        await console.connect(tmp_path / "console.sock")
        async with asyncio.timeout(10):
            while "last words" not in console.text():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "\x1b" not in console.text() and "\x07" not in console.text()
        assert len(console._tail) <= 16 * 1024
        await console.close()
