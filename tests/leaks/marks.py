"""By what marks a thing is known to belong to a home: its folders, its tag, its cgroup."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from twinhull.home import Home


@dataclass(frozen=True, slots=True)
class Marks:
    """`folders`: absolute paths without a trailing slash; `prefix`: how interface names begin; `cgroup`, `table`: exact names."""

    folders: tuple[bytes, ...]
    prefix: str
    cgroup: str
    table: str

    @classmethod
    def of(cls, home: Home) -> Marks:
        """A home in one folder is known by that folder; the system's by each of its own."""
        folders = [home.state.parent] if home.images is not None else [home.state, home.run, home.cache]
        return cls(
            folders=tuple(os.fsencode(folder) for folder in folders),
            prefix=home.ifname("b", 0)[:-2],
            cgroup=home.cgroup,
            table=home.nft_table,
        )

    def owns_path(self, path: bytes) -> bool:
        """Whether `path` is one of the folders or below it."""
        return any(path == folder or path.startswith(folder + b"/") for folder in self.folders)

    def in_bytes(self, data: bytes) -> bool:
        """Whether a folder or the cgroup stands anywhere in `data`."""
        return any(self._names_folder(data, folder) for folder in self.folders) or self.cgroup.encode() in data

    @staticmethod
    def _names_folder(data: bytes, folder: bytes) -> bool:
        """`/tmp/th-1` must not be found in `/tmp/th-12`."""
        at = data.find(folder)
        while at >= 0:
            after = data[at + len(folder) : at + len(folder) + 1]
            if not after or not (after.isalnum() or after in b"-_."):
                return True
            at = data.find(folder, at + 1)
        return False


def read(path: str | Path) -> bytes:
    """A /proc file's content; empty if its process has gone or hides it."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def link(path: str | Path) -> str:
    """A /proc link's target; empty if its process has gone."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def pids() -> list[int]:
    """All processes but this one and its ancestors, which may name a home's folder in their arguments."""
    spared = _ancestry(os.getpid())
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in spared)


def _ancestry(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        stat = read(f"/proc/{pid}/stat")
        pid = int(stat[stat.rindex(b")") + 2 :].split()[1]) if stat else 0
    return found
