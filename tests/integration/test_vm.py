"""The VM runtime on real machines: booted, used, killed, adopted, deleted. Boot times are printed with `-s`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.vm_lab import BOOT, collect, created, launch, output_of, shell, started
from tests.integration.vm_net import Wire

from twinhull.errors import CannotRunError, ConflictError, PermanentError, TemporaryError, TwinhullError, UnsupportedError, UserError
from twinhull.home import Home
from twinhull.instance import logs
from twinhull.instance.base import HostMount, InjectedFile, Process
from twinhull.instance.vm import machine, process, qemu
from twinhull.instance.vm.agent import AgentClient
from twinhull.instance.vm.machine import VmInstance
from twinhull.spec.instance import Resources, Security

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("no_vm_left")]


async def _log(instance: VmInstance) -> dict[int, bytes]:
    """What the log has, by stream."""
    found = {1: b"", 2: b""}
    async for line in logs.read(instance.launch.paths.log):
        found[line.stream] += line.data
    return found


async def _end(instance: VmInstance) -> tuple[int, str]:
    outcome = await asyncio.wait_for(instance.wait(), 90)
    return outcome.code, outcome.reason


async def test_output_and_exit_code(home: Home, erofs: Path) -> None:
    wanted = launch(home, erofs, "/bin/sh", "-c", "echo out; echo err >&2; printf 'bin\\000\\377'; exit 3")
    async with started(home, wanted) as instance:
        assert await _end(instance) == (3, "")
        assert await _log(instance) == {1: b"out\nbin\x00\xff", 2: b"err\n"}
        assert await asyncio.wait_for(instance.wait(), 1) == await instance.wait()
        assert not process.lost(instance.launch.paths.run)


@pytest.mark.parametrize(("argv", "code"), [(("/bin/missing",), 127), (("/etc/passwd",), 126)])
async def test_what_cannot_run_is_said_at_creation(home: Home, erofs: Path, argv: tuple[str, ...], code: int) -> None:
    with pytest.raises(CannotRunError) as caught:
        async with started(home, launch(home, erofs, *argv)):
            pass
    assert caught.value.exit_code == code


async def test_an_unknown_user_is_the_callers_fault(home: Home, erofs: Path) -> None:
    with pytest.raises(UserError, match="nobody-here"):
        async with started(home, launch(home, erofs, "/bin/true", user="nobody-here")):
            pass


async def test_exec_tty_stdin_users_and_tools(home: Home, erofs: Path) -> None:
    async with started(home, launch(home, erofs, "/bin/sleep", "1000", user="alice", hostname="ship")) as instance:
        assert await shell(instance, "id -u; hostname; echo e >&2; exit 7", user="alice") == (7, b"1000\nship\n", b"e\n")
        assert await output_of(instance, "cat /proc/1/comm") == "sleep"
        count = qemu.cpu_count(0, len(os.sched_getaffinity(0)))
        allowed = f"0-{count - 1}" if count > 1 else "0"  # the agent's own processor isn't the workload's only one
        assert await output_of(instance, "nproc; grep Cpus_allowed_list /proc/1/status") == f"{count}\nCpus_allowed_list:\t{allowed}"
        with pytest.raises(CannotRunError):
            await instance.exec(Process(("/bin/missing",), ()))
        session = await instance.exec(Process(("/bin/cat",), (), stdin=True))
        reading = asyncio.create_task(collect(session))
        data = os.urandom(300_000)
        await session.send(data)
        await session.close_stdin()
        assert await asyncio.wait_for(reading, 60) == (0, data, b"")
        terminal = await instance.exec(
            Process(("/bin/sh", "-c", "stty size; read x; stty size"), ("PATH=/bin",), tty=True, stdin=True, rows=33, cols=99)
        )
        reading = asyncio.create_task(collect(terminal))
        await terminal.resize(44, 111)
        await terminal.send(b"\n")
        code, out, _ = await asyncio.wait_for(reading, 60)
        assert code == 0
        assert out.split()[-2:] == [b"44", b"111"]
        code, out, _ = await asyncio.wait_for(collect(await instance.tool("stat", "/etc/passwd")), 60)
        assert code == 0
        assert out
        rows = await instance.top()
        assert any("sleep" in row["COMMAND"] and row["USER"] in ("alice", "1000") for row in rows)


async def test_tools_see_the_root_and_the_writable_layer(home: Home, erofs: Path) -> None:
    async with started(home, launch(home, erofs, "/bin/sleep", "1000")) as instance:
        await output_of(instance, "echo new > /root/new; rm /etc/group")
        for argv, wanted in ((("diff",), b"/root/new"), (("layer",), b"root/new"), (("tar-out", "/root"), b"root/new")):
            session = await instance.tool(*argv)
            await session.close_stdin()
            code, out, err = await asyncio.wait_for(collect(session), 60)
            assert code == 0, (argv, err)
            assert wanted in out, argv
            assert argv != ("diff",) or b"/etc/group" in out
        back = await instance.tool("tar-in", "/tmp")
        await back.send(out)  # the archive of /root
        await back.close_stdin()
        assert (await asyncio.wait_for(collect(back), 60))[0] == 0
        assert await output_of(instance, "cat /tmp/root/new") == "new"


async def test_attached_before_start_no_byte_is_missed(home: Home, erofs: Path) -> None:
    script = "echo first; read line; echo got $line; cat >/dev/null; exit 5"
    async with created(home, launch(home, erofs, "/bin/sh", "-c", script, stdin=True)) as instance:
        session = await instance.attach()
        await instance.start()
        reading = asyncio.create_task(collect(session))
        await session.send(b"hello\n")
        await session.close_stdin()
        assert await asyncio.wait_for(reading, 60) == (5, b"first\ngot hello\n", b"")
        assert await _end(instance) == (5, "")


async def test_attached_to_a_running_workload(home: Home, erofs: Path) -> None:
    async with started(home, launch(home, erofs, "/bin/cat", stdin=True)) as instance:
        for number in range(2):
            session = await asyncio.wait_for(instance.attach(), 10)
            stream = session.output()
            await session.send(b"round %d\n" % number)
            assert await asyncio.wait_for(anext(stream), 30) == (1, b"round %d\n" % number)
            await session.close()
        session = await instance.attach()
        await session.close_stdin()
        assert await _end(instance) == (0, "")
        await session.close()


async def test_signals_reach_pid_1(home: Home, erofs: Path) -> None:
    script = "trap 'echo term; exit 4' TERM; echo ready; while :; do sleep 0.1; done"
    async with started(home, launch(home, erofs, "/bin/sh", "-c", script)) as instance:
        await _until_logged(instance, b"ready")
        await instance.signal(signal.SIGTERM)
        assert await _end(instance) == (4, "")
        with pytest.raises(ConflictError):
            await instance.signal(signal.SIGTERM)


async def _until_logged(instance: VmInstance, text: bytes) -> None:
    async with asyncio.timeout(60):
        async for line in logs.read(instance.launch.paths.log, follow=True):
            if text in line.data:
                return


async def test_kill_works_on_what_ignores_everything_and_on_the_paused(home: Home, erofs: Path) -> None:
    script = "trap '' TERM INT HUP; echo ready; while :; do sleep 1; done"
    async with started(home, launch(home, erofs, "/bin/sh", "-c", script)) as instance:
        await _until_logged(instance, b"ready")
        await instance.signal(signal.SIGKILL)
        assert await _end(instance) == (137, "")
    async with started(home, launch(home, erofs, "/bin/sleep", "1000", number=1)) as instance:
        await instance.pause()
        await instance.signal(signal.SIGKILL)
        assert await _end(instance) == (137, "")


async def test_pause_stops_time_for_the_guest_and_resume_mends_its_clock(home: Home, erofs: Path) -> None:
    async with started(home, launch(home, erofs, "/bin/sleep", "1000")) as instance:
        await instance.pause()
        with pytest.raises(ConflictError):
            await instance.exec(Process(("/bin/true",), ()))
        before = (await instance.stats()).host_cpu_ns
        await asyncio.sleep(1.5)  # the pause that is measured
        assert (await instance.stats()).host_cpu_ns - before < 200_000_000
        await instance.resume()
        inside, outside = float(await output_of(instance, "date +%s")), time.time()
        assert abs(inside - outside) < 2.0


async def test_a_paused_one_waits_for_its_resumption_under_the_next_daemon(
    home: Home, erofs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LOST_SECONDS", 0.0)
    wanted = launch(home, erofs, "/bin/sleep", "1000")
    async with started(home, wanted) as first:
        await first.pause()
        await _die(first)
        second = VmInstance(wanted, home)
        assert await second.adopt()
        with pytest.raises(ConflictError, match="paused"):
            await second.exec(Process(("/bin/true",), ()))
        await second.resume()
        assert await output_of(second, "echo hi") == "hi"
        await second.pause()
        await second.signal(signal.SIGKILL)
        assert await _end(second) == (137, "")
        await second.delete()


async def test_a_qemu_that_dies_is_told_as_lost(home: Home, erofs: Path) -> None:
    async with started(home, launch(home, erofs, "/bin/sleep", "1000")) as instance:
        vmm = process.recorded(instance.launch.paths.run)
        assert vmm is not None
        os.kill(vmm.pid, signal.SIGKILL)
        assert await _end(instance) == (137, "vmm-lost")


async def _die(instance: VmInstance) -> None:
    """What is left of a daemon's object after kill -9: nothing but the run folder."""
    await instance._let_go()


async def test_a_vm_outlives_its_daemon_and_loses_no_output(home: Home, erofs: Path) -> None:
    script = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.02; done; exit 9"
    wanted = launch(home, erofs, "/bin/sh", "-c", script)
    async with started(home, wanted) as first:
        await _until_logged(first, b"line 20\n")
        await _die(first)
        second = VmInstance(wanted, home)
        assert await second.adopt()
        assert await output_of(second, "echo hi") == "hi"
        await _die(second)
        third = VmInstance(wanted, home)
        assert await third.adopt()
        try:
            assert await _end(third) == (9, "")
            assert (await _log(third))[1] == b"".join(b"line %d\n" % n for n in range(200))
        finally:
            await third.delete()


async def test_an_exit_waits_for_the_daemon_that_comes(home: Home, erofs: Path) -> None:
    wanted = launch(home, erofs, "/bin/sh", "-c", "sleep 1; echo bye; exit 6")
    async with started(home, wanted) as first:
        await _die(first)
        await asyncio.sleep(2)  # the daemon's absence, in which the workload ends
        second = VmInstance(wanted, home)
        assert await second.adopt()
        assert await _end(second) == (6, "")
        assert (await _log(second))[1] == b"bye\n"
        await _die(second)
        third = VmInstance(wanted, home)
        assert await third.adopt()
        assert await _end(third) == (6, "")
        await third.delete()


async def test_what_was_never_started_is_not_adopted(home: Home, erofs: Path) -> None:
    wanted = launch(home, erofs, "/bin/sleep", "1000")
    async with created(home, wanted) as first:
        await _die(first)
        second = VmInstance(wanted, home)
        assert not await second.adopt()
        await second.delete()
        assert not wanted.paths.run.exists()
        assert not await VmInstance(wanted, home).adopt()


async def test_a_qemu_that_died_while_no_daemon_was_there(home: Home, erofs: Path) -> None:
    wanted = launch(home, erofs, "/bin/sleep", "1000")
    async with started(home, wanted) as first:
        await _die(first)
        await process.end(wanted.paths.run)
        second = VmInstance(wanted, home)
        assert await second.adopt()
        assert await _end(second) == (137, "vmm-lost")
        await second.delete()


@pytest.mark.parametrize("delay", [0.05, 0.3, 1.5])
async def test_a_creation_that_is_cancelled_leaves_nothing(home: Home, erofs: Path, delay: float) -> None:
    wanted = launch(home, erofs, "/bin/true")
    instance = VmInstance(wanted, home)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay):
            await instance.create()
    await instance.delete(purge=True)
    assert not wanted.paths.run.exists()
    assert not wanted.paths.state.exists()


async def test_the_writable_layer_is_kept_between_starts(home: Home, erofs: Path) -> None:
    wanted = launch(home, erofs, "/bin/sh", "-c", "echo kept >> /root/file; rm /etc/group; cat /root/file")
    first = VmInstance(wanted, home)
    try:
        await first.create()
        await first.start()
        assert await _end(first) == (0, "")
    finally:
        await first.delete()
    async with started(home, launch(home, erofs, "/bin/sh", "-c", "cat /root/file; test ! -e /etc/group")) as second:
        assert await _end(second) == (0, "")
        assert (await _log(second))[1] == b"kept\n" * 2


async def test_volumes_keep_owners_and_are_seen_from_both_sides(home: Home, erofs: Path, tmp_path: Path) -> None:
    folder, single, locked = tmp_path / "data", tmp_path / "single", tmp_path / "locked"
    folder.mkdir()
    locked.mkdir()
    single.write_text("one file")
    (folder / "of-alice").write_text("a")
    os.chown(folder / "of-alice", 1000, 1000)
    (folder / "of-alice").chmod(0o600)
    mounts = (
        HostMount("/data", folder),
        HostMount("/etc/single", single),
        HostMount("/locked", locked, read_only=True),
        HostMount("/scratch", None, tmpfs_size=1 << 20),
    )
    async with started(home, launch(home, erofs, "/bin/sleep", "1000", mounts=mounts)) as instance:
        assert await output_of(instance, "stat -c %u:%g:%a /data/of-alice; cat /data/of-alice") == "1000:1000:600\na"
        await output_of(
            instance, "echo r > /data/of-root; mkdir -m 2750 /data/folder; ln -s target /data/link; ln /data/of-root /data/hard"
        )
        assert (await shell(instance, "umask 027; echo x > /data/by-alice", user="alice"))[0] != 0  # the folder is root's
        await output_of(instance, "chmod 777 /data; touch /data/moved; chown 1000:1000 /data/moved; chmod 4755 /data/moved")
        assert (await shell(instance, "umask 027; echo x > /data/by-alice", user="alice"))[0] == 0
        facts = {name: (folder / name).lstat() for name in ("of-root", "folder", "moved", "by-alice")}
        assert [(s.st_uid, s.st_gid, s.st_mode & 0o7777) for s in facts.values()] == [
            (0, 0, 0o644),
            (0, 0, 0o2750),
            (1000, 1000, 0o4755),
            (1000, 1000, 0o640),
        ]
        assert os.readlink(folder / "link") == "target"
        assert facts["of-root"].st_nlink == 2
        assert (await shell(instance, "echo no > /locked/file"))[0] != 0
        assert await output_of(instance, "cat /etc/single") == "one file"
        (folder / "of-root").write_text("changed on the host")
        assert await output_of(instance, "cat /data/of-root") == "changed on the host"
        (folder / "new").write_text("n")
        assert await output_of(instance, "cat /data/new") == "n"
        assert (await shell(instance, "head -c 2000000 /dev/zero > /scratch/big"))[0] != 0


async def test_secrets_files_and_a_read_only_root(home: Home, erofs: Path) -> None:
    files = (InjectedFile("/run/secrets/key", b"s3cret", 0o400, 1000, 1000, secret=True), InjectedFile("/etc/hosts", b"1.2.3.4 here\n"))
    wanted = launch(home, erofs, "/bin/sleep", "1000", files=files, security=Security(read_only=True))
    async with started(home, wanted) as instance:
        assert (
            await output_of(instance, "stat -c %u:%a /run/secrets/key; cat /run/secrets/key /etc/hosts") == "1000:400\ns3cret1.2.3.4 here"
        )
        assert (await shell(instance, "touch /root/x"))[0] != 0


async def test_too_much_memory_is_an_oom(home: Home, erofs: Path) -> None:
    script = "x=0123456789; while :; do x=$x$x; done"
    wanted = launch(home, erofs, "/bin/sh", "-c", script, resources=Resources(memory=96 << 20))
    async with started(home, wanted) as instance:
        outcome = await asyncio.wait_for(instance.wait(), 120)
        assert (outcome.code, outcome.oom, outcome.reason) == (137, True, "oom")


async def test_limits_stats_and_update(home: Home, erofs: Path) -> None:
    resources = Resources(memory=128 << 20, cpus=1.0, pids=40, write_bps=50 << 20)
    async with started(home, launch(home, erofs, "/bin/sleep", "1000", resources=resources)) as instance:
        stats = await instance.stats()
        assert stats.memory_limit == 128 << 20
        assert 0 < stats.memory < 128 << 20 < stats.host_memory + (128 << 20)
        assert stats.pids >= 1
        assert stats.host_cpu_ns > 0
        assert await output_of(instance, "nproc") == "1"
        with pytest.raises(UnsupportedError):
            await instance.update(replace(resources, memory=1 << 30))
        with pytest.raises(UnsupportedError):
            await instance.update(replace(resources, cpus=2.0))
        await instance.update(replace(resources, memory=64 << 20, cpus=0.5, write_bps=1 << 20))
        # 4 MiB written through at 1 MiB a second
        before = time.monotonic()
        await output_of(instance, "dd if=/dev/zero of=/root/f bs=1M count=4 conv=fsync 2>/dev/null")
        assert time.monotonic() - before > 2.0


async def test_half_a_processor_is_no_more(home: Home, erofs: Path) -> None:
    resources = Resources(cpus=0.5)
    async with started(home, launch(home, erofs, "/bin/sh", "-c", "while :; do :; done", resources=resources)) as instance:
        begin, start = (await instance.stats()).host_cpu_ns, time.monotonic()
        await asyncio.sleep(4)  # the span that is measured
        used = ((await instance.stats()).host_cpu_ns - begin) / 1e9 / (time.monotonic() - start)
        assert used < 0.5 * 1.15
        assert used > 0.2  # a machine that others use may give less than the limit, never more


async def test_the_network_is_a_tap(home: Home, erofs: Path) -> None:
    with Wire() as wire:
        wanted = launch(home, erofs, "/bin/sleep", "1000", interfaces=(wire.interface,), taps=(wire.tap,))
        async with started(home, wanted) as instance:
            await output_of(instance, f"ping -c 3 -W 5 {wire.interface.gateway}")
            assert wire.ping(wire.interface.address)
            assert (await instance.stats()).net_rx > 0
            received = await _transfer(instance, wire, 5_000_000)
            assert received == 5_000_000
        with pytest.raises(OSError) as caught:
            os.fstat(wire.tap)
        assert caught.value.errno == errno.EBADF  # handed over and closed


async def _transfer(instance: VmInstance, wire: Wire, size: int) -> int:
    sink = asyncio.create_task(asyncio.to_thread(wire.receive, 7000))
    await asyncio.to_thread(wire.listening.wait, 10)
    await output_of(instance, f"head -c {size} /dev/zero | nc {wire.interface.gateway} 7000")
    return await asyncio.wait_for(sink, 60)


async def test_system_calls_and_capabilities_are_a_containers(home: Home, erofs: Path) -> None:
    async with started(home, launch(home, erofs, "/bin/sleep", "1000")) as instance:
        status = await output_of(instance, "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status")
        assert dict(line.split() for line in status.splitlines()) == {"CapBnd:": "00000000a80425fb", "NoNewPrivs:": "1", "Seccomp:": "2"}
        code, _, err = await shell(instance, "mount -t tmpfs t /tmp")
        assert code != 0
        assert b"ermi" in err


async def test_a_flood_on_the_console_and_a_panic(home: Home, erofs: Path) -> None:
    """A guest that has all rights breaks its own machine only."""
    security = Security(privileged=True)
    async with started(home, launch(home, erofs, "/bin/sleep", "1000", security=security)) as instance:
        await instance.exec(Process(("/bin/sh", "-c", "yes flood > /dev/kmsg; true"), ("PATH=/bin",), privileged=True))
        await output_of(instance, "echo still here")
        with contextlib.suppress(TwinhullError):
            await shell(instance, "echo c > /proc/sysrq-trigger", privileged=True)
        code, reason = await _end(instance)
        assert code == 137
        assert reason.startswith("vmm-lost")


async def test_a_guest_that_hangs_while_it_boots_is_booted_again(home: Home, erofs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first guest never answers, as if its kernel had locked up; its successor does."""
    spawned: list[process.Vmm] = []
    start = process.start

    async def hang_once(*arguments: object) -> process.Vmm:
        vmm = await start(*arguments)  # type: ignore[arg-type]
        spawned.append(vmm)
        monkeypatch.setattr(AgentClient, "connect", _never if len(spawned) == 1 else connect)
        return vmm

    async def _never(*_: object, timeout: float, **__: object) -> None:
        raise TemporaryError(f"no answer within {timeout} s")

    connect = AgentClient.connect
    monkeypatch.setattr(process, "start", hang_once)
    async with started(home, launch(home, erofs, "/bin/echo", "second"), templates=False) as instance:
        assert await _end(instance) == (0, "")
        assert len(spawned) == 2
        assert not spawned[0].alive
        assert (await _log(instance))[1] == b"second\n"


async def test_missing_parts_are_said(home: Home, erofs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    instance = VmInstance(launch(home, erofs, "/bin/true"), home)
    monkeypatch.setenv("TWINHULL_ASSETS", str(tmp_path))
    with pytest.raises(UnsupportedError, match="no guest kernel"):
        await instance.create()
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    await instance.delete(purge=True)
    broken = VmInstance(launch(home, tmp_path / "none.erofs", "/bin/true"), home)
    with pytest.raises((OSError, PermanentError), match=r"none\.erofs"):
        await broken.create()
    await broken.delete(purge=True)


async def test_cold_boot(home: Home, erofs: Path) -> None:
    """Not a benchmark: what is printed is for the eye, what is asserted is that it isn't absurd."""
    created_after, ended_after = [], []
    for number in range(6):
        wanted = launch(home, erofs, "/bin/echo", "hi", number=number)
        begin = time.monotonic()
        async with created(home, wanted, templates=False) as instance:
            created_after.append(time.monotonic() - begin)
            await instance.start()
            await _until_logged(instance, b"hi")
            ended_after.append(time.monotonic() - begin)
            await _end(instance)
    accelerator = instance.accelerator
    for name, values in (("created", created_after), ("first output", ended_after)):
        figures = f"median {statistics.median(values):.2f} s, min {min(values):.2f}, max {max(values):.2f}, n={len(values)}"
        print(f"\n{accelerator}, {name}: {figures}")
    assert statistics.median(ended_after) < BOOT / 2
