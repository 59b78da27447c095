"""VMs that are restored instead of booted: made once, proved, kept; clones that share memory and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.vm_lab import collect, created, launch, output_of, shell, started
from tests.integration.vm_net import Wire

from twinhull.errors import TemporaryError
from twinhull.home import Home
from twinhull.instance import logs
from twinhull.instance.base import HostMount, Interface
from twinhull.instance.vm import accelerator, memory, migration, placeholders, process, qemu, shape, template, tsc
from twinhull.instance.vm.machine import VmInstance
from twinhull.instance.vm.shelf import Shelf
from twinhull.spec.instance import Resources

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("no_vm_left")]

_SMALL = Resources(memory=96 << 20, cpus=1.0)
"""A shape of this file's own, which nobody else in the process has made."""


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing in memory, so that the test's own home decides."""
    template.forget()
    yield
    template.settle()
    template.forget()


def _counts() -> tuple[int, ...]:
    found = template.statistics()
    return tuple(int(found[name]) for name in ("made", "loaded", "restored", "failed"))


def _since(before: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(now - then for now, then in zip(_counts(), before, strict=True))


async def test_the_first_makes_it_the_next_use_it_and_a_new_process_finds_it(home: Home, erofs: Path, fresh: None) -> None:
    before = _counts()
    for number in range(3):
        async with started(home, launch(home, erofs, "/bin/sleep", "1000", number=number)) as instance:
            assert instance.restored
            assert await output_of(instance, "echo hi") == "hi"
        assert _since(before) == (1, 0, number + 1, 0)
    [place] = Shelf(home.cache).folder.iterdir()
    assert {path.name: path.stat().st_mode & 0o777 for path in place.iterdir()} == {"mem": 0o400, "state": 0o400, "manifest.json": 0o400}
    template.forget()  # as a new daemon begins
    async with started(home, launch(home, erofs, "/bin/true")) as instance:
        assert instance.restored
    assert _since(before) == (1, 1, 4, 0)


async def test_many_at_once_make_one(home: Home, erofs: Path, fresh: None) -> None:
    before = _counts()
    async with contextlib.AsyncExitStack() as stack:
        wanted = [launch(home, erofs, "/bin/sleep", "1000", number=number, resources=_SMALL) for number in range(4)]
        made = await asyncio.gather(*(stack.enter_async_context(started(home, one)) for one in wanted))
        assert [one.restored for one in made] == [True] * 4
    assert _since(before) == (1, 0, 4, 0)


async def test_it_can_be_switched_off(home: Home, erofs: Path) -> None:
    before = _counts()
    async with started(home, launch(home, erofs, "/bin/true"), templates=False) as instance:
        assert not instance.restored
    assert _since(before) == (0, 0, 0, 0)


# ---- what clones have in common, and what not


_IDENTITY = """
cat /proc/sys/kernel/random/boot_id
cat /proc/sys/kernel/random/uuid
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo
head -c 16 /proc/self/auxv | od -An -tx1 | tr -d ' \\n'; echo
cat /sys/class/net/eth0/address
mktemp -u /tmp/XXXXXXXXXXXX
hostname
"""


@asynccontextmanager
async def _clone(home: Home, erofs: Path, number: int) -> AsyncIterator[VmInstance]:
    parts = placeholders._taps(1)
    nic = Interface("eth0", f"02:74:0a:00:00:{number:02x}", f"10.99.0.{number + 2}", "10.99.0.1", 1500, default=True)
    wanted = launch(home, erofs, "/bin/sleep", "1000", number=number, interfaces=(nic,), taps=tuple(parts), hostname=f"clone{number}")
    async with started(home, wanted) as instance:
        yield instance


async def test_twenty_clones_have_nothing_secret_in_common(home: Home, erofs: Path) -> None:
    seen: list[list[str]] = []
    limit = asyncio.Semaphore(4)

    async def one(number: int) -> None:
        async with limit, _clone(home, erofs, number) as instance:
            assert instance.restored
            seen.append((await output_of(instance, _IDENTITY)).split("\n"))

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(one(number))
    boot_ids, uuids, random, auxv, macs, names, hosts = zip(*seen, strict=True)
    for name, values in (("boot_id", boot_ids), ("uuid", uuids), ("random", random), ("mac", macs), ("mktemp", names), ("host", hosts)):
        assert len(set(values)) == 20, (name, values)
    assert set(macs) == {f"02:74:0a:00:00:{number:02x}" for number in range(20)}
    assert len(set(auxv)) > 1, "addresses are random"


async def test_a_clones_clock_is_the_hosts(home: Home, erofs: Path) -> None:
    """The log has the guest's own time of each line."""
    for number in range(5):
        async with created(home, launch(home, erofs, "/bin/sh", "-c", "while echo now; do sleep 0.01; done", number=number)) as instance:
            earliest = time.time()
            await instance.start()
            lines = logs.read(instance.launch.paths.log, follow=True)
            first = await asyncio.wait_for(anext(lines), 30)
            await lines.aclose()
            assert earliest - 0.01 < first.at < time.time() + 0.01


async def test_a_clone_has_no_address_and_no_neighbour_of_its_templates(home: Home, erofs: Path) -> None:
    async with _clone(home, erofs, 7) as instance:
        assert "fe80" not in await output_of(instance, "ip -6 addr show")
        assert await output_of(instance, "ip -o -4 addr show dev eth0 | awk '{print $4}'") == "10.99.0.9/32"
        neighbours = await output_of(instance, "tail -n +2 /proc/net/arp")
        assert all(line.startswith("10.99.0.1 ") for line in neighbours.splitlines())


async def test_two_interfaces_keep_their_order_and_reach_the_world(home: Home, erofs: Path) -> None:
    with Wire() as wire:
        [other] = placeholders._taps(1)
        second = Interface("lan", "02:99:00:00:00:07", "10.98.0.2", "10.98.0.1", 1400, default=False)
        wanted = launch(home, erofs, "/bin/sleep", "1000", interfaces=(wire.interface, second), taps=(wire.tap, other))
        async with started(home, wanted) as instance:
            assert instance.restored
            assert wire.ping(wire.interface.address)
            script = "cat /sys/class/net/eth0/address /sys/class/net/lan/address /sys/class/net/lan/mtu"
            assert (await output_of(instance, script)).split() == [wire.interface.mac, second.mac, "1400"]


async def test_volumes_are_there_and_without_them_there_is_no_9p_device(home: Home, erofs: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("from outside")
    look = "grep -l volumes /sys/bus/virtio/drivers/9pnet_virtio/virtio*/mount_tag 2>/dev/null | wc -l"
    wanted = launch(home, erofs, "/bin/sleep", "1000", mounts=(HostMount("/data", tmp_path / "data"),))
    async with started(home, wanted) as instance:
        assert instance.restored
        assert await output_of(instance, "cat /data/file; echo inside > /data/new") == "from outside"
        assert (tmp_path / "data" / "new").read_text() == "inside\n"
        assert await output_of(instance, look) == "1"
    async with started(home, launch(home, erofs, "/bin/sleep", "1000", number=1)) as instance:
        assert await output_of(instance, look) == "0"


async def test_no_clone_changes_what_the_others_are_made_from(home: Home, erofs: Path) -> None:
    async with started(home, launch(home, erofs, "/bin/sleep", "1000")) as instance:
        known = [one for one in template._memory.templates.values() if one.loaded.manifest.memory == qemu.ram(0)]
        before = [_digest(one.loaded.memory) for one in known]
        await output_of(
            instance, "dd if=/dev/urandom of=/dev/shm/fill bs=1M count=12 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches || true"
        )
        vmm = process.recorded(instance.launch.paths.run)
        assert vmm is not None
        files = [path for path in Path(f"/proc/{vmm.pid}/fd").iterdir() if "twinhull-ram" in os.readlink(path)]
        assert files, "QEMU has the RAM's file open"
        for path in files:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            with pytest.raises(PermissionError):
                os.pwrite(descriptor, b"x", 0)
            os.close(descriptor)
        assert [_digest(one.loaded.memory) for one in known] == before


def _digest(descriptor: int) -> str:
    with open(memory.reader(descriptor), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def test_limits_and_the_jail_hold_for_clones(home: Home, erofs: Path) -> None:
    resources = replace(_SMALL, write_bps=1 << 20)
    async with started(home, launch(home, erofs, "/bin/sleep", "1000", resources=resources)) as instance:
        assert instance.restored
        vmm = process.recorded(instance.launch.paths.run)
        assert vmm is not None
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{vmm.pid}/status").read_text().splitlines())
        assert status["Uid"].split() == [str(instance.launch.id_base)] * 4
        assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "0" * 16, "1", "2")
        assert not (Path(f"/proc/{vmm.pid}/root") / "kernel").exists(), "what needn't be seen isn't"
        before = time.monotonic()
        await output_of(instance, "dd if=/dev/zero of=/root/f bs=1M count=4 conv=fsync 2>/dev/null")
        assert time.monotonic() - before > 2.0
        assert await output_of(instance, "nproc") == "1"
        outcome = await shell(instance, "x=0123456789; while :; do x=$x$x; done")
        assert outcome[0] == 137


async def test_a_clone_outlives_its_daemon(home: Home, erofs: Path) -> None:
    wanted = launch(home, erofs, "/bin/sh", "-c", "read x; echo got $x; exit 4", stdin=True)
    async with started(home, wanted) as first:
        assert first.restored
        await first._let_go()
        template.forget()  # the memory of the daemon that ended
        second = VmInstance(wanted, home)
        assert await second.adopt()
        await second.pause()
        await second.resume()
        assert await output_of(second, "echo hi") == "hi"
        session = await second.attach()
        reading = asyncio.create_task(collect(session))
        await session.send(b"it\n")
        assert await asyncio.wait_for(reading, 60) == (4, b"got it\n", b"")
        assert (await second.wait()).code == 4
        await second.delete()


# ---- what goes wrong


async def test_a_state_that_cannot_be_read_is_booted_around(home: Home, erofs: Path, fresh: None, caplog: pytest.LogCaptureFixture) -> None:
    wanted = launch(home, erofs, "/bin/echo", "alive", resources=_SMALL)
    async with started(home, wanted) as instance:
        assert instance.restored
    [one] = template._memory.templates.values()
    broken = memory.create("broken", os.fstat(one.loaded.state).st_size)
    os.pwrite(broken, os.pread(one.loaded.state, 2000, 0), 0)
    os.dup2(broken, one.loaded.state)
    os.close(broken)
    before = _counts()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            async with started(home, launch(home, erofs, "/bin/echo", "alive", number=number, resources=_SMALL)) as instance:
                assert not instance.restored
                assert (await asyncio.wait_for(instance.wait(), 60)).code == 0
    assert _since(before) == (0, 0, 0, 2), "after the second time it isn't tried any more"
    said = [record.getMessage() for record in caplog.records if "template" in record.getMessage()]
    assert len(said) == 1
    assert "booted instead" in said[0]
    assert "agent isn't there" in str(template.statistics()["last_failure"])
    assert Shelf(home.cache).keys() == []


async def test_a_clone_that_never_answers_is_booted(home: Home, erofs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stuck(*_: object) -> None:
        raise TemporaryError("no answer")

    async with started(home, launch(home, erofs, "/bin/true")):
        pass
    monkeypatch.setattr(migration, "restore", stuck)
    before = _counts()
    async with started(home, launch(home, erofs, "/bin/sleep", "1000")) as instance:
        assert not instance.restored
        assert await output_of(instance, "echo hi") == "hi"
    assert _since(before) == (0, 0, 0, 1)
    monkeypatch.undo()
    async with started(home, launch(home, erofs, "/bin/true")) as instance:
        assert instance.restored, "once is forgiven"


async def test_a_template_that_cannot_be_made_costs_one_try(home: Home, erofs: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        raise TemporaryError("the guest hangs")

    monkeypatch.setattr(template, "_greet", never)
    before = _counts()
    for number in range(2):
        async with started(home, launch(home, erofs, "/bin/true", number=number, resources=_SMALL)) as instance:
            assert not instance.restored
    assert _since(before) == (0, 0, 0, 1)
    assert list(home.run.glob("template-*")) == []


async def test_a_failure_that_is_not_the_templates_is_not_held_against_it(home: Home, tmp_path: Path, erofs: Path) -> None:
    async with started(home, launch(home, erofs, "/bin/true")):
        pass
    before = _counts()
    missing = HostMount("/data", tmp_path / "gone")
    async with started(home, launch(home, erofs, "/bin/true", mounts=(HostMount("/data", tmp_path),))):
        pass
    made = _since(before)
    for number in range(2):
        broken = VmInstance(launch(home, erofs, "/bin/true", number=number, mounts=(missing,)), home)
        with pytest.raises(Exception, match="gone"):
            await broken.create()
        await broken.delete(purge=True)
    assert _since(before) == made


@pytest.mark.parametrize("delay", [0.05, 0.4, 2.0])
async def test_a_start_that_is_cancelled_while_it_makes_one_leaves_nothing(home: Home, erofs: Path, fresh: None, delay: float) -> None:
    instance = VmInstance(launch(home, erofs, "/bin/true", resources=_SMALL), home)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay):
            await instance.create()
    await instance.delete(purge=True)
    assert list(home.run.glob("template-*")) == []
    assert _remains(home) == []


async def test_damage_on_disk_means_another_one(home: Home, erofs: Path, fresh: None) -> None:
    async with started(home, launch(home, erofs, "/bin/true", resources=_SMALL)):
        pass
    template.settle()
    [place] = Shelf(home.cache).folder.iterdir()
    os.truncate(place / "mem", 4096)
    template.forget()
    before = _counts()
    async with started(home, launch(home, erofs, "/bin/true", resources=_SMALL)) as instance:
        assert instance.restored
    assert _since(before) == (1, 0, 1, 0)


async def test_a_counter_of_another_speed_is_another_template(home: Home, erofs: Path, fresh: None) -> None:
    """As after a move of the host to another machine of the same model."""
    cpu = qemu.Cpu(qemu.Accelerator.TCG, 1, tsc.khz())
    wanted = shape.Shape(accelerator.binary(), qemu.ram(_SMALL.memory), cpu, 0, "")
    assert await template.prepare(home, wanted=wanted)
    template.settle()
    [place] = Shelf(home.cache).folder.iterdir()
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").unlink()
    (place / "manifest.json").write_text(json.dumps(manifest | {"tsc_khz": round(tsc.khz() * 1.001)}))
    template.forget()
    before = _counts()
    assert await template.prepare(home, wanted=wanted)
    assert _since(before) == (1, 0, 1, 0)


# ---- killed makers


_MAKER = """
import asyncio, sys
from pathlib import Path
from twinhull import home as homes
from twinhull.instance.vm import template
asyncio.run(template.prepare(homes.at(Path(sys.argv[1])), "tcg"))
template.settle()
print("done", flush=True)
"""


def _remains(home: Home) -> list[str]:
    """Command lines of processes that have this home in their arguments, but for this one's."""
    mark = os.fsencode(home.run)
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.name != str(os.getpid()) and mark in (entry / "cmdline").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.parametrize("delay", [0.4, 1.0, 2.5, 4.5])
async def test_a_maker_killed_at_any_moment_leaves_nothing_once_recovered(home: Home, delay: float) -> None:
    maker = subprocess.Popen([sys.executable, "-c", _MAKER, str(home.state.parent)], stdout=subprocess.PIPE)
    with contextlib.suppress(subprocess.TimeoutExpired):
        await asyncio.to_thread(maker.wait, delay)
    maker.send_signal(signal.SIGKILL)
    maker.communicate()
    await template.recover(home)
    assert _remains(home) == []
    assert list(home.run.glob("*")) == []
    shelf = Shelf(home.cache)
    assert [path.name for path in shelf.folder.glob(".new-*")] == []
    for key in Shelf(home.cache).keys():  # noqa: SIM118 (no mapping); whole, if it got so far
        loaded = shelf.take(key)
        assert loaded is not None
        os.close(loaded.memory)
        os.close(loaded.state)


async def test_recovery_leaves_a_maker_alone(home: Home, fresh: None) -> None:
    cpu = qemu.Cpu(qemu.Accelerator.TCG, 1, tsc.khz())
    wanted = shape.Shape(accelerator.binary(), qemu.ram(_SMALL.memory), cpu, 1, "")
    making = asyncio.create_task(template.prepare(home, wanted=wanted))
    while not _remains(home):  # noqa: ASYNC110 (processes have no event)
        await asyncio.sleep(0.01)
    await template.recover(home)
    assert await asyncio.wait_for(making, 120)


async def test_a_prepared_template_serves_the_first_start(home: Home, erofs: Path, fresh: None) -> None:
    assert await template.prepare(home)
    before = _counts()
    async with _clone(home, erofs, 1) as instance:
        assert instance.restored
    assert _since(before) == (0, 0, 1, 0)


async def test_start(home: Home, erofs: Path) -> None:
    """Not a benchmark: what is printed is for the eye; what is asserted holds on any machine."""
    spans: dict[bool, list[float]] = {True: [], False: []}
    async with started(home, launch(home, erofs, "/bin/true")):
        pass
    for number in range(5):
        for restored, values in spans.items():
            begin = time.monotonic()
            async with created(home, launch(home, erofs, "/bin/true", number=number), templates=restored) as instance:
                assert instance.restored is restored
                values.append(time.monotonic() - begin)
    print("\ncreated, restored / booted:", [[round(value, 2) for value in spans[kind]] for kind in (True, False)])
    assert sum(spans[True]) < sum(spans[False]) * 0.6
