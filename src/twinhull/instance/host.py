"""The facts of this machine that go into an OCI configuration."""

from __future__ import annotations

import functools
import os
import platform
import resource
import stat
from pathlib import Path

from twinhull.instance.oci import Device, Host
from twinhull.sys import cgroup

_OWN_DEVICES = frozenset({"/dev/ptmx", "/dev/console", "/dev/tty"})
_OWN_FOLDERS = frozenset({"pts", "shm", "mqueue", "hugepages", ".udev", "fd"})


def facts(state: Path, *, devices: bool = False) -> Host:
    """`state`: a folder on the disk that I/O limits count for. `devices`: list the host's, for privileged instances."""
    found = _fixed()
    return Host(
        hard_limits=_hard_limits(),
        capabilities=found.capabilities,
        swap_accounting=found.swap_accounting,
        disk=cgroup.block_device(state) if state.exists() else None,
        machine=found.machine,
        devices=tuple(_devices("/dev")) if devices else (),
    )


@functools.cache
def _fixed() -> Host:
    return Host(capabilities=_bounding_set(), swap_accounting=_swap_accounting(), machine=platform.machine())


def _hard_limits() -> dict[str, int]:
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    limits = {name[7:].lower(): resource.getrlimit(getattr(resource, name))[1] for name in names}
    return {name: -1 if value == resource.RLIM_INFINITY else value for name, value in limits.items()}


def _bounding_set() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    return 0


def _swap_accounting() -> bool:
    where = cgroup.hierarchy()
    if where.unified is not None:
        return any(Path(entry).joinpath("memory.swap.max").exists() for entry in where.unified.iterdir() if entry.is_dir())
    root = where.v1.get("memory")
    return root is not None and (root / "memory.memsw.limit_in_bytes").exists()


def _devices(folder: str) -> list[Device]:
    found = []
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            found += _devices(entry.path) if entry.name not in _OWN_FOLDERS else []
            continue
        status = entry.stat(follow_symlinks=False)
        kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(status.st_mode))
        if kind and entry.path not in _OWN_DEVICES:
            number = status.st_rdev
            mode = stat.S_IMODE(status.st_mode)
            found.append(Device(entry.path, kind, os.major(number), os.minor(number), mode, status.st_uid, status.st_gid))
    return found


def reclaim_null() -> None:
    """Give /dev/null back to root.

    crun 1.8 gives its standard streams to the instance's root (fchown), and without -i conmon makes stdin /dev/null: the host's own.
    Called when the runtime has set the instance up and none of its code has run, so that nobody can use what was given.
    """
    found = os.stat(os.devnull)
    if (found.st_uid, found.st_gid) != (0, 0):
        os.chown(os.devnull, 0, 0)
