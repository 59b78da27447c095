"""Parked guests: claimed, given back, found dead, left by a daemon that was killed; and nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.vm_lab import assert_gone, launch, lend, output_of

from twinhull.home import Home
from twinhull.instance.vm import parking, process
from twinhull.instance.vm.machine import VmInstance
from twinhull.instance.vm.parking import Parked, Pool, Want
from twinhull.instance.vm.snapshots import Snapshots
from twinhull.spec.instance import Resources

pytestmark = pytest.mark.timeout(400)
_WISH = Want(64 << 20, 1, 0)
_SMALL = Resources(memory=64 << 20, cpus=1.0)


@pytest.fixture(autouse=True)
def _clean(home: Home, known: Home) -> Iterator[None]:
    lend(known, home)
    yield
    assert_gone(home)
    assert list((home.state / "parked").glob("*")) == []


@asynccontextmanager
async def _claimed(home: Home, erofs: Path, *argv: str, **changes: Any) -> AsyncIterator[VmInstance]:
    ready = await parking.park(home, "auto", _WISH)
    instance = VmInstance(launch(home, erofs, *argv, resources=_SMALL, **changes), home, ready=ready)
    try:
        await instance.create()
        await instance.start()
        yield instance
    finally:
        await asyncio.shield(instance.delete())


async def test_a_guest_that_waited_becomes_an_instance_like_any_other(home: Home, erofs: Path) -> None:
    async with _claimed(home, erofs, "/bin/sh", "-c", "echo out; echo err >&2; read x; exit 7", hostname="mine", stdin=True) as instance:
        assert instance.restored
        assert not list(home.run.glob("park-*"))
        assert await output_of(instance, "hostname; cat /proc/1/comm; echo kept > /root/kept; sync") == "mine\nsh"
        stats = await instance.stats()
        assert stats.cpu_ns < 10**9
        assert (stats.net_rx, stats.net_tx) == (0, 0)
        assert stats.host_memory > 10 << 20, "QEMU's memory is counted where it runs now"
        second = VmInstance(instance.launch, home)  # a daemon that comes later
        await instance._let_go()
        assert await second.adopt()
        session = await second.attach()
        await session.send(b"x\n")
        assert (await second.wait()).code == 7
    lines = (instance.launch.paths.log).read_text().splitlines()
    assert sorted(line.split(" ")[-1] for line in lines) == ["err", "out"]
    async with _claimed(home, erofs, "/bin/sleep", "1000") as again:
        assert again.restored
        assert await output_of(again, "cat /root/kept") == "kept", "the writable layer survives"
        await again.delete(purge=True)


async def test_one_that_is_not_wanted_any_more_leaves_nothing(home: Home) -> None:
    ready = await parking.park(home, "auto", _WISH)
    assert list(home.run.glob("park-*")) == [ready.run]
    await ready.discard()
    await ready.discard()


async def test_what_a_killed_daemon_left_parked_is_ended(home: Home) -> None:
    ready = await parking.park(home, "auto", _WISH)
    assert ready.vmm is not None
    await parking.recover(home)
    assert ready.vmm.alive, "it is in use: its folder is locked"
    os.close(ready.lock)  # as the kernel does for a process that is killed
    ready.lock = -1
    await parking.recover(home)
    assert not ready.vmm.alive
    await _forget(ready)


async def _forget(ready: Parked) -> None:
    for connection in (ready.agent, ready.monitor, ready.console):
        assert connection is not None
        await connection.close()
    ready.messages.close()


async def test_a_guest_that_fails_when_it_is_claimed_costs_no_start(home: Home, erofs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr(Parked, "enter", broken)
    async with _claimed(home, erofs, "/bin/sleep", "1000") as instance:
        assert instance.restored, "from the template"
        assert await output_of(instance, "echo hi") == "hi"
        await instance.delete(purge=True)


async def test_a_start_that_is_broken_off_leaves_nothing_of_its_guest(home: Home, erofs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = asyncio.Event()

    async def slow(*_: object) -> None:
        entered.set()
        await asyncio.sleep(1000)

    monkeypatch.setattr(Parked, "enter", slow)
    ready = await parking.park(home, "auto", _WISH)
    instance = VmInstance(launch(home, erofs, "/bin/true", resources=_SMALL), home, ready=ready)
    starting = asyncio.create_task(instance.create(), name="start")
    await entered.wait()
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    await instance.delete(purge=True)


async def test_the_pool_has_what_was_asked_for(home: Home) -> None:
    pool = Pool(home, "auto", limit=2, budget=parking.COST[parking.qemu.Accelerator.TCG], store=Snapshots(home))
    assert pool.claim(_WISH) is None
    keeping = asyncio.create_task(pool.keep(), name="keep")
    try:
        async with asyncio.timeout(120):
            while pool.statistics()["waiting"] != 1:  # noqa: ASYNC110 - the pool tells nobody
                await asyncio.sleep(0.05)
        assert pool.claim(replace(_WISH, nics=3)) is None
        found = pool.claim(_WISH)
        assert found is not None
        found.release()
        assert pool.statistics() | {"waiting": 0, "missing": 0} == {
            "waiting": 0, "missing": 0, "made": 1, "claimed": 1, "missed": 2, "failed": 0, "last_failure": "",
        }  # fmt: skip
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await pool.close()


async def test_one_that_died_while_it_waited_is_not_given_out(home: Home) -> None:
    pool = Pool(home, "auto", limit=1, budget=1 << 30, store=Snapshots(home))
    pool.expect(_WISH)
    await pool._add(_WISH)
    [run] = home.run.glob("park-*")
    await process.end(run)
    assert pool.claim(_WISH) is None
    await pool.close()
