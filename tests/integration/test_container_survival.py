"""Workloads outlive the daemon, and `delete` clears up whatever a daemon that was killed left behind."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.container_lab import Lab, busybox_root, drain, eventually, execute

from twinhull.instance.base import HostMount, InjectedFile, Launch
from twinhull.sys import proc
from twinhull.sys.namespaces import has_own_mounts, prepare_daemon_namespace

_CREATOR = """
import asyncio, os, pickle, signal, sys, threading, time
from twinhull.instance import container, staging
from twinhull.sys import namespaces

launch, oci, point = pickle.loads(bytes.fromhex(sys.stdin.readline()))
namespaces.prepare_daemon_namespace()
die = lambda: os.kill(os.getpid(), signal.SIGKILL)

def after(owner, name):
    inner = getattr(owner, name)
    def sync(*a, **k):
        inner(*a, **k)
        die()
    async def both(*a, **k):
        await inner(*a, **k)
        die()
    setattr(owner, name, both if asyncio.iscoroutinefunction(inner) else sync)

async def main():
    instance = container.ContainerInstance(launch, oci)
    if isinstance(point, float):
        threading.Thread(target=lambda: (time.sleep(point), die()), daemon=True).start()
    elif point:
        after(getattr(container, point[0], container.ContainerInstance) if point[0] != "staging" else staging, point[1])
    await instance.create()
    session = await instance.attach()
    await instance.start()
    print("started", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


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


def creator(lab: Lab, launch: Launch, point: object = None) -> subprocess.Popen[str]:
    """A process that plays the daemon: it creates, attaches, starts, says so, and waits to be killed, or kills itself at `point`."""
    process = subprocess.Popen([sys.executable, "-c", _CREATOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps((launch, lab.home / "run/oci", point)).hex() + "\n")
    process.stdin.flush()
    return process


def kill_when_started(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.kill()
    process.communicate()


async def test_a_survivor_is_taken_over(lab: Lab) -> None:
    launch = lab.launch("sh", "-c", "trap 'exit 3' TERM; echo first; while :; do sleep 0.02; done")
    kill_when_started(creator(lab, launch))
    instance = lab.instance(launch)
    assert await instance.adopt()
    assert (await execute(instance, "echo", "hello")).text == "hello\n"
    assert (await instance.stats()).pids >= 1
    await instance.pause()
    await instance.resume()
    session = await instance.attach()
    await instance.signal(signal.SIGTERM)
    assert (await drain(session)).code == 3
    assert b"first" in launch.paths.log.read_bytes()
    await instance.delete(purge=True)
    assert not (left := lab.left(launch)), left


async def test_an_end_while_nobody_was_there_is_found(lab: Lab) -> None:
    launch = lab.launch("sh", "-c", "while ! test -e /tmp/go; do sleep 0.02; done; exit 42")
    kill_when_started(creator(lab, launch))
    (launch.paths.state / "upper/tmp").mkdir(exist_ok=True)
    first = lab.instance(launch)
    assert await first.adopt()
    await execute(first, "touch", "/tmp/go")
    waiting = [asyncio.create_task(first.wait()) for _ in range(3)]
    assert {(await one).code for one in waiting} == {42}
    second = lab.instance(launch)
    assert await second.adopt()
    end = await second.wait()
    assert (end.code, end.reason) == (42, "")
    await second.delete(purge=True)
    assert not (left := lab.left(launch)), left


async def test_nothing_is_not_adopted(lab: Lab) -> None:
    assert not await lab.instance(lab.launch("true")).adopt()


async def test_a_monitor_that_was_killed_is_said_and_takes_the_workload_along(lab: Lab) -> None:
    launch = lab.launch("sleep", "1000")
    instance = lab.instance(launch)
    await instance.create()
    await instance.start()
    waiting = asyncio.create_task(instance.wait())
    running = instance._running  # type: ignore[attr-defined]
    os.kill(running.monitor, signal.SIGKILL)
    end = await waiting
    assert (end.code, end.reason) == (137, "monitor-lost")
    assert not proc.alive(running.pid, running.pid_started)
    await instance.delete(purge=True)
    assert not (left := lab.left(launch)), left


POINTS: list[object] = [
    ("staging", "_place"),
    ("staging", "_root"),
    ("staging", "_bind"),
    ("staging", "prepare"),
    ("ContainerInstance", "_prepared"),
    ("ContainerInstance", "_create_under_monitor"),
    ("ContainerInstance", "_note"),
    ("staging", "release"),
    ("ContainerInstance", "create"),
    ("ContainerInstance", "attach"),
    ("ContainerInstance", "start"),
]
POINTS += [number / 1000 for number in range(0, 60, 3)]


@pytest.mark.parametrize("point", POINTS, ids=str)
async def test_killed_at_any_moment_delete_clears_up(lab: Lab, tmp_path: Path, point: object) -> None:
    (tmp_path / "shared").mkdir()
    mounts = (HostMount("/data", tmp_path / "shared"), HostMount("/scratch", None))
    files = (InjectedFile("/run/secrets/x", b"s", secret=True), InjectedFile("/etc/hosts", b""))
    launch = lab.launch("sleep", "1000", mounts=mounts, files=files)
    process = creator(lab, launch, point)
    status = await asyncio.to_thread(process.wait)
    process.communicate()
    assert status == -signal.SIGKILL
    instance = lab.instance(launch)
    adopted = await instance.adopt()
    if point == ("ContainerInstance", "start"):
        assert adopted
    if isinstance(point, tuple) and point[1] in ("_prepared", "create", "attach"):
        assert not adopted
    await instance.delete(purge=True)

    async def clean() -> bool:
        return not lab.left(launch)

    try:
        await eventually(clean, 5)
    except TimeoutError:
        pytest.fail(f"left: {lab.left(launch)}")


async def test_cancelled_at_any_moment_delete_clears_up(lab: Lab) -> None:
    for delay in range(0, 40, 2):
        launch = lab.launch("sleep", "1000")
        instance = lab.instance(launch)

        async def both() -> None:
            await instance.create()  # noqa: B023
            await instance.start()  # noqa: B023

        task = asyncio.create_task(both())
        await asyncio.wait({task}, timeout=delay / 1000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await instance.delete(purge=True)
        assert not (left := lab.left(launch)), (delay, left)
