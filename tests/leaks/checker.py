"""Snapshot of everything that belongs to a home, and the difference of two."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.leaks import namespaces
from tests.leaks.marks import Marks, link, pids, read

from twinhull.home import Home


@dataclass(frozen=True, order=True, slots=True)
class Leak:
    """One thing. Two are the same if `kind` and `name` are; `detail` is for people."""

    kind: str
    name: str
    detail: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" ({self.detail})" if self.detail else "")


class LeakError(AssertionError):
    """Something was left behind."""


def snapshot(home: Home) -> frozenset[Leak]:
    """All that belongs to the home now. Reads only; safe while the daemon works."""
    marks = Marks.of(home)
    found: set[Leak] = set()
    for probe in _PROBES:
        found.update(probe(marks))
    found.update(_files(home))
    return frozenset(found)


def difference(before: Iterable[Leak], after: Iterable[Leak]) -> list[Leak]:
    """What is new in `after`, sorted."""
    return sorted(set(after) - set(before))


def assert_clean(
    home: Home,
    before: Iterable[Leak] = (),
    *,
    timeout: float = 10.0,
    ignore: Callable[[Leak], bool] = lambda _: False,
) -> None:
    """Wait until nothing is there that wasn't `before`. Raises LeakError naming what still is after `timeout` seconds."""
    known = set(before)
    deadline = time.monotonic() + timeout
    while left := [leak for leak in difference(known, snapshot(home)) if not ignore(leak)]:
        if time.monotonic() > deadline:
            raise LeakError(f"left behind after {timeout:g} s:\n" + "\n".join(f"  {leak}" for leak in left))
        time.sleep(0.1)


def _processes(marks: Marks) -> Iterator[Leak]:
    for pid in pids():
        if why := _why_ours(marks, pid):
            words = read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode("utf-8", "replace").strip()
            name = read(f"/proc/{pid}/comm").decode("utf-8", "replace").strip()
            yield Leak("process", f"{pid} {name}", f"{why}: {words[:160]}")


def _why_ours(marks: Marks, pid: int) -> str:
    """By which mark a process is ours; "" if it isn't."""
    if marks.in_bytes(read(f"/proc/{pid}/cgroup")):
        return "its cgroup"
    if marks.in_bytes(read(f"/proc/{pid}/cmdline")):
        return "its arguments"
    if marks.in_bytes(read(f"/proc/{pid}/environ")):
        return "its environment"
    targets = (link(f"/proc/{pid}/{name}") for name in ("cwd", "root", "exe"))
    if any(marks.owns_path(os.fsencode(target)) for target in targets):
        return "its folders"
    return "an open file" if any(marks.owns_path(target) for target in _open_files(pid)) else ""


def _open_files(pid: int) -> Iterator[bytes]:
    folder = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)
    except OSError:
        return
    for number in numbers:
        yield os.fsencode(link(f"{folder}/{number}")).removesuffix(b" (deleted)")


def _mounts(marks: Marks) -> Iterator[Leak]:
    """Of every mount namespace that a process is in; one seen in several is one leak."""
    where: dict[bytes, list[str]] = {}
    seen: set[str] = set()
    for pid in [*pids(), os.getpid()]:
        space = link(f"/proc/{pid}/ns/mnt")
        if space in seen or not space:
            continue
        seen.add(space)
        for point in _ours_of_mountinfo(marks, read(f"/proc/{pid}/mountinfo")):
            where.setdefault(point, []).append(f"{space} of pid {pid}")
    for point, spaces in where.items():
        yield Leak("mount", os.fsdecode(point), "in " + ", ".join(spaces[:3]) + (f" and {len(spaces) - 3} more" if len(spaces) > 3 else ""))


def _ours_of_mountinfo(marks: Marks, data: bytes) -> set[bytes]:
    """Mount points under the home, and those elsewhere whose source or lower folders are the home's."""
    found = set()
    for line in data.splitlines():
        head, _, tail = line.partition(b" - ")
        point = _unescape(head.split(b" ")[4])
        if marks.owns_path(point) or marks.in_bytes(_unescape(tail)):
            found.add(point)
    return found


def _unescape(text: bytes) -> bytes:
    return re.sub(rb"\\(\d{3})", lambda match: bytes([int(match[1], 8)]), text)


def _network(marks: Marks) -> Iterator[Leak]:
    own = link("/proc/self/ns/net")
    ours = {pid for pid in pids() if _why_ours(marks, pid)}
    for name, space in namespaces.network_namespaces().items():
        inside = [interface for interface in namespaces.interfaces(space) if interface.startswith(marks.prefix)]
        yield from (Leak("interface", interface, f"in {name}") for interface in inside)
        yield from (Leak("nftables table", table, f"in {name}") for table in namespaces.tables(space) if table == marks.table)
        sockets = (path for path in namespaces.socket_paths(space) if marks.owns_path(path.rstrip(b"\0")))
        yield from (Leak("socket", os.fsdecode(path), f"in {name}") for path in sockets)
        pinned = [point for point in space.mounts if marks.owns_path(point)]
        if name != own and (pinned or (space.holders and space.holders <= ours)):
            yield Leak("network namespace", name, _held(pinned, space.holders))


def _held(pinned: list[bytes], holders: set[int]) -> str:
    parts = [f"mounted on {os.fsdecode(point)}" for point in sorted(pinned)]
    return ", ".join([*parts, *(f"held by pid {pid}" for pid in sorted(holders)[:4])])


def _cgroups(marks: Marks) -> Iterator[Leak]:
    roots = {line.split()[1] for line in read("/proc/self/mounts").splitlines() if line.split()[2] in (b"cgroup", b"cgroup2")}
    for root in sorted(os.fsdecode(root) for root in roots):
        top = Path(root) / marks.cgroup
        for folder, _, _ in os.walk(top):
            pids_inside = read(Path(folder) / "cgroup.procs").split()
            yield Leak("cgroup", folder, f"{len(pids_inside)} processes")


def _loops(marks: Marks) -> Iterator[Leak]:
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        backing = read(file).strip()
        if marks.owns_path(backing.removesuffix(b" (deleted)")):
            yield Leak("loop device", file.parts[3], f"on {os.fsdecode(backing)}")


def _files(home: Home) -> Iterator[Leak]:
    """What instances keep, and what says that something runs: sockets and pid files. Plain files in the run folder do no harm."""
    for folder in (home.run / "i", home.state / "instances"):
        if folder.is_dir():
            yield from (Leak("file", str(path)) for path in folder.iterdir())
    if home.run.is_dir():
        yield from (Leak("file", str(path)) for path in home.run.iterdir() if path.is_socket() or path.suffix == ".pid")


_PROBES: tuple[Callable[[Marks], Iterator[Leak]], ...] = (_processes, _mounts, _network, _cgroups, _loops)
