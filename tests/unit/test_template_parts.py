"""Templates without a guest: what they are keyed by, the files they are kept in, and the monitor's commands."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import mmap
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from twinhull.errors import PermanentError
from twinhull.instance.vm import memory, migration, qemu, shape
from twinhull.instance.vm.qemu import Accelerator, Cpu
from twinhull.instance.vm.qmp import Monitor
from twinhull.instance.vm.shape import Shape
from twinhull.instance.vm.shelf import KEEP, Loaded, Manifest, Shelf
from twinhull.sys import trees

_SHAPE = Shape("/usr/bin/qemu", 256 << 20, Cpu(Accelerator.TCG, 2, 2_600_000), 1, "")
_KEYS = [f"{number:032x}" for number in range(1, 20)]


# ---- the key


@pytest.mark.parametrize(
    "changes",
    [
        {"binary": "/opt/qemu"},
        {"memory": 512 << 20},
        {"cpu": Cpu(Accelerator.TCG, 1, 2_600_000)},
        {"cpu": Cpu(Accelerator.KVM, 2)},
        {"nics": 0},
        {"nics": 2},
        {"volumes": "/volumes"},
    ],
)
def test_whatever_a_guest_sees_of_its_machine_is_another_template(changes: dict[str, object]) -> None:
    assert shape.key(replace(_SHAPE, **changes), "inputs") != shape.key(_SHAPE, "inputs")  # type: ignore[arg-type]


def test_other_inputs_are_another_template_but_another_measurement_is_not() -> None:
    assert shape.key(_SHAPE, "a") != shape.key(_SHAPE, "b")
    assert shape.key(replace(_SHAPE, cpu=replace(_SHAPE.cpu, tsc_khz=2_600_001)), "a") == shape.key(_SHAPE, "a")


def test_the_kernels_command_line_and_the_devices_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = shape.key(_SHAPE, "")
    with monkeypatch.context() as patch:
        patch.setattr(qemu, "kernel_arguments", lambda _: ("quiet",))
        assert shape.key(_SHAPE, "") != before
    with monkeypatch.context() as patch:
        patch.setattr(qemu, "_serial_and_entropy", lambda: ("-device", "another"))
        assert shape.key(_SHAPE, "") != before
    assert shape.key(_SHAPE, "") == before


# ---- memory files


@pytest.fixture
def file() -> Iterator[int]:
    """64 MiB with data at both ends of a hole."""
    descriptor = memory.create("test", 64 << 20)
    os.pwrite(descriptor, b"begin", 0)
    os.pwrite(descriptor, b"end", (64 << 20) - 3)
    yield descriptor
    os.close(descriptor)


def test_a_sealed_file_can_be_opened_for_writing_and_not_be_written(file: int) -> None:
    """As QEMU 7.2 opens it."""
    memory.seal(file)
    opened = os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC)
    try:
        for change in (
            lambda: os.pwrite(opened, b"x", 0),
            lambda: os.ftruncate(opened, 0),
            lambda: os.ftruncate(opened, 1 << 30),
            lambda: mmap.mmap(opened, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
            lambda: fcntl.fcntl(opened, 1033, 0),  # another seal
        ):
            with pytest.raises(OSError) as caught:
                change()
            assert caught.value.errno == errno.EPERM
        with mmap.mmap(opened, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as private:
            private[:5] = b"other"
        assert os.pread(file, 5, 0) == b"begin"
    finally:
        os.close(opened)


def test_a_file_that_is_mapped_for_writing_is_not_sealed(file: int) -> None:
    with mmap.mmap(file, 4096), pytest.raises(OSError) as caught:
        memory.seal(file)
    assert caught.value.errno == errno.EBUSY
    memory.seal(file)


def test_readers_have_positions_of_their_own(file: int) -> None:
    first, second = memory.reader(file), memory.reader(file)
    assert os.read(first, 5) == b"begin"
    assert os.read(second, 5) == b"begin"
    with pytest.raises(OSError):
        os.write(first, b"x")
    os.close(first)
    os.close(second)


def test_holes_stay_holes_on_the_way_to_disk_and_back(file: int, tmp_path: Path) -> None:
    memory.store(file, tmp_path / "mem")
    status = (tmp_path / "mem").stat()
    assert (status.st_size, status.st_mode & 0o777) == (64 << 20, 0o400)
    assert status.st_blocks * 512 < 1 << 20
    back = memory.load(tmp_path / "mem", "back")
    assert os.pread(back, 5, 0) == b"begin"
    assert os.pread(back, 3, (64 << 20) - 3) == b"end"
    assert os.fstat(back).st_blocks * 512 < 1 << 20
    with pytest.raises(OSError):
        os.pwrite(back, b"x", 0)
    os.close(back)
    with pytest.raises(FileExistsError):
        memory.store(file, tmp_path / "mem")


# ---- the shelf


@pytest.fixture
def made() -> Iterator[Loaded]:
    """A template of a few bytes."""
    ram, state = memory.create("ram", 8192), memory.create("state", 100)
    os.pwrite(ram, b"ram", 0)
    os.pwrite(state, b"state", 0)
    yield Loaded(Manifest("inputs", 2_600_000, 8192, 100), ram, state)
    os.close(ram)
    os.close(state)


def _put(shelf: Shelf, made: Loaded, key: str, used: float = 0.0) -> None:
    shelf.publish(shelf.draft(made), key)
    if used:
        os.utime(shelf.folder / key, (used, used))


def test_what_was_put_is_taken_sealed(tmp_path: Path, made: Loaded) -> None:
    shelf = Shelf(tmp_path)
    assert shelf.take(_KEYS[0]) is None
    _put(shelf, made, _KEYS[0])
    taken = shelf.take(_KEYS[0])
    assert taken is not None
    assert taken.manifest == made.manifest
    assert (os.pread(taken.memory, 3, 0), os.pread(taken.state, 5, 0)) == (b"ram", b"state")
    for descriptor in (taken.memory, taken.state):
        with pytest.raises(OSError):
            os.pwrite(descriptor, b"x", 0)
        os.close(descriptor)
    assert {path.stat().st_mode & 0o777 for path in (shelf.folder / _KEYS[0]).iterdir()} == {0o400}
    assert [path.name for path in shelf.folder.iterdir()] == [_KEYS[0]]


@pytest.mark.parametrize("damage", ["manifest.json", "mem", "state", "short", "nonsense"])
def test_what_is_not_whole_is_not_taken(tmp_path: Path, made: Loaded, damage: str) -> None:
    shelf = Shelf(tmp_path)
    _put(shelf, made, _KEYS[0])
    place = shelf.folder / _KEYS[0]
    if damage == "short":
        os.truncate(place / "mem", 4096)
    elif damage == "nonsense":
        (place / "manifest.json").unlink()
        (place / "manifest.json").write_text('{"inputs": 1}')
    else:
        (place / damage).unlink()
    before = _open_descriptors()
    assert shelf.take(_KEYS[0]) is None
    assert _open_descriptors() == before
    shelf.collect()
    assert list(shelf.folder.iterdir()) == []


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_least_used_go_and_so_do_other_inputs(tmp_path: Path, made: Loaded) -> None:
    shelf = Shelf(tmp_path)
    for number, key in enumerate(_KEYS[: KEEP + 3]):
        _put(shelf, made, key, used=1_000_000 + number)
    assert shelf.keys() == _KEYS[3 : KEEP + 3][::-1]
    taken = shelf.take(_KEYS[3])
    assert taken is not None
    os.close(taken.memory)
    os.close(taken.state)
    assert shelf.keys()[0] == _KEYS[3], "taking one is a use"
    shelf.collect("inputs")
    assert len(shelf.keys()) == KEEP
    shelf.collect("another kernel")
    assert shelf.keys() == []


def test_one_that_is_removed_is_gone_at_once(tmp_path: Path, made: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path)
    _put(shelf, made, _KEYS[0])

    def killed(_path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(trees, "remove", killed)
        shelf.remove(_KEYS[0])
    assert shelf.keys() == []
    shelf.remove(_KEYS[0])
    shelf.collect()
    assert list(shelf.folder.iterdir()) == []


def test_drafts_are_removed_when_their_writer_is_gone_only(tmp_path: Path, made: Loaded) -> None:
    shelf = Shelf(tmp_path)
    draft = shelf.draft(made)
    (shelf.folder / ".new-abandoned").mkdir()
    shelf.collect()
    assert [path.name.startswith(".new-") for path in shelf.folder.iterdir()] == [True]
    draft.discard()
    draft.discard()
    assert list(shelf.folder.iterdir()) == []


def test_the_first_of_two_makers_stays(tmp_path: Path, made: Loaded) -> None:
    shelf = Shelf(tmp_path)
    first, second = shelf.draft(made), shelf.draft(made)
    shelf.publish(first, _KEYS[0])
    number = (shelf.folder / _KEYS[0] / "mem").stat().st_ino
    shelf.publish(second, _KEYS[0])
    assert (shelf.folder / _KEYS[0] / "mem").stat().st_ino == number
    assert [path.name for path in shelf.folder.iterdir()] == [_KEYS[0]]


def test_a_full_disk_leaves_no_draft(tmp_path: Path, made: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(memory, "store", full)
    before = _open_descriptors()
    with pytest.raises(OSError, match="no space"):
        Shelf(tmp_path).draft(made)
    assert list(Shelf(tmp_path).folder.iterdir()) == []
    assert _open_descriptors() == before


# ---- the monitor


class _Qemu:
    """Takes commands and descriptors; `statuses`: what query-migrate says, one after the other."""

    def __init__(self, folder: Path, statuses: list[dict[str, object]]) -> None:
        self.path, self.statuses = folder / "qmp.sock", statuses
        self.asked: list[dict[str, object]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"QMP": {}}\n')
        while line := await reader.readline():
            message = json.loads(line)
            self.asked.append({"do": message["execute"]} | message["arguments"])
            value = self.statuses.pop(0) if message["execute"] == "query-migrate" else {}
            writer.write(json.dumps({"return": value, "id": message["id"]}).encode() + b"\n")
        writer.close()


async def _talk(qemu_: _Qemu, saving: bool, descriptor: int = 7) -> None:
    async with await asyncio.start_unix_server(qemu_.serve, qemu_.path):
        monitor = await Monitor.connect(qemu_.path)
        try:
            await (migration.save(monitor, descriptor) if saving else migration.restore(monitor, descriptor))
        finally:
            await monitor.close()


async def test_saving_waits_until_it_is_done(tmp_path: Path, file: int) -> None:
    fake = _Qemu(tmp_path, [{"status": "setup"}, {"status": "active"}, {"status": "completed"}])
    await _talk(fake, saving=True, descriptor=file)
    assert [asked["do"] for asked in fake.asked] == [
        "qmp_capabilities", "migrate-set-capabilities", "getfd", "migrate", "query-migrate", "query-migrate", "query-migrate",
    ]  # fmt: skip
    assert fake.asked[1]["capabilities"] == [{"capability": "x-ignore-shared", "state": True}]
    assert fake.asked[3]["uri"] == f"fd:{fake.asked[2]['fdname']}"


async def test_a_failed_save_says_why(tmp_path: Path, file: int) -> None:
    fake = _Qemu(tmp_path, [{"status": "failed", "error-desc": "the disk is mounted"}])
    with pytest.raises(PermanentError, match="save a guest: the disk is mounted"):
        await _talk(fake, saving=True, descriptor=file)


async def test_restoring_names_the_descriptor_by_number_and_tells_no_network(tmp_path: Path) -> None:
    fake = _Qemu(tmp_path, [])
    await _talk(fake, saving=False)
    assert fake.asked[2] == {"do": "migrate-set-parameters", "announce-rounds": 0}
    assert fake.asked[3] == {"do": "migrate-incoming", "uri": "fd:7"}


async def test_a_descriptor_travels_with_its_command(tmp_path: Path, file: int) -> None:
    def qemu_() -> tuple[dict[str, object], bytes]:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b'{"QMP": {}}\n')
            connection.sendall(b'{"return": {}, "id": %d}\n' % json.loads(connection.recv(4096))["id"])
            line, descriptors, _, _ = socket.recv_fds(connection, 4096, 4)
            asked = json.loads(line)
            connection.sendall(b'{"return": {}, "id": %d}\n' % asked["id"])
            [received] = descriptors
            with os.fdopen(received, "rb") as other:
                return asked, os.pread(other.fileno(), 5, 0)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "qmp.sock"))
        listener.listen()
        answering = asyncio.create_task(asyncio.to_thread(qemu_))
        monitor = await Monitor.connect(tmp_path / "qmp.sock")
        await monitor.execute("getfd", descriptor=file, fdname="state")
        asked, content = await answering
        await monitor.close()
    assert (asked["execute"], asked["arguments"], content) == ("getfd", {"fdname": "state"}, b"begin")
    assert os.pread(file, 5, 0) == b"begin", "the caller keeps its own"
