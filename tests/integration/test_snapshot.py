"""Snapshots of an application that has warmed up: what goes on, what is new, and what goes wrong."""

from __future__ import annotations

import asyncio
import mmap
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.vm_lab import launch, output_of, started

from twinhull.errors import ConflictError, PermanentError
from twinhull.home import Home
from twinhull.instance.base import HostMount, InjectedFile, Interface, Launch
from twinhull.instance.vm import memory, migration, parking, placeholders, snapshots
from twinhull.instance.vm.agent import AgentClient
from twinhull.instance.vm.guest import BOOT_ID, RESUMED
from twinhull.instance.vm.machine import VmInstance
from twinhull.instance.vm.parking import Want
from twinhull.instance.vm.qmp import Monitor
from twinhull.instance.vm.record import read_made
from twinhull.instance.vm.snapshots import About, Resume, Snapshots
from twinhull.spec.instance import Resources

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("no_vm_left")]
_KEY = "ab" * 16
_SMALL = Resources(memory=64 << 20, cpus=1.0)
_APP = """
echo warming; warm=$(head -c 8 /dev/urandom | od -An -tx1 | tr -d ' ')
trap 'echo $warm resumed as $(hostname) $(cat /run/twinhull/resumed)' HUP
echo ready
while :; do sleep 0.05; done
"""
_OWN = f"""
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo
cat /proc/sys/kernel/random/uuid {BOOT_ID} /etc/machine-id /sys/class/net/eth0/address
ip -o -4 addr show dev eth0 | awk '{{print $4}}'
hostname
"""


@pytest.fixture
def store(home: Home) -> Iterator[Snapshots]:
    made = Snapshots(home)
    yield made
    made.close()


def _launch(home: Home, erofs: Path, number: int, resumed: str = "") -> Launch:
    files = (
        InjectedFile(RESUMED, resumed.encode(), 0o444),
        InjectedFile(BOOT_ID, f"boot{number}\n".encode(), 0o444, read_only=True),
        InjectedFile("/etc/machine-id", f"{number:032x}\n".encode(), 0o444),
    )
    return launch(home, erofs, "/bin/sh", "-c", _APP, number=number, resources=_SMALL, hostname=f"app{number}", files=files)


def _on_a_network(wanted: Launch, number: int) -> Launch:
    nic = Interface("eth0", f"02:74:0a:00:00:{number:02x}", f"10.99.0.{number + 2}", "10.99.0.1", 1500, default=True)
    return replace(wanted, interfaces=(nic,), taps=tuple(placeholders._taps(1)))


async def _says(instance: VmInstance, word: str) -> list[str]:
    """The log, once it has the word."""
    async with asyncio.timeout(60):
        while word not in (text := instance.launch.paths.log.read_text()):  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.02)
    return [line.split(" ", 3)[3] for line in text.splitlines()]


async def _capture(home: Home, erofs: Path, store: Snapshots, wanted: Launch | None = None) -> None:
    async with started(home, wanted or _launch(home, erofs, 0)) as first:
        await _says(first, "ready")
        await output_of(first, "echo kept > /root/kept; cat /proc/sys/kernel/random/boot_id")
        await first.capture(store, About(_KEY, "", "busybox", "", ("sh",), time.time(), ""))
        assert await output_of(first, "hostname") == "app0", "it goes on"


async def test_a_clone_goes_on_where_the_application_was_as_somebody_else(home: Home, erofs: Path, store: Snapshots) -> None:
    await _capture(home, erofs, store)
    assert [about.key for about in store.list()] == [_KEY]
    assert list(home.state.glob("snapshots/.*")) == []
    warm = set()
    for number in (1, 2):
        snapshot = await store.obtain(_KEY)
        assert snapshot is not None
        instance = VmInstance(_launch(home, erofs, number, f"at {number}"), home, resume=Resume(snapshot, store, 1))
        try:
            await instance.create()
            assert instance.resumed
            await instance.start()
            [line] = await _says(instance, "resumed as")
            warm.add(line.split()[0])
            assert line.endswith(f"resumed as app{number} at {number}")
            script = f"cat {BOOT_ID} /root/kept; echo other > /root/kept; wc -c < /dev/null"
            assert (await output_of(instance, script)).split() == [f"boot{number}", "kept", "0"]
            if number == 2:  # a daemon that comes later
                second = VmInstance(instance.launch, home)
                await instance._let_go()
                assert await second.adopt()
                assert await output_of(second, "hostname") == "app2"
                await second.delete(purge=True)
        finally:
            await instance.delete(purge=True)
    assert len(warm) == 1, "both have what the application had when it was ready"
    assert (store.made, store.resumed, store.failed) == (1, 2, 0)


async def test_clones_have_nothing_in_common_that_must_be_ones_own(home: Home, erofs: Path, store: Snapshots) -> None:
    """bench/clones.py asks 200."""
    await _capture(home, erofs, store, _on_a_network(_launch(home, erofs, 0), 0))
    seen = []
    for number in range(1, 7):
        snapshot = await store.obtain(_KEY)
        assert snapshot is not None
        wanted = _on_a_network(_launch(home, erofs, number), number)
        instance = VmInstance(wanted, home, resume=Resume(snapshot, store))
        try:
            await instance.create()
            assert instance.resumed
            await instance.start()
            seen.append((await output_of(instance, _OWN)).split())
            earliest = time.time()
            said = float(
                await output_of(
                    instance, """adjtimex | awk '/time.tv_sec/ {s=$2} /time.tv_usec/ {u=$2} END {printf "%.6f", s + u / 1e6}'"""
                )
            )
            assert earliest - 0.01 < said < time.time() + 0.01
        finally:
            await instance.delete(purge=True)
    for values in zip(*seen, strict=True):
        assert len(set(values)) == len(seen), values


async def test_a_parked_clone_of_it_is_ready_at_once(home: Home, erofs: Path, store: Snapshots) -> None:
    await _capture(home, erofs, store)
    snapshot = await store.obtain(_KEY)
    assert snapshot is not None
    ready = await parking.park(home, "auto", Want(64 << 20, 1, 0, _KEY), store)
    instance = VmInstance(_launch(home, erofs, 3, "parked"), home, ready=ready, resume=Resume(snapshot, store, 1))
    try:
        await instance.create()
        assert instance.resumed
        assert not list(home.run.glob("park-*"))
        await instance.start()
        [line] = await _says(instance, "resumed as")
        assert line.endswith("resumed as app3 parked")
    finally:
        await instance.delete(purge=True)


async def test_one_that_cannot_be_read_is_started_around_and_removed(home: Home, erofs: Path, store: Snapshots) -> None:
    await _capture(home, erofs, store)
    snapshot = await store.obtain(_KEY)
    assert snapshot is not None
    snapshot.loaded = type(snapshot.loaded)(snapshot.loaded.manifest, snapshot.loaded.memory, memory.create("broken", 4096))
    for number in (1, 2):
        instance = VmInstance(_launch(home, erofs, number), home, resume=Resume(snapshot, store))
        try:
            await instance.create()
            assert not instance.resumed
            await instance.start()
            assert (await _says(instance, "ready")) == ["warming", "ready"]
        finally:
            await instance.delete(purge=True)
    assert (store.failed, store.list()) == (2, ())


async def test_what_a_killed_daemon_left_of_one_is_removed(home: Home) -> None:
    whole = snapshots._draft_disk(home)
    whole.write_bytes(b"x")
    await snapshots.recover(home)
    assert not whole.exists()


_SHARING = """
cat /data/who > /dev/null; echo ready
trap 'echo $(cat /run/secrets/key) of $(cat /data/who) resumed; echo written > /data/by-$(hostname)' HUP
while :; do sleep 0.05; done
"""


def _sharing(plain: Launch, data: Path, key: str, script: str = _SHARING) -> Launch:
    secret = InjectedFile("/run/secrets/key", key.encode(), 0o400, 1000, 1000, secret=True)
    mounts = (HostMount("/data", data), HostMount("/tmp", None))
    process = replace(plain.process, argv=("/bin/sh", "-c", script))
    return replace(plain, files=(*plain.files, secret), mounts=mounts, process=process, reconnect=True)


async def test_who_can_reconnect_may_have_volumes_and_secrets(home: Home, erofs: Path, store: Snapshots, tmp_path: Path) -> None:
    folders, keys = [], [secrets.token_hex(32) for _ in range(2)]
    for name in ("first", "second"):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / "who").write_text(name)
    async with started(home, _sharing(_launch(home, erofs, 0), folders[0], keys[0])) as first:
        await _says(first, "ready")
        await first.capture(store, About(_KEY, "", "busybox", "", ("sh",), time.time(), ""))
        found = await output_of(first, "echo on > /data/goes; stat -c %u:%a /run/secrets/key; cat /run/secrets/key")
        assert found == f"1000:400\n{keys[0]}", "it goes on"
        assert (folders[0] / "goes").exists()
        assert list((first.launch.paths.run / "secrets").iterdir()) == [], "nothing of it outside QEMU's jail"
    snapshot = await store.obtain(_KEY)
    assert snapshot is not None
    with mmap.mmap(snapshot.loaded.memory, 0, prot=mmap.PROT_READ) as saved:
        assert saved.find(b"while :; do") > 0, "the memory is this"
        assert saved.find(keys[0].encode()) == -1
    instance = VmInstance(_sharing(_launch(home, erofs, 1), folders[1], keys[1]), home, resume=Resume(snapshot, store, 1))
    try:
        await instance.create()
        assert instance.resumed
        await instance.start()
        [line] = await _says(instance, "resumed")
        assert line == f"{keys[1]} of second resumed"
        assert await output_of(instance, "cat /data/by-app1") == "written"
        assert (folders[1] / "by-app1").exists()
    finally:
        await instance.delete(purge=True)


async def test_a_volume_in_use_is_a_reason_and_no_harm(home: Home, erofs: Path, store: Snapshots, tmp_path: Path) -> None:
    script = "exec 3>> /data/log; echo ready; while :; do echo tick >&3; sleep 0.05; done"
    async with started(home, _sharing(_launch(home, erofs, 0), tmp_path, "key", script)) as busy:
        await _says(busy, "ready")
        with pytest.raises(ConflictError, match="/data is in use"):
            await busy.capture(store, About(_KEY, "", "busybox", "", ("sh",), time.time(), ""))
        before = (tmp_path / "log").stat().st_size
        async with asyncio.timeout(30):
            while (tmp_path / "log").stat().st_size == before:  # noqa: ASYNC110 - a file on the host has no event
                await asyncio.sleep(0.02)
        assert await output_of(busy, "cat /run/secrets/key; tail -n 1 /data/log") == "keytick"
    assert store.list() == ()


# ---- captures that are cut off

_ALIVE = "trap 'echo alive $(cat /run/secrets/key) $(cat /data/who)' HUP; echo ready; while :; do sleep 0.05; done"
_ABOUT = About(_KEY, "", "busybox", "", ("sh",), 0.0, "")


class _KilledError(Exception):
    """What a process that was killed would have done next."""


async def _nothing_more(*_: object, **__: object) -> None:
    raise _KilledError


Patch = Callable[[pytest.MonkeyPatch], None]


def _after(owner: object, name: str) -> Patch:
    def patch(monkey: pytest.MonkeyPatch) -> None:
        real: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def once(*words: Any, **named: Any) -> None:
            await real(*words, **named)
            raise _KilledError

        monkey.setattr(owner, name, once)
        monkey.setattr(snapshots, "release", _nothing_more)

    return patch


def _saving_slowly(monkey: pytest.MonkeyPatch, then: Callable[[], Awaitable[None]] = _nothing_more) -> None:
    """The guest is being saved, and would be for hours."""
    real = Monitor.execute

    async def execute(monitor: Monitor, command: str, /, descriptor: int = -1, **arguments: Any) -> Any:
        found = await real(monitor, command, descriptor, **arguments)
        if command == "query-migrate" and found.get("status") == "active":
            await then()
        return found

    monkey.setattr(migration, "_UNLIMITED", 4096)
    monkey.setattr(Monitor, "execute", execute)


def _while_saving(monkey: pytest.MonkeyPatch) -> None:
    _saving_slowly(monkey)
    monkey.setattr(snapshots, "release", _nothing_more)


def _on_the_way_back(monkey: pytest.MonkeyPatch) -> None:
    monkey.setattr(AgentClient, "set_clock", _nothing_more)


CUTS: tuple[Patch, ...] = (
    _after(AgentClient, "freeze"),
    _after(AgentClient, "volumes"),
    _while_saving,
    _after(migration, "save_whole"),
    _on_the_way_back,
)


async def _goes_on(instance: VmInstance, key: str, times: int) -> None:
    """The workload answers a signal, has its secret and its volume, and nothing says any more that it might not."""
    await instance.signal(signal.SIGHUP)
    async with asyncio.timeout(60):
        while (said := await _says(instance, "alive")).count(f"alive {key} data") < times:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.02)
    assert said == ["ready", *[f"alive {key} data"] * times]
    made = read_made(instance.launch.paths.run)
    assert made is not None
    assert not made.capturing


async def _cut(instance: VmInstance, store: Snapshots, patch: Patch) -> VmInstance:
    """A capture that a killed process began, and the object of the daemon that comes next."""
    with pytest.MonkeyPatch.context() as monkey:
        patch(monkey)
        with pytest.raises(_KilledError):
            await instance.capture(store, _ABOUT)
    await instance._let_go()
    return VmInstance(instance.launch, instance._home)


async def test_a_workload_goes_on_after_a_capture_that_was_cut_off(home: Home, erofs: Path, store: Snapshots, tmp_path: Path) -> None:
    """By a kill at any point, by an error, by a cancellation; where it can't, it ends and says why."""
    key = secrets.token_hex(8)
    (tmp_path / "who").write_text("data")
    async with started(home, _sharing(_launch(home, erofs, 0), tmp_path, key, _ALIVE)) as first:
        await _says(first, "ready")
        now, times = first, 0
        for times, cut in enumerate(CUTS, 1):
            now = await _cut(now, store, cut)
            assert await now.adopt()
            await _goes_on(now, key, times)
        await _is_cancelled(now, store)
        await _goes_on(now, key, times + 1)
        await _has_its_volumes_later(now, store)
        await _goes_on(now, key, times + 2)
        await now.capture(store, _ABOUT)
        await _goes_on(now, key, times + 3)
        now = await _cut(now, store, _after(AgentClient, "volumes"))
        with pytest.MonkeyPatch.context() as monkey:
            monkey.setattr(AgentClient, "volumes", _refused)
            assert await now.adopt()
            ended = await asyncio.wait_for(now.wait(), 60)
        assert (ended.code, ended.reason) == (137, "vmm-lost: it stood still for a snapshot and can't go on: the share is gone")
        await now.delete()
    assert [about.key for about in store.list()] == [_KEY]
    assert list(home.state.glob("snapshots/.*")) == []


async def _is_cancelled(instance: VmInstance, store: Snapshots) -> None:
    saving = asyncio.Event()

    async def tell() -> None:
        saving.set()

    with pytest.MonkeyPatch.context() as monkey:
        _saving_slowly(monkey, tell)
        capture = asyncio.create_task(instance.capture(store, _ABOUT))
        await asyncio.wait_for(saving.wait(), 60)
        capture.cancel()
        with pytest.raises(asyncio.CancelledError):
            await capture


async def _refused(*_: object, **__: object) -> None:
    raise PermanentError("the share is gone")


async def _has_its_volumes_later(instance: VmInstance, store: Snapshots) -> None:
    """It is connected to anew, and tried once more."""
    real, tried = AgentClient.volumes, [False]

    async def volumes(agent: AgentClient, *, mounted: bool) -> None:
        if mounted and not tried[0]:
            tried[0] = True
            raise PermanentError("the share is gone")
        await real(agent, mounted=mounted)

    agent = instance._agent
    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(AgentClient, "volumes", volumes)
        with pytest.raises(PermanentError, match="the share is gone"):
            await instance.capture(store, _ABOUT)
        async with asyncio.timeout(60):
            while instance._agent in (None, agent) or instance._require_made().capturing:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.02)
