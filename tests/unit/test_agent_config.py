"""From a Launch to the records of CONFIG: whole byte strings, and what is refused."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twinhull.errors import UserError
from twinhull.instance.base import HostMount, InjectedFile, Interface, Launch, Paths, Process, Root
from twinhull.instance.vm.guest import ALL_CAPABILITIES, encode_config, encode_process, encode_resources, guest_config, terminal_size
from twinhull.spec.instance import Resources, Security, Ulimit

Records = list[tuple[int, bytes]]


def launch(**changes: Any) -> Launch:
    base = Launch(
        id="a" * 64,
        name="web",
        paths=Paths(Path("/s"), Path("/r")),
        root=Root("image", erofs=Path("/e")),
        process=Process(("sh", "-c", "echo hi"), ("A=1", "B="), cwd="/w", user="web:extra", tty=True, stdin=True, rows=30, cols=100),
        hostname="web",
        mounts=(),
        files=(),
        interfaces=(),
        resources=Resources(),
        security=Security(),
        ulimits=(),
        sysctls={},
        shm_size=65536,
        init=True,
        id_base=100_000,
        cgroup="x",
        log_max_size=1,
        log_max_files=1,
    )
    return replace(base, **changes)


def records(data: bytes) -> Records:
    found = []
    while data:
        tag, size = struct.unpack_from("<HI", data)
        found.append((tag, data[6 : 6 + size]))
        data = data[6 + size :]
    return found


def encoded(wanted: Launch, volumes: dict[str, int] | None = None, **options: Any) -> Records:
    return records(encode_config(guest_config(wanted, volumes=volumes or {}, seccomp=options.pop("seccomp", b""), caps=0xFF, **options)))


def of(found: Records, tag: int) -> list[bytes]:
    return [value for number, value in found if number == tag]


def test_a_plain_launch_in_full() -> None:
    assert encoded(launch(), seccomp=b"12345678") == [
        (1, b"sh"),
        (1, b"-c"),
        (1, b"echo hi"),
        (2, b"A=1"),
        (2, b"B="),
        (3, b"/w"),
        (4, b"web:extra"),
        (5, bytes.fromhex("23000000")),
        (6, bytes.fromhex("1e006400")),
        (16, b"web"),
        (17, bytes.fromhex("04000000")),
        (18, bytes.fromhex("ff00000000000000")),
        (20, b"net.ipv4.ping_group_range=0 2147483647"),
        (20, b"net.ipv4.ip_unprivileged_port_start=0"),
        (21, b"12345678"),
        (22, bytes(24) + bytes.fromhex("a0860100")),
        (28, bytes.fromhex("0000010000000000")),
    ]


def test_mounts_outer_before_inner_then_files() -> None:
    mounts = (
        HostMount("/a/b/c", Path("/x"), read_only=True),
        HostMount("/a", Path("/y")),
        HostMount("/a/b/", None, tmpfs_size=4096, tmpfs_mode=0o755),
    )
    files = (InjectedFile("/a/f", b"\0x", mode=0o400, uid=1, gid=2, secret=True, read_only=True),)
    found = [item for item in encoded(launch(mounts=mounts, files=files), {"/a": 0, "/a/b/c": 1}) if item[0] in (23, 24, 25)]
    assert found == [
        (25, bytes.fromhex("0000000000000000") + b"/a"),
        (24, bytes.fromhex("0010000000000000ed010000") + b"/a/b/"),
        (25, bytes.fromhex("0100000001000000") + b"/a/b/c"),
        (23, bytes.fromhex("0001000001000000020000000300000004002f612f66") + b"\0x"),
    ]


def test_interfaces() -> None:
    interface = Interface("eth0", "02:00:0a:0b:0c:0d", "10.0.0.5/32", "10.0.0.1", 1450, True, "fd00::5", "fd00::1", ("10.1.0.0/16",))
    assert of(encoded(launch(interfaces=(interface,))), 27) == [
        bytes.fromhex("02000a0b0c0d01aa050000") + b"eth0\x0010.0.0.5\x0010.0.0.1\x00fd00::5\x00fd00::1\x0010.1.0.0/16\0"
    ]


def test_limits() -> None:
    found = encoded(launch(ulimits=(Ulimit("nofile", 1024, -1), Ulimit("core", 0, 0)), sysctls={"kernel.shmmax": "1"}))
    assert of(found, 19) == [bytes.fromhex("070000000004000000000000ffffffffffffffff"), bytes.fromhex("04000000") + bytes(16)]
    assert of(found, 20)[-1] == b"kernel.shmmax=1"
    assert of(encoded(launch(sysctls={"net.ipv4.ping_group_range": "1 0"})), 20)[0] == b"net.ipv4.ping_group_range=1 0"


def test_resources() -> None:
    (value,) = [value for _, value in records(encode_resources(Resources(cpus=1.5, cpu_shares=1024, memory=1 << 30, pids=100)))]
    assert struct.unpack("<QQIII", value) == (1 << 30, 100, 39, 150_000, 100_000)
    weights = [
        struct.unpack("<QQIII", records(encode_resources(Resources(cpu_shares=shares)))[0][1])[2] for shares in (1, 2, 262_144, 10**9)
    ]
    assert weights == [1, 1, 10_000, 10_000]
    assert struct.unpack("<QQIII", records(encode_resources(Resources(pids=-1)))[0][1])[1] == 0


def test_privileged_lifts_everything() -> None:
    found = encoded(launch(security=Security(privileged=True, read_only=True)), seccomp=b"12345678")
    assert of(found, 17) == [bytes.fromhex("03000000")]
    assert of(found, 18) == [struct.pack("<Q", ALL_CAPABILITIES)]
    assert of(found, 21) == [b""]


def test_volume_options() -> None:
    assert of(encoded(launch(), volume_options="trans=virtio,cache=none"), 26) == [b"trans=virtio,cache=none"]


def test_flags_of_execs() -> None:
    process = Process(("x",), (), privileged=True)
    flags = [
        of(records(encode_process(process, tool=tool, host_side=outside)), 5)[0][0] for tool in (False, True) for outside in (False, True)
    ]
    assert flags == [16, 24, 20, 28]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process": Process((), ())}, "no command"),
        ({"process": Process(("",), ())}, "no command"),
        ({"process": Process(("a\0b",), ())}, "NUL"),
        ({"process": Process(("a",), (), rows=70_000)}, "terminal size 70000 × 80"),
        ({"process": Process(("a",), (), cols=-1)}, "terminal size"),
        ({"ulimits": (Ulimit("files", 1, 1),)}, "ulimit files: unknown"),
        ({"ulimits": (Ulimit("nofile", 2, 1),)}, "soft limit 2 is above"),
        ({"files": (InjectedFile("/x", bytes(2 << 20)),)}, "file /x: 2097152 bytes"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        encoded(launch(**changes))


def test_surrogates_are_the_bytes_they_stand_for() -> None:
    assert of(records(encode_process(Process(("a\udcff",), ()))), 1) == [b"a\xff"]
    assert terminal_size(0, 65_535) == b"\0\0\xff\xff"
