"""Control groups on made-up hierarchies: what is written where, on v1 and v2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from twinhull.spec.instance import Resources
from twinhull.sys import cgroup
from twinhull.sys.cgroup import Cgroup, Hierarchy, Usage, parse_hierarchy, shares_to_weight

V2 = "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
JOINED = """\
31 1 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 1 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 1 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 1 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""


def test_hierarchies_are_told_apart() -> None:
    assert parse_hierarchy(V2) == Hierarchy(Path("/sys/fs/cgroup"), {})
    found = parse_hierarchy(JOINED)
    assert found.version == 1
    assert found.v1 == {
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "memory": Path("/sys/fs/cgroup/memory"),
    }
    assert found.others == (Path("/sys/fs/cgroup/systemd"),)
    assert Cgroup("a/b", found).folders == (Path("/sys/fs/cgroup/cpu,cpuacct/a/b"), Path("/sys/fs/cgroup/memory/a/b"))


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../../b"])
def test_paths_stay_below_the_roots(path: str) -> None:
    with pytest.raises(ValueError, match="isn't relative"):
        Cgroup(path, Hierarchy(Path("/x"), {}))


def test_shares_become_weights_as_in_the_runtimes() -> None:
    assert [shares_to_weight(shares) for shares in (2, 1024, 262144, 1, 10**9)] == [1, 39, 10000, 1, 10000]


@dataclass
class Made:
    group: Cgroup
    folder: Path

    def put(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name.replace("__", ".")).write_text(text)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture
def v2(tmp_path: Path) -> Made:
    folder = tmp_path / "home" / "id"
    folder.mkdir(parents=True)
    for base in (tmp_path, tmp_path / "home"):
        (base / "cgroup.controllers").write_text("cpu io memory pids\n")
        (base / "cgroup.subtree_control").write_text("")
    made = Made(Cgroup("home/id", Hierarchy(tmp_path, {})), folder)
    for name in ("cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "pids.max", "io.max", "cpuset.cpus", "cgroup.freeze"):
        (folder / name).write_text("")
    return made


def test_v2_limits(v2: Made) -> None:
    limits = Resources(cpus=1.5, cpu_shares=512, memory=64 << 20, memory_swap=96 << 20, pids=9, read_bps=1000, write_iops=5, cpuset="0-1")
    v2.group.update(limits, (8, 16))
    assert v2.read("cpu.max") == "150000 100000"
    assert v2.read("cpu.weight") == "20"
    assert (v2.read("memory.max"), v2.read("memory.swap.max")) == (str(64 << 20), str(32 << 20))
    assert v2.read("pids.max") == "9"
    assert v2.read("io.max") == "8:16 rbps=1000 wbps=max riops=max wiops=5"
    assert v2.read("cpuset.cpus") == "0-1"


def test_v2_no_limits_and_no_swap(v2: Made) -> None:
    v2.group.update(Resources(memory=1 << 20))
    assert v2.read("memory.swap.max") == "0"
    v2.put(cpu__max="", memory__max="", memory__swap__max="", pids__max="")
    v2.group.update(Resources())
    assert [v2.read(name) for name in ("cpu.max", "memory.max", "memory.swap.max", "pids.max")] == ["max 100000", "max", "max", "max"]


def test_v2_delegates_what_is_there(v2: Made, tmp_path: Path) -> None:
    v2.group.create()
    assert (
        tmp_path / "cgroup.subtree_control"
    ).read_text() == "+pids"  # the last of one write each; cpuset isn't available and isn't asked for
    assert not (v2.folder / "cgroup.subtree_control").exists()


def test_v2_usage(v2: Made) -> None:
    v2.put(
        memory__current="5000",
        memory__stat="anon 1\ninactive_file 1000\n",
        memory__max="max\n",
        io__stat="8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
        cpu__stat="usage_usec 7\nuser_usec 3\n",
        pids__current="4",
        memory__events="low 0\noom 3\noom_kill 2\n",
        cgroup__events="populated 1\nfrozen 1\n",
    )
    assert v2.group.usage() == Usage(7000, 4000, 0, 4, 11, 22)
    assert v2.group.oom_kills() == 2
    assert v2.group.frozen()
    v2.group.freeze()
    assert v2.read("cgroup.freeze") == "1"


@pytest.fixture
def v1(tmp_path: Path) -> Made:
    folder = tmp_path / "all" / "id"
    folder.mkdir(parents=True)
    names = dict.fromkeys(("cpu", "cpuacct", "memory", "pids", "blkio", "freezer"), tmp_path / "all")
    made = Made(Cgroup("id", Hierarchy(None, names)), folder)
    for name in ("cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares", "pids.max", "memory.limit_in_bytes"):
        (folder / name).write_text("")
    (folder / "memory.memsw.limit_in_bytes").write_text(str(1 << 20))
    return made


def test_v1_limits(v1: Made) -> None:
    v1.group.update(Resources(cpus=0.5, memory=1 << 30, pids=3))
    assert (v1.read("cpu.cfs_quota_us"), v1.read("cpu.cfs_period_us"), v1.read("cpu.shares")) == ("50000", "100000", "1024")
    assert v1.read("memory.limit_in_bytes") == v1.read("memory.memsw.limit_in_bytes") == str(1 << 30)
    v1.group.update(Resources())
    assert (v1.read("cpu.cfs_quota_us"), v1.read("memory.limit_in_bytes"), v1.read("pids.max")) == ("-1", "-1", "max")


def test_v1_memory_is_raised_and_lowered_in_the_order_the_kernel_takes(v1: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    write = Cgroup._set

    def recording(self: Cgroup, controller: str, name: str, value: str) -> None:
        order.append(name)
        write(self, controller, name, value)

    monkeypatch.setattr(Cgroup, "_set", recording)
    for memory, first in ((2 << 20, "memory.memsw.limit_in_bytes"), (1 << 20, "memory.limit_in_bytes")):
        order.clear()
        v1.group.update(Resources(memory=memory))
        assert next(name for name in order if name.startswith("memory")) == first


def test_v1_usage(v1: Made) -> None:
    v1.put(
        memory__usage_in_bytes="5000",
        memory__stat="total_inactive_file 1000\n",
        memory__limit_in_bytes=str(2**63 - 4096),
        cpuacct__usage="77",
        pids__current="4",
        blkio__throttle__io_service_bytes="8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    )
    assert v1.group.usage() == Usage(77, 4000, 0, 4, 10, 20)
    assert v1.group.oom_kills() == 1


def test_a_limit_that_the_kernel_can_not_set_is_an_error(v1: Made) -> None:
    (v1.folder / "pids.max").unlink()
    v1.group.update(Resources())
    with pytest.raises(FileNotFoundError):
        v1.group.update(Resources(pids=3))


def test_the_throttled_disk_is_the_whole_one() -> None:
    assert cgroup.block_device(Path("/proc")) is None
