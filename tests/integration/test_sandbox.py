"""gVisor's runsc with the container's bundle: what works, and what is refused."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.container_lab import ENV, Lab, busybox_root, drain, execute

from twinhull.errors import CannotRunError, ConflictError, UnsupportedError, UserError
from twinhull.instance.base import STDOUT, HostMount, InjectedFile, Process
from twinhull.instance.sandbox import SandboxInstance, table
from twinhull.spec.instance import Resources, Security
from twinhull.sys.namespaces import has_own_mounts, prepare_daemon_namespace


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_root(tmp_path_factory.mktemp("busybox") / "root")


@pytest.fixture
async def lab(tmp_path: Path, root: Path) -> AsyncIterator[Lab]:
    if not has_own_mounts():
        prepare_daemon_namespace()
    lab = Lab(tmp_path / "home", root, SandboxInstance)
    yield lab
    await lab.close()


async def test_a_program_runs_on_another_kernel(lab: Lab) -> None:
    output, end = await lab.run("sh", "-c", "echo out; echo err >&2; uname -r; hostname; id -u; touch /tmp/mine; exit 7")
    assert output.stdout.splitlines()[0] == b"out" and output.stderr == b"err\n"
    assert output.text.splitlines()[1:] == ["4.4.0", "inside", "0"]
    assert os.uname().release != "4.4.0"
    assert (end.code, end.oom) == (7, False)


async def test_streams(lab: Lab) -> None:
    output, end = await lab.run("sh", "-c", "md5sum; exit 4", feed=b"z" * 1_000_000)
    assert (output.text.split()[0], end.code) == (hashlib.md5(b"z" * 1_000_000).hexdigest(), 4)
    launch = lab.launch("sh", "-c", "stty size; read x; echo got $x; exit 5", tty=True, stdin=True)
    instance = lab.instance(launch)
    await instance.create()
    session = await instance.attach()
    await session.resize(50, 90)
    await instance.start()
    await session.send(b"yo\n")
    found = await drain(session)
    assert b"50 90" in found.stdout and b"got yo" in found.stdout and found.code == 5
    await instance.delete(purge=True)


async def test_exec_files_and_limits(lab: Lab, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    binds = (HostMount("/data", shared), HostMount("/ro", shared, read_only=True), HostMount("/scratch", None, tmpfs_size=1 << 20))
    files = (InjectedFile("/run/secrets/key", b"s3cret", mode=0o400, uid=1000, gid=1001, secret=True),)
    limits = Resources(cpus=1, memory=256 << 20)
    async with lab.running(mounts=binds, files=files, resources=limits) as instance:
        assert (await execute(instance, "id", user="app")).text == "uid=1000(app) gid=1001(app) groups=10(wheel)\n"
        assert (await execute(instance, "cat", "/run/secrets/key", user="app")).text == "s3cret"
        assert (await execute(instance, "cat", stdin=b"x" * 100_000)).stdout == b"x" * 100_000
        assert (await execute(instance, "sh", "-c", "echo a > /data/made; touch /ro/x")).code != 0
        assert os.stat(shared / "made").st_uid == 0
        assert (await execute(instance, "sh", "-c", "test -t 0 && echo terminal; exit 6", tty=True)).stdout == b"terminal\r\n"
        with pytest.raises(CannotRunError):
            await instance.exec(Process(argv=("zed",), env=ENV))
        with pytest.raises(UserError):
            await instance.exec(Process(argv=("true",), env=ENV, user="zed"))
        assert (await instance.stats()).memory_limit == 256 << 20
        assert [row["COMMAND"] for row in await instance.top()] == ["sleep"]
        session = await instance.exec(Process(argv=("sh", "-c", "echo ready; exec sleep 777"), env=ENV))
        assert await anext(session.output()) == (STDOUT, b"ready\n")  # type: ignore[call-overload]
        await session.close()
        assert len(await instance.top()) == 1
        await instance.pause()
        with pytest.raises(ConflictError, match="paused"):
            await instance.exec(Process(argv=("true",), env=ENV))
        await instance.resume()
        assert (await execute(instance, "echo", "again")).text == "again\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGTERM, 3)])
async def test_signals_and_adoption(lab: Lab, number: signal.Signals, code: int) -> None:
    launch = lab.launch("sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    first = lab.instance(launch)
    await first.create()
    assert not await lab.instance(launch).adopt()
    session = await first.attach()
    await first.start()
    assert await anext(session.output()) == (STDOUT, b"ready\n")  # type: ignore[call-overload]
    await session.close()
    instance = lab.instance(launch)
    assert await instance.adopt()
    await instance.signal(number)
    assert (await instance.wait()).code == code
    await instance.delete(purge=True)
    assert not (left := lab.left(launch)), left


async def test_out_of_memory_is_said(lab: Lab) -> None:
    _, end = await lab.run("sh", "-c", "tail /dev/zero", resources=Resources(memory=96 << 20))
    assert (end.code, end.oom, end.reason) == (137, True, "oom")


async def test_a_running_one_is_deleted(lab: Lab) -> None:
    launch = lab.launch("sleep", "1000")
    instance = lab.instance(launch)
    await instance.create()
    await instance.start()
    await lab.instance(launch).delete(purge=True)
    assert not (left := lab.left(launch)), left


async def test_what_it_can_not_do_is_refused(lab: Lab) -> None:
    for change in ({"resources": Resources(pids=5)}, {"security": Security(seccomp='{"defaultAction": "SCMP_ACT_ALLOW"}')}):
        with pytest.raises(UnsupportedError):
            await lab.run("true", **change)
        assert not lab.left(lab.launches[-1])
    assert {"snapshot", "privileged", "sysctls", "pids-limit"} <= set(SandboxInstance.traits.reasons)
    assert not SandboxInstance.traits.host_network


async def test_its_own_network_stack(lab: Lab) -> None:
    names = [f"th-sbx-{os.getpid()}-{end}" for end in "ab"]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("-n", names[0], "link", "add", "gw0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        _ip("-n", names[0], "addr", "add", "10.99.0.1/32", "dev", "gw0")
        _ip("-n", names[0], "link", "set", "gw0", "up")
        _ip("-n", names[0], "route", "add", "10.99.0.2/32", "dev", "gw0")
        _ip("-n", names[1], "addr", "add", "10.99.0.2/32", "dev", "eth0")
        _ip("-n", names[1], "link", "set", "eth0", "up")
        _ip("-n", names[1], "route", "add", "10.99.0.1", "dev", "eth0", "scope", "link")
        _ip("-n", names[1], "route", "add", "default", "via", "10.99.0.1")
        output, _ = await lab.run("ping", "-c1", "-W2", "10.99.0.1", netns=f"/run/netns/{names[1]}")
        assert "1 packets received" in output.text
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def test_the_table_of_processes() -> None:
    text = "UID PID PPID C TTY STIME TIME CMD\n0 1 0 0 ? 04:25 10ms sh -c x\n1000 5 1 0 ? 04:25 0s sleep\nnonsense\n"
    assert table(text, {0: "root"}) == [
        {"PID": "1", "USER": "root", "TIME": "10ms", "COMMAND": "sh -c x"},
        {"PID": "5", "USER": "1000", "TIME": "0s", "COMMAND": "sleep"},
    ]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
