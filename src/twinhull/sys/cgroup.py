"""Control groups without a program: one `Cgroup` is the same path below every controller, on v1, hybrid and v2 hosts.

Invariant: nothing outside the given path is written, but for what its parents must delegate (v2 subtree_control, v1 cpuset).
On hybrid hosts the v1 controllers are used and the cgroup2 mount is left alone. Called by the instances and the daemon.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from twinhull.sys import namespaces, trees

_ROOT = Path("/sys/fs/cgroup")
_SHADOW = _ROOT / "unified"
"""On hybrid hosts a tmpfs in the daemon's view (namespaces.hide_unified_cgroup), in which crun leaves plain files."""
_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids", "freezer")
_V2_CONTROLLERS = ("cpu", "cpuset", "memory", "io", "pids")
PERIOD_US = 100_000
"""The period of CPU quotas, Docker's default."""
_UNLIMITED = 1 << 60
"""v1 shows "no limit" as the largest page-aligned number; anything above this is that."""


class Limits(Protocol):
    """What `spec.instance.Resources` has; 0 or "" is no limit."""

    @property
    def cpus(self) -> float: ...
    @property
    def cpu_shares(self) -> int: ...
    @property
    def cpuset(self) -> str: ...
    @property
    def memory(self) -> int: ...
    @property
    def memory_swap(self) -> int: ...
    @property
    def pids(self) -> int: ...
    @property
    def read_bps(self) -> int: ...
    @property
    def write_bps(self) -> int: ...
    @property
    def read_iops(self) -> int: ...
    @property
    def write_iops(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Usage:
    """Present use: nanoseconds and bytes. memory: without the page cache that can go at once, as Docker counts. memory_limit 0: none."""

    cpu_ns: int
    memory: int
    memory_limit: int
    pids: int
    block_read: int
    block_write: int


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where the controllers are. `unified`: the root of a pure v2 host, else None. `v1`: controller → its root.

    `others`: further v1 hierarchies, in which a runtime makes the same path (devices, name=systemd …), and which are cleaned as well.
    """

    unified: Path | None
    v1: dict[str, Path]
    others: tuple[Path, ...] = ()

    @property
    def version(self) -> int:
        """1 (also for hybrid hosts) or 2."""
        return 1 if self.unified is None else 2


@functools.cache
def hierarchy() -> Hierarchy:
    """The controllers of this machine, read once."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_hierarchy(file.read())


def parse_hierarchy(mountinfo: str) -> Hierarchy:
    """From the text of /proc/self/mountinfo. A cgroup2 mount counts only where no v1 controller is mounted."""
    v1: dict[str, Path] = {}
    unified: Path | None = None
    points: dict[Path, None] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2) if right.count(" ") >= 2 else ("", "", "")
        point = Path(left.split(" ")[4]) if left else _ROOT
        if kind == "cgroup2":
            unified = unified or point
        elif kind == "cgroup":
            v1 |= {name: point for name in options.split(",") if name in _CONTROLLERS and name not in v1}
            points[point] = None
    others = tuple(point for point in points if point not in v1.values())
    return Hierarchy(None if v1 else unified, v1, others)


def shares_to_weight(shares: int) -> int:
    """v1's cpu.shares (2…262144) as v2's cpu.weight (1…10000), as crun and runc convert it."""
    return 1 + (max(2, min(shares, 262144)) - 2) * 9999 // 262142


def swap_limit(limits: Limits) -> int:
    """Memory plus swap in bytes: Docker's --memory-swap, where 0 here means "no swap"; -1 is unlimited."""
    return limits.memory_swap if limits.memory_swap else limits.memory


def block_device(path: Path) -> tuple[int, int] | None:
    """(major, minor) of the whole disk below `path`, which is what throttling takes; None for tmpfs and the like."""
    device = os.stat(path).st_dev
    entry = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not entry.exists():
        return None
    disk = entry.resolve().parent if (entry / "partition").exists() else entry
    major, _, minor = (disk / "dev").read_text().strip().partition(":")
    return int(major), int(minor)


class Cgroup:
    """One control group. `path` is relative to each controller's root, e.g. "twinhull-1a2b3/0123456789ab"."""

    def __init__(self, path: str, where: Hierarchy | None = None) -> None:
        if not path or path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"cgroup path {path!r} isn't relative")
        self.path = path
        self._where = where or hierarchy()

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders of this group, one on v2."""
        if self._where.unified is not None:
            return (self._where.unified / self.path,)
        return tuple(dict.fromkeys(root / self.path for root in self._where.v1.values()))

    @property
    def exists(self) -> bool:
        """Whether any part of it is there."""
        return any(folder.exists() for folder in self.folders)

    def create(self, limits: Limits | None = None, disk: tuple[int, int] | None = None) -> None:
        """Make it (nothing happens if it is there) and set limits; `disk` is what the I/O limits count for."""
        if self._where.unified is not None:
            self._create_v2(self._where.unified)
        else:
            for folder in self.folders:
                folder.mkdir(parents=True, exist_ok=True)
            self._inherit_cpuset()
        if limits is not None:
            self.update(limits, disk)

    def add(self, pid: int) -> None:
        """Move a process (all its threads) into it."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def update(self, limits: Limits, disk: tuple[int, int] | None = None) -> None:
        """Set the limits; 0 lifts one. Raises OSError (EBUSY: memory below what is in use and can't be reclaimed)."""
        writes = self._v2_writes(limits, disk) if self._where.unified else self._v1_writes(limits, disk)
        for controller, name, value in writes:
            self._set(controller, name, value)
        if self._where.unified is None:
            self._set_memory_v1(limits)

    def pids(self) -> list[int]:
        """Host pids of all processes in it and below it."""
        found: set[int] = set()
        for base, _, names in os.walk(self._main()):
            if "cgroup.procs" in names:
                with contextlib.suppress(OSError):
                    found |= {int(word) for word in Path(base, "cgroup.procs").read_text().split()}
        return sorted(found)

    def usage(self) -> Usage:
        """Present use. Raises FileNotFoundError when the group is gone."""
        return self._usage_v2() if self._where.unified else self._usage_v1()

    def oom_kills(self) -> int:
        """How often the kernel killed something in it for lack of memory; 0 when that can't be told."""
        name = "memory.events" if self._where.unified else "memory.oom_control"
        with contextlib.suppress(OSError):
            return _keyed(self._read("memory", name)).get("oom_kill", 0)
        return 0

    def freeze(self) -> None:
        """Ask for all processes to stop; `frozen` tells when they have."""
        if self._where.unified is not None:
            self._set("", "cgroup.freeze", "1")
        else:
            self._set("freezer", "freezer.state", "FROZEN")

    def thaw(self) -> None:
        """Let them run again."""
        if self._where.unified is not None:
            self._set("", "cgroup.freeze", "0")
        else:
            self._set("freezer", "freezer.state", "THAWED")

    def frozen(self) -> bool:
        """Whether all processes stand still."""
        if self._where.unified is not None:
            return _keyed(self._read("", "cgroup.events")).get("frozen", 0) == 1
        return self._read("freezer", "freezer.state").strip() == "FROZEN"

    def kill(self) -> bool:
        """KILL everything in it, also what is frozen. True: it was empty already. Call again until it is."""
        pids = self.pids()
        if not pids:
            return True
        if not self._kill_v2():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self.thaw()
        return False

    def remove_if_empty(self) -> None:
        """Remove it unless something is in it or below it."""
        for folder in (*self.folders, *(root / self.path for root in self._where.others)):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def remove(self, patience: float = 1.0) -> None:
        """Remove it and what is below; blocks up to `patience` seconds while the last process goes. Nothing happens if it isn't there."""
        deadline = time.monotonic() + patience
        for folder in (*self.folders, *(root / self.path for root in self._where.others)):
            while not _remove_folders(folder):
                if time.monotonic() > deadline:
                    raise OSError(errno.EBUSY, f"cgroup still has processes: {self.pids()}", str(folder))
                self.kill()
                time.sleep(0.002)
        if self._where.unified is None and namespaces.has_own_mounts():
            trees.remove(_SHADOW / self.path)

    def _create_v2(self, root: Path) -> None:
        (root / self.path).mkdir(parents=True, exist_ok=True)
        parent = root
        for part in self.path.split("/"):
            _delegate(parent)
            parent /= part

    def _inherit_cpuset(self) -> None:
        root = self._where.v1.get("cpuset")
        if root is None:
            return
        parent = root
        for part in self.path.split("/"):
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not (parent / part / name).read_text().strip():
                    (parent / part / name).write_text((parent / name).read_text())
            parent /= part

    def _v2_writes(self, limits: Limits, disk: tuple[int, int] | None) -> list[tuple[str, str, str]]:
        quota = str(int(limits.cpus * PERIOD_US)) if limits.cpus else "max"
        swap = swap_limit(limits)
        swap_max = "max" if swap < 0 or not limits.memory else str(max(0, swap - limits.memory))
        writes = [
            ("cpu", "cpu.max", f"{quota} {PERIOD_US}"),
            ("cpu", "cpu.weight", str(shares_to_weight(limits.cpu_shares) if limits.cpu_shares else 100)),
            ("memory", "memory.max", str(limits.memory or "max")),
            ("memory", "memory.swap.max", swap_max),
            ("pids", "pids.max", str(limits.pids or "max")),
        ]
        if limits.cpuset:
            writes.append(("cpuset", "cpuset.cpus", limits.cpuset))
        if disk is not None:
            writes.append(("io", "io.max", _io_max(limits, disk)))
        return writes

    def _v1_writes(self, limits: Limits, disk: tuple[int, int] | None) -> list[tuple[str, str, str]]:
        writes = [
            ("cpu", "cpu.cfs_period_us", str(PERIOD_US)),
            ("cpu", "cpu.cfs_quota_us", str(int(limits.cpus * PERIOD_US)) if limits.cpus else "-1"),
            ("cpu", "cpu.shares", str(limits.cpu_shares or 1024)),
            ("pids", "pids.max", str(limits.pids or "max")),
        ]
        if limits.cpuset:
            writes.append(("cpuset", "cpuset.cpus", limits.cpuset))
        if disk is not None:
            number = f"{disk[0]}:{disk[1]}"
            writes += [("blkio", f"blkio.throttle.{name}_device", f"{number} {value}") for name, value in _throttles(limits)]
        return writes

    def _set_memory_v1(self, limits: Limits) -> None:
        """memory ≤ memory+swap must hold at every step, so the order depends on the direction."""
        memory, swap = limits.memory or -1, swap_limit(limits) if limits.memory else -1
        steps = [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", swap)]
        if not (self._folder("memory") / "memory.memsw.limit_in_bytes").exists():
            steps = steps[:1]
        elif memory < 0 or memory > int(self._read("memory", "memory.memsw.limit_in_bytes")):
            steps.reverse()
        for name, value in steps:
            self._set("memory", name, str(value))

    def _usage_v1(self) -> Usage:
        current = int(self._read("memory", "memory.usage_in_bytes"))
        cache = _keyed(self._read("memory", "memory.stat")).get("total_inactive_file", 0)
        limit = int(self._read("memory", "memory.limit_in_bytes"))
        read, write = _io_service(self._read("blkio", "blkio.throttle.io_service_bytes"))
        cpu = int(self._read("cpuacct", "cpuacct.usage"))
        return Usage(cpu, max(0, current - cache), limit if limit < _UNLIMITED else 0, self._pids_current(), read, write)

    def _usage_v2(self) -> Usage:
        current = int(self._read("", "memory.current"))
        cache = _keyed(self._read("", "memory.stat")).get("inactive_file", 0)
        limit = self._read("", "memory.max").strip()
        read, write = _io_stat(self._read_or("io.stat"))
        cpu = _keyed(self._read("", "cpu.stat")).get("usage_usec", 0) * 1000
        return Usage(cpu, max(0, current - cache), 0 if limit == "max" else int(limit), self._pids_current(), read, write)

    def _pids_current(self) -> int:
        return int(self._read("pids", "pids.current"))

    def _kill_v2(self) -> bool:
        if self._where.unified is None:
            return False
        with contextlib.suppress(OSError):
            self._set("", "cgroup.kill", "1")
            return True
        return False

    def _main(self) -> Path:
        """The folder whose cgroup.procs is asked."""
        return self._folder("pids" if "pids" in self._where.v1 else next(iter(self._where.v1), ""))

    def _folder(self, controller: str) -> Path:
        if self._where.unified is not None:
            return self._where.unified / self.path
        root = self._where.v1.get(controller)
        return (root or _ROOT / controller) / self.path

    def _read(self, controller: str, name: str) -> str:
        return (self._folder(controller) / name).read_text()

    def _read_or(self, name: str) -> str:
        try:
            return self._read("", name)
        except FileNotFoundError:
            return ""

    def _set(self, controller: str, name: str, value: str) -> None:
        """Write without creating. A limit's lifting is no error where the kernel lacks the file."""
        path = self._folder(controller) / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        except FileNotFoundError:
            if path.parent.exists() and value.split(" ", maxsplit=1)[0] in ("max", "-1", "0", "100", "1024", str(PERIOD_US)):
                return
            raise
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)


def _delegate(folder: Path) -> None:
    """Enable for the children of a v2 group what it has and can give."""
    available = set((folder / "cgroup.controllers").read_text().split())
    for name in _V2_CONTROLLERS:
        if name in available:
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text(f"+{name}")


def _throttles(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("read_bps", limits.read_bps),
        ("write_bps", limits.write_bps),
        ("read_iops", limits.read_iops),
        ("write_iops", limits.write_iops),
    ]


def _io_max(limits: Limits, disk: tuple[int, int]) -> str:
    names = {"read_bps": "rbps", "write_bps": "wbps", "read_iops": "riops", "write_iops": "wiops"}
    words = [f"{names[name]}={value or 'max'}" for name, value in _throttles(limits)]
    return f"{disk[0]}:{disk[1]} {' '.join(words)}"


def _keyed(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _io_service(text: str) -> tuple[int, int]:
    """blkio.throttle.io_service_bytes: lines "8:0 Read 4096"."""
    total = {"Read": 0, "Write": 0}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in total:
            total[words[1]] += int(words[2])
    return total["Read"], total["Write"]


def _io_stat(text: str) -> tuple[int, int]:
    """io.stat: lines "8:0 rbytes=1 wbytes=2 …"."""
    total = {"rbytes": 0, "wbytes": 0}
    for word in text.split():
        key, _, value = word.partition("=")
        if key in total:
            total[key] += int(value)
    return total["rbytes"], total["wbytes"]


def _remove_folders(folder: Path) -> bool:
    """Remove a group bottom-up; False while something in it is busy."""
    for base, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(base)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            raise
    return True
