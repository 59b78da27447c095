"""Containers on a busybox root: the life cycle, streams, exec, users, files, limits."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.container_lab import ENV, ID_BASE, Lab, busybox_root, drain, eventually, execute

from twinhull.errors import CannotRunError, ConflictError, PermanentError, UserError
from twinhull.instance import container, logs, runtimes
from twinhull.instance.base import STDOUT, HostMount, InjectedFile, Instance, Process, Root, Session
from twinhull.instance.container import ContainerInstance
from twinhull.spec.instance import Resources, Security, Ulimit
from twinhull.sys import cgroup, mounts
from twinhull.sys.namespaces import has_own_mounts, prepare_daemon_namespace


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_root(tmp_path_factory.mktemp("busybox") / "root")


@pytest.fixture
async def lab(tmp_path: Path, root: Path) -> AsyncIterator[Lab]:
    if not has_own_mounts():
        prepare_daemon_namespace()
    lab = Lab(tmp_path / "home", root)
    yield lab
    await lab.close()


# life


async def test_a_program_runs_to_its_end(lab: Lab) -> None:
    output, end = await lab.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (output.stdout, output.stderr) == (b"out\n", b"err\n")
    assert (end.code, end.oom, end.reason) == (7, False, "")
    assert abs(end.at - time.time()) < 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGTERM, 3)])
async def test_signals_reach_the_first_process(lab: Lab, number: signal.Signals, code: int) -> None:
    async with lab.running("sh", "-c", "trap 'exit 3' TERM; echo ready > /tmp/ready; while :; do sleep 0.02; done") as instance:
        await eventually(lambda: _exists(instance.launch.paths.state / "upper/tmp/ready"))
        await instance.signal(number)
        assert (await instance.wait()).code == code
        assert (await instance.wait()).code == code
        await instance.signal(signal.SIGTERM)  # nothing happens
        with pytest.raises(ConflictError):
            await instance.exec(Process(argv=("true",), env=ENV))
        with pytest.raises(ConflictError):
            await instance.attach()


async def test_create_does_not_run_the_first_instruction(lab: Lab) -> None:
    launch = lab.launch("touch", "/tmp/ran")
    instance = lab.instance(launch)
    await instance.create()
    assert not await lab.instance(launch).adopt()
    assert not (launch.paths.state / "upper/tmp/ran").exists()
    with pytest.raises(ConflictError):
        await instance.create()
    await instance.start()
    assert (await instance.wait()).code == 0
    assert (launch.paths.state / "upper/tmp/ran").exists()
    await instance.delete()
    assert (launch.paths.state / "upper/tmp/ran").exists()
    await instance.delete(purge=True)
    await instance.delete(purge=True)
    assert lab.left(launch) == []


async def test_the_writable_layer_is_kept_between_starts(lab: Lab) -> None:
    launch = lab.launch("sh", "-c", "echo x >> /root/count; rm -f /etc/group; wc -l < /root/count")
    for expected in (b"1\n", b"2\n"):
        instance = lab.instance(launch)
        await instance.create()
        session = await instance.attach()
        await instance.start()
        assert (await drain(session)).stdout == expected
        await instance.delete()
    assert os.lstat(launch.paths.state / "upper/etc/group").st_rdev == 0  # a whiteout


@pytest.mark.parametrize(
    ("argv", "code"),
    [(("zed",), 127), (("/bin/zed",), 127), (("/etc/passwd",), 126), (("/etc",), 126)],
)
async def test_programs_that_can_not_run(lab: Lab, argv: tuple[str, ...], code: int) -> None:
    with pytest.raises(CannotRunError) as caught:
        await lab.run(*argv)
    assert caught.value.exit_code == code
    assert lab.left(lab.launches[-1]) == []


async def test_bad_requests_leave_nothing(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases: list[tuple[dict[str, object], type[Exception]]] = [
        ({"user": "zed"}, UserError),
        ({"ulimits": (Ulimit("nofile", 1, 1 << 40),)}, UserError),
        ({"sysctls": {"kernel.panic": "1"}}, UserError),
        ({"sysctls": {"net.nonsense": "1"}}, PermanentError),
        ({"root": Root("none")}, PermanentError),
        ({"root": Root("bad", (tmp_path / "missing",))}, FileNotFoundError),
        ({"security": Security(cap_add=("FLY",))}, UserError),
        ({"security": Security(seccomp="{")}, UserError),
    ]
    for change, error in cases:
        with pytest.raises(error):
            await lab.run("true", **change)
        assert lab.left(lab.launches[-1]) == []


async def test_no_first_byte_is_missed(lab: Lab) -> None:
    for number in range(25):
        output, _ = await lab.run("echo", str(number))
        assert output.stdout == f"{number}\n".encode()


# streams


async def test_ten_megabytes_reach_a_slow_reader_whole(lab: Lab) -> None:
    script = "head -c 10000000 /dev/urandom > /tmp/f; md5sum < /tmp/f >&2; cat /tmp/f; echo end >&2"
    launch = lab.launch("sh", "-c", script)
    instance = lab.instance(launch)
    await instance.create()
    session = await instance.attach()
    await instance.start()
    digest, count, messages, errors = hashlib.md5(), 0, 0, b""
    async for number, data in session.output():
        messages += 1
        if number == STDOUT:
            digest.update(data)
            count += len(data)
        else:
            errors += data
        if messages % 50 == 0:
            await asyncio.sleep(0.02)
    assert count == 10_000_000
    assert errors.decode() == f"{digest.hexdigest()}  -\nend\n"
    assert await session.wait() == 0
    await session.close()
    await instance.delete(purge=True)


async def test_the_log_has_what_was_said(lab: Lab) -> None:
    launch = lab.launch("sh", "-c", "printf 'a\\0b\\377\\n'; echo err >&2; printf part")
    instance = lab.instance(launch)
    await instance.create()
    await instance.start()
    await instance.wait()
    lines = [line async for line in logs.read(launch.paths.log, logs.Selection())]
    assert b"".join(line.data for line in lines if line.stream == STDOUT) == b"a\0b\xff\npart"
    assert b"".join(line.data for line in lines if line.stream != STDOUT) == b"err\n"


async def test_the_log_is_rotated_without_a_loss(lab: Lab) -> None:
    script = "i=0; while read x; do echo line $i; i=$((i+1)); done"
    async with lab.running("sh", "-c", script, stdin=True, log_max_size=20000) as instance:
        session = await instance.attach()
        lines = session.output()
        for _ in range(4):
            await session.send(b"\n" * 300)
            seen = 0
            async for _, data in lines:
                seen += data.count(b"\n")
                if seen == 300:
                    break
            await instance.rotate_log()
            await eventually(lambda: _exists(instance.launch.paths.log))
        assert len(logs.files(instance.launch.paths.log)) == 2 + 1
        await session.close_stdin()
        async for _ in lines:
            pass
        assert (await instance.wait()).code == 0
        await session.close()
        text = b"".join([line.data async for line in logs.read(instance.launch.paths.log, logs.Selection())])
        numbers = [int(word.split()[1]) for word in text.decode().splitlines()]
        assert numbers == list(range(numbers[0], 1200)) and len(numbers) >= 600


async def test_stdin_comes_whole_and_ends(lab: Lab) -> None:
    data = os.urandom(3_000_000)
    output, end = await lab.run("sh", "-c", "md5sum; exit 4", feed=data)
    assert output.text.split()[0] == hashlib.md5(data).hexdigest()
    assert end.code == 4


async def test_without_stdin_it_is_at_its_end(lab: Lab) -> None:
    output, end = await lab.run("sh", "-c", "cat; echo over")
    assert (output.stdout, end.code) == (b"over\n", 0)


async def test_detaching_leaves_stdin_open_and_attaching_again_works(lab: Lab) -> None:
    async with lab.running("sh", "-c", "while read x; do echo got $x; done; exit 9", stdin=True) as instance:
        first = await instance.attach()
        await first.send(b"one\n")
        assert await anext(first.output()) == (STDOUT, b"got one\n")  # type: ignore[call-overload]
        await first.close()
        second = await instance.attach()
        await second.send(b"two\n")
        output = second.output()
        seen = b""
        while b"got two\n" not in seen:
            seen += (await anext(output))[1]  # type: ignore[arg-type]
        await second.close_stdin()
        async for _ in output:
            pass
        assert await second.wait() == 9
        await second.close()


async def test_a_terminal(lab: Lab) -> None:
    launch = lab.launch("sh", "-c", "stty size; read x; echo got $x; tty; exit 5", tty=True, stdin=True)
    instance = lab.instance(launch)
    await instance.create()
    session = await instance.attach()
    await session.resize(50, 90)
    await instance.start()
    await session.send(b"yo\n")
    output = await drain(session)
    for line in (b"50 90\r\n", b"got yo\r\n", b"/dev/pts/0\r\n"):
        assert line in output.stdout
    assert output.code == 5
    assert output.stderr == b""


# exec


async def test_exec(lab: Lab) -> None:
    async with lab.running(user="app", cwd="/made/here") as instance:
        assert (await execute(instance, "id")).text == "uid=0(root) gid=0(root) groups=10(wheel)\n"
        assert (await execute(instance, "id", user="app")).text == "uid=1000(app) gid=1001(app) groups=10(wheel)\n"
        assert (await execute(instance, "id", user="5:wheel")).text == "uid=5 gid=10(wheel)\n"
        both = await execute(instance, "sh", "-c", "echo out; echo err >&2; exit 3")
        assert (both.stdout, both.stderr, both.code) == (b"out\n", b"err\n", 3)
        assert (await execute(instance, "sh", "-c", "kill -9 $$")).code == 137
        assert (await execute(instance, "pwd", cwd="/etc")).text == "/etc\n"
        odd = ("PATH=/bin", "EMPTY=", "LINES=a\nb", "TEXT=höhe", "HOME=/x")
        assert (await execute(instance, "env", env=odd)).text.splitlines() == [
            "PATH=/bin",
            "EMPTY=",
            "LINES=a",
            "b",
            "TEXT=höhe",
            "HOME=/x",
        ]
        data = os.urandom(1_000_000)
        assert (await execute(instance, "cat", stdin=data)).stdout == data
        assert (await execute(instance, "readlink", "/proc/1/cwd", user="app")).text == "/made/here\n"


@pytest.mark.parametrize(("argv", "code"), [(("zed",), 127), (("/etc/passwd",), 126)])
async def test_exec_of_what_can_not_run(lab: Lab, argv: tuple[str, ...], code: int) -> None:
    async with lab.running() as instance:
        with pytest.raises(CannotRunError) as caught:
            await instance.exec(Process(argv=argv, env=ENV))
        assert caught.value.exit_code == code
        with pytest.raises(UserError, match="unable to find user zed"):
            await instance.exec(Process(argv=("true",), env=ENV, user="zed"))


async def test_exec_right_after_start(lab: Lab) -> None:
    for _ in range(25):
        async with lab.running() as instance:
            found = await asyncio.gather(*(execute(instance, "echo", "x") for _ in range(3)))
            assert [(one.stdout, one.stderr, one.code) for one in found] == [(b"x\n", b"", 0)] * 3


async def test_exec_is_as_confined_as_the_workload(lab: Lab) -> None:
    async with lab.running(security=Security(cap_drop=("ALL",), cap_add=("CHOWN",))) as instance:
        status = (await execute(instance, "cat", "/proc/self/status")).text
        assert "CapBnd:\t0000000000000001\n" in status
        assert "NoNewPrivs:\t1\n" in status and "Seccomp:\t2\n" in status
        assert (await execute(instance, "unshare", "-n", "true")).code != 0
        privileged = await execute(instance, "grep", "CapEff", "/proc/self/status", privileged=True)
        assert privileged.text.split()[1] != "0000000000000001"


async def test_a_child_in_the_background_does_not_hold_exec(lab: Lab) -> None:
    async with lab.running() as instance:
        async with asyncio.timeout(10):
            assert (await execute(instance, "sh", "-c", "sleep 1000 & echo done")).stdout == b"done\n"


async def test_exec_on_a_terminal_ends_with_its_session(lab: Lab) -> None:
    async with lab.running() as instance:
        script = "stty size; trap 'stty size' WINCH; echo ready; sleep 1000 & while :; do sleep 0.05; done"
        session = await instance.exec(Process(argv=("sh", "-c", script), env=ENV, tty=True, stdin=True, rows=30, cols=100))
        output, seen = session.output(), b""
        while b"ready" not in seen:
            seen += (await anext(output))[1]  # type: ignore[arg-type]
        assert seen.startswith((b"30 100\r\n", b"stty: standard input\r\n"))  # crun may set the size after the program has started
        await session.resize(40, 120)
        while b"40 120" not in seen:
            seen += (await anext(output))[1]  # type: ignore[arg-type]
        await session.close()

        async def alone() -> bool:
            return [row["COMMAND"] for row in await instance.top()] == ["sleep 1000"]

        await eventually(alone)


async def test_exec_without_a_terminal_ends_with_its_session(lab: Lab) -> None:
    async with lab.running() as instance:
        session = await instance.exec(Process(argv=("sh", "-c", "sleep 777 & echo ready; wait"), env=ENV))
        assert await anext(session.output()) == (STDOUT, b"ready\n")  # type: ignore[call-overload]
        await session.close()
        await session.close()
        assert all("777" not in row["COMMAND"] for row in await instance.top())


async def test_signals_to_an_exec(lab: Lab) -> None:
    async with lab.running() as instance:
        session = await instance.exec(Process(argv=("sh", "-c", "trap 'exit 6' USR1; echo ready; while :; do sleep 0.02; done"), env=ENV))
        output = session.output()
        assert (await anext(output))[1] == b"ready\n"  # type: ignore[arg-type]
        await session.signal(signal.SIGUSR1)
        async for _ in output:
            pass
        assert await session.wait() == 6
        await session.close()


# files


async def test_ownership_is_canonical_on_disk(lab: Lab, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "theirs").write_text("x")
    os.chown(shared / "theirs", 1000, 1000)
    (tmp_path / "single").write_text("one file")
    binds = (
        HostMount("/data", shared),
        HostMount("/deep/er/ro", shared, read_only=True),
        HostMount("/etc/single", tmp_path / "single"),
        HostMount("/scratch", None, tmpfs_size=1 << 20, tmpfs_mode=0o700),
    )
    launch = lab.launch("sleep", "1000", mounts=binds)
    instance = lab.instance(launch)
    await instance.create()
    await instance.start()
    assert (await execute(instance, "stat", "-c", "%u:%g", "/data/theirs", "/bin/busybox", "/etc")).text == "1000:1000\n0:0\n0:0\n"
    assert (await execute(instance, "sh", "-c", "touch /data/root /new; chown 33:33 /new")).code == 0
    assert (await execute(instance, "touch", "/data/x", user="app")).code != 0
    assert b"Read-only" in (await execute(instance, "touch", "/deep/er/ro/x")).stderr
    assert (await execute(instance, "cat", "/etc/single")).text == "one file"
    assert (await execute(instance, "sh", "-c", "stat -c %a /scratch; head -c 2000000 /dev/zero > /scratch/f")).stdout == b"700\n"
    assert os.stat(shared / "root").st_uid == 0
    upper = launch.paths.state / "upper"
    assert (os.stat(upper / "new").st_uid, os.stat(upper / "new").st_gid) == (33, 33)
    assert sorted(os.listdir(upper)) == ["new"], "mount points leave no trace in the writable layer"
    assert os.stat(f"/proc/{instance._running.pid}").st_uid in (ID_BASE, 0)  # type: ignore[attr-defined]
    await instance.delete(purge=True)
    assert (shared / "theirs").read_text() == "x"


async def test_another_id_base_sees_the_same_layer(lab: Lab) -> None:
    from dataclasses import replace

    launch = lab.launch("sh", "-c", "touch /tmp/mine; stat -c %u /tmp/mine")
    for base in (ID_BASE, ID_BASE + 65536, 0):
        moved = replace(launch, id_base=base)
        instance = lab.instance(moved)
        await instance.create()
        session = await instance.attach()
        await instance.start()
        assert (await drain(session)).text == "0\n"
        await instance.delete()


async def test_injected_files(lab: Lab) -> None:
    files = (
        InjectedFile("/etc/hosts", b"127.0.0.1 localhost\n"),
        InjectedFile("/run/secrets/key", b"s3cret", mode=0o400, uid=1000, gid=1001, secret=True, read_only=True),
    )
    async with lab.running(files=files) as instance:
        assert (await execute(instance, "cat", "/run/secrets/key", user="app")).text == "s3cret"
        assert (await execute(instance, "stat", "-c", "%a %u %g", "/run/secrets/key")).text == "400 1000 1001\n"
        assert (await execute(instance, "sh", "-c", "echo '::1 six' >> /etc/hosts; cat /etc/hosts")).stdout.endswith(b"six\n")
        assert (await execute(instance, "sh", "-c", "echo x > /run/secrets/key")).code != 0
        home = instance.launch.paths.run.parents[1]
        holders = [path for path in home.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
        assert holders == [], "a secret is on the host's disk"


async def test_links_of_an_image_do_not_lead_out(lab: Lab, tmp_path: Path, root: Path) -> None:
    (tmp_path / "hostile").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "hostile/data").symlink_to(tmp_path / "victim")
    (tmp_path / "hostile/relative").symlink_to("../../../" + str(tmp_path / "victim") + "/deeper")
    (tmp_path / "hostile/etc").mkdir()
    (tmp_path / "hostile/etc/passwd").symlink_to("/../../../../etc/shadow")
    layers = Root("hostile", (tmp_path / "hostile", root))
    shared = tmp_path / "shared"
    shared.mkdir()
    output, _ = await lab.run(
        "ls", str(tmp_path / "victim"), root=layers, mounts=(HostMount("/data/in", shared), HostMount("/relative/x", None))
    )
    assert list((tmp_path / "victim").iterdir()) == []
    assert output.stdout == b"deeper\nin\n"
    with pytest.raises(UserError, match="unable to find user root"):
        await lab.run("true", user="root", root=layers)


async def test_many_layers(lab: Lab, tmp_path: Path, root: Path) -> None:
    layers = []
    for number in range(126):
        layer = tmp_path / f"layer-with-a-rather-long-name-{number}"
        layer.mkdir()
        (layer / f"file{number}").write_text("")
        layers.append(layer)
    output, _ = await lab.run("sh", "-c", "ls / | grep -c file", root=Root("tall", (*layers, root)))
    assert output.text == "126\n"


async def test_a_read_only_root(lab: Lab) -> None:
    output, _ = await lab.run("sh", "-c", "touch /x; touch /dev/shm/y && echo shm", security=Security(read_only=True))
    assert b"Read-only file system" in output.stderr and output.stdout == b"shm\n"


async def test_hostile_trees_are_removed(lab: Lab) -> None:
    script = "i=0; while mkdir d 2>/dev/null && cd d 2>/dev/null; do i=$((i+1)); done; echo $i"
    output, _ = await lab.run("sh", "-c", script, cwd="/tmp")
    assert int(output.text) > 1500


# confinement


async def test_the_default_confinement(lab: Lab) -> None:
    """The probes only open for writing, and write nothing: where the confinement fails, the machine is none the worse."""
    script = """
    grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | sort
    cat /proc/self/uid_map; hostname; id -u; ls /sys/class/net
    for path in /proc/sys/kernel/panic /proc/sysrq-trigger /proc/irq/default_smp_affinity
    do (: >> $path) 2> /dev/null && echo open $path; done
    mkdir /tmp/m; mount -t tmpfs x /tmp/m 2> /dev/null && echo mounted; unshare -n true 2> /dev/null && echo unshared
    wc -c < /proc/keys; ls /proc/acpi /sys/firmware
    """
    output, _ = await lab.run("sh", "-c", script)
    lines = output.text.splitlines()
    assert lines[:4] == ["CapBnd:\t00000000a80425fb", "CapEff:\t00000000a80425fb", "NoNewPrivs:\t1", "Seccomp:\t2"]
    assert lines[4].split() == ["0", str(ID_BASE), "65536"]
    assert lines[5:9] == ["inside", "0", "lo", "0"]
    assert "open" not in output.text and "mounted" not in output.text and "unshared" not in output.text


async def test_the_boot_id_is_its_own(lab: Lab) -> None:
    path = "/proc/sys/kernel/random/boot_id"
    found = {(await lab.run("cat", path))[0].text for _ in range(2)}
    assert len(found | {Path(path).read_text()}) == 3
    assert all(len(text.strip()) == 36 for text in found)


async def test_the_agent_can_be_the_program(lab: Lab) -> None:
    async with lab.running("/run/twinhull/agent", "pause") as instance:
        assert (await execute(instance, "echo", "x")).text == "x\n"


async def test_what_may_be_loosened(lab: Lab) -> None:
    status = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | sort; cut -c1-12 /proc/self/uid_map"
    loose, _ = await lab.run("sh", "-c", status, security=Security(seccomp="unconfined", no_new_privileges=False))
    assert "NoNewPrivs:\t0" in loose.text and "Seccomp:\t0" in loose.text
    privileged, _ = await lab.run("sh", "-c", status + "; ls /dev | wc -l", security=Security(privileged=True))
    assert "Seccomp:\t0" in privileged.text
    assert int(privileged.text.split()[-1]) > 20


async def test_ulimits_and_sysctls(lab: Lab) -> None:
    script = (
        "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_unprivileged_port_start"
    )
    sysctls = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "1000000"}
    output, _ = await lab.run("sh", "-c", script, ulimits=(Ulimit("nofile", 100, 200),), sysctls=sysctls)
    assert output.text.split() == ["100", "200", "1", "1000000", "0"]


# limits


async def test_out_of_memory_is_said(lab: Lab) -> None:
    _, end = await lab.run("sh", "-c", "tail /dev/zero", resources=Resources(memory=32 << 20))
    assert (end.code, end.oom, end.reason) == (137, True, "oom")


async def test_a_killed_program_is_not_out_of_memory(lab: Lab) -> None:
    async with lab.running(resources=Resources(memory=32 << 20)) as instance:
        await instance.signal(signal.SIGKILL)
        end = await instance.wait()
        assert (end.code, end.oom, end.reason) == (137, False, "")


async def test_limits_count_and_change(lab: Lab) -> None:
    async with lab.running(resources=Resources(cpus=0.5, memory=64 << 20, pids=12)) as instance:
        crowd = await execute(instance, "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do sleep 30 & done")
        assert b"fork" in crowd.stderr
        stats = await instance.stats()
        assert stats.memory_limit == 64 << 20 and 0 < stats.memory < 64 << 20 and stats.pids <= 12
        await instance.update(Resources(cpus=1, memory=128 << 20, pids=100))
        assert (await instance.stats()).memory_limit == 128 << 20
        await instance.update(Resources(memory=32 << 20, pids=100))
        assert (await instance.stats()).memory_limit == 32 << 20


async def test_the_cpu_quota(lab: Lab) -> None:
    """Within 15 % in the best of some windows: a busy machine may give less, never more."""
    used: list[float] = []
    async with lab.running("sh", "-c", "while :; do :; done", resources=Resources(cpus=0.5)) as instance:
        while len(used) < 20 and not any(share >= 0.425 for share in used):
            first, began = await instance.stats(), time.monotonic()
            await asyncio.sleep(1)  # the quantity measured, not a wait
            used.append(((await instance.stats()).cpu_ns - first.cpu_ns) / 1e9 / (time.monotonic() - began))
    assert 0.425 <= max(used) <= 0.575, used


async def test_a_reader_that_stalls_holds_up_no_news_of_the_end(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_STALL", 0.2)
    launch = lab.launch("cat", "/dev/zero")
    instance = lab.instance(launch)
    await instance.create()
    session = await instance.attach()
    await instance.start()

    async def held_back() -> bool:
        before = launch.paths.log.stat().st_size
        await asyncio.sleep(0.1)
        return before > 100_000 and launch.paths.log.stat().st_size == before

    await eventually(held_back)
    await instance.signal(signal.SIGKILL)
    async with asyncio.timeout(10):
        assert (await instance.wait()).code == 137
    await session.close()
    await instance.delete(purge=True)


async def test_init_and_file_tools(lab: Lab) -> None:
    script = "mkdir -p /d/e; echo x > /d/e/f; rm /etc/group; (sleep 0 &); exec sleep 1000"
    async with lab.running("sh", "-c", script, init=True) as instance:

        async def settled() -> bool:
            rows = await instance.top()
            return len(rows) == 2 and rows[0]["COMMAND"].startswith("/run/twinhull/agent init") and rows[1]["COMMAND"] == "sleep 1000"

        await eventually(settled)
        changes = b"A /d\0A /d/e\0A /d/e/f\0C /etc\0D /etc/group\0"
        assert (await drain(await _tool(instance, "diff"))).stdout == changes
        tar = await drain(await _tool(instance, "tar-out", "/d"))
        assert tar.code == 0
        assert (await drain(await _tool(instance, "tar-in", "/root", feed=tar.stdout))).code == 0
        assert (await execute(instance, "cat", "/root/d/e/f")).text == "x\n"
        assert (await drain(await _tool(instance, "stat", "/zed"))).code == 1
        layer = await drain(await _tool(instance, "layer"))
        assert layer.code == 0 and b".wh.group" in layer.stdout
        await instance.signal(signal.SIGTERM)
        assert (await instance.wait()).code == 143
        assert (await drain(await _tool(instance, "diff"))).stdout.startswith(changes), "works on what has ended"


async def _tool(instance: Instance, *argv: str, feed: bytes = b"") -> Session:
    session = await instance.tool(*argv)
    await session.send(feed)
    await session.close_stdin()
    return session


async def test_pause(lab: Lab) -> None:
    async with lab.running("sh", "-c", "while :; do date +%s%N > /tmp/now; done") as instance:
        now = instance.launch.paths.state / "upper/tmp/now"
        await eventually(lambda: _exists(now))
        await instance.pause()
        before = (await instance.stats()).cpu_ns
        with pytest.raises(ConflictError, match="paused"):
            await instance.exec(Process(argv=("true",), env=ENV))
        await asyncio.sleep(0.2)  # the time in which nothing may happen
        assert (await instance.stats()).cpu_ns == before
        await instance.resume()

        async def moves() -> bool:
            return (await instance.stats()).cpu_ns > before

        await eventually(moves)
        await instance.pause()
        await instance.signal(signal.SIGKILL)
        assert (await instance.wait()).code == 137


async def test_top_shows_the_inside(lab: Lab) -> None:
    async with lab.running("sleep", "1000", user="app") as instance:
        expected = [{"PID": "1", "USER": "app", "TIME": "0:00:00", "COMMAND": "sleep 1000"}]

        async def shown() -> bool:
            return await instance.top() == expected  # until it has executed, it is the runtime itself

        await eventually(shown)


async def test_runc_stands_in(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    find = runtimes.find
    monkeypatch.setattr(runtimes, "find", lambda name, *more: None if name == "crun" else find(name, *more))
    output, end = await lab.run("sh", "-c", "id -u; exit 3")
    assert (output.stdout, end.code) == (b"0\n", 3)
    async with lab.running() as instance:
        assert (await execute(instance, "id", "-u", user="app")).text == "1000\n"
        assert (await execute(instance, "tty", tty=True)).text == "/dev/pts/0\r\n"
        assert await lab.instance(instance.launch).adopt()


async def test_the_network_namespace_is_anothers(lab: Lab) -> None:
    from twinhull.network import netns

    space, link = netns.create({})
    try:
        output, _ = await lab.run(
            "sh", "-c", "cat /proc/sys/net/ipv4/ip_forward; ls /sys/class/net", netns=space.path, sysctls={"net.ipv4.ip_forward": "1"}
        )
        assert output.text == "1\nlo\n"
    finally:
        link.close()
        space.close()


async def test_start_is_quick(lab: Lab) -> None:
    """≤ 2× a bare `crun run` of the same bundle, medians of 20, interleaved."""
    ours, bare = [], []
    for _ in range(20):
        launch = lab.launch("echo", "x")
        instance = ContainerInstance(launch, lab.home / "run/oci")
        began = time.perf_counter()
        await instance.create()
        session = await instance.attach()
        await instance.start()
        assert await anext(session.output()) == (STDOUT, b"x\n")  # type: ignore[call-overload]
        ours.append(time.perf_counter() - began)
        await session.close()
        await instance.delete(purge=True)
        bare.append(await _bare(lab))
    ratio = statistics.median(ours) / statistics.median(bare)
    assert ratio <= 2, f"{statistics.median(ours) * 1e3:.1f} ms against {statistics.median(bare) * 1e3:.1f} ms"


async def _bare(lab: Lab) -> float:
    import json

    from twinhull.instance import oci

    launch = lab.launch("echo", "x")
    instance = ContainerInstance(launch, lab.home / "run/oci")
    stage, identity = instance._prepared()
    bundle = launch.paths.run / "bundle"
    (bundle / "config.json").write_text(json.dumps(oci.config(launch, identity, stage, instance._facts())))
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *instance._runtime().command(), "run", "--bundle", str(bundle), launch.id, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.read(1)
    took = time.perf_counter() - began
    await process.communicate()
    await instance.delete(purge=True)
    return took


def test_idmaps_and_groups_by_hand(tmp_path: Path) -> None:
    if not has_own_mounts():
        prepare_daemon_namespace()
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    descriptor = mounts.idmapped_clone(tmp_path / "source", ID_BASE, read_only=True)
    mounts.attach(descriptor, tmp_path / "target")
    os.close(descriptor)
    assert os.stat(tmp_path / "target").st_uid == ID_BASE
    with pytest.raises(OSError, match="Read-only"):
        (tmp_path / "target/x").touch()
    assert mounts.mounted_below(tmp_path) == [str(tmp_path / "target")]
    mounts.unmount_all(tmp_path / "target")
    group = cgroup.Cgroup(f"twinhull-test-{os.getpid()}-x/inner")
    group.create(Resources(memory=1 << 24, pids=5, cpus=0.5), cgroup.block_device(tmp_path))
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    group.add(child)
    assert group.pids() == [child] and group.usage().pids == 1
    group.freeze()
    while not group.frozen():
        pass
    while not group.kill():
        os.waitpid(child, os.WNOHANG)
    group.remove()
    cgroup.Cgroup(f"twinhull-test-{os.getpid()}-x").remove()
    assert not group.exists


async def _exists(path: Path) -> bool:
    return path.exists()
