"""Processes of an instance as seen from the host's /proc: a table for `top`, network counters, and finding leftovers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

_TICKS = os.sysconf("SC_CLK_TCK")


def table(pids: Sequence[int], id_base: int, names: Mapping[int, str]) -> list[dict[str, str]]:
    """PID (inside), USER, TIME (h:mm:ss of CPU), COMMAND. Processes that end meanwhile are left out."""
    rows = [row for pid in pids if (row := _row(pid, id_base, names)) is not None]
    return sorted(rows, key=lambda row: int(row["PID"]))


def network_bytes(pid: int) -> tuple[int, int]:
    """(received, sent) of all interfaces but the loopback in the process's network namespace; zeros when it is gone."""
    received = sent = 0
    for line in _read(f"/proc/{pid}/net/dev").splitlines()[2:]:
        name, _, counters = line.partition(":")
        if name.strip() != "lo":
            words = counters.split()
            received, sent = received + int(words[0]), sent + int(words[8])
    return received, sent


def executable(pid: int) -> tuple[int, int] | None:
    """(device, inode) of what a process runs; None when it is gone or hidden."""
    try:
        status = os.stat(f"/proc/{pid}/exe")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def mentioning(word: bytes) -> list[int]:
    """Pids of processes that have `word` among their arguments."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid() and word in _raw(f"/proc/{entry}/cmdline").split(b"\0"):
            found.append(int(entry))
    return found


def _row(pid: int, id_base: int, names: Mapping[int, str]) -> dict[str, str] | None:
    status = dict(line.split(":", 1) for line in _read(f"/proc/{pid}/status").splitlines() if ":" in line)
    if "NSpid" not in status or status["State"].strip().startswith("Z"):
        return None
    uid = int(status["Uid"].split()[1]) - id_base
    command = _raw(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    return {
        "PID": status["NSpid"].split()[-1],
        "USER": names.get(uid, str(uid) if uid >= 0 else "?"),
        "TIME": _cpu_time(pid),
        "COMMAND": command or f"[{status['Name'].strip()}]",
    }


def _cpu_time(pid: int) -> str:
    text = _read(f"/proc/{pid}/stat")
    fields = text[text.rfind(")") + 2 :].split()
    seconds = (int(fields[11]) + int(fields[12])) // _TICKS if len(fields) > 12 else 0
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _read(path: str) -> str:
    return _raw(path).decode("utf-8", "surrogateescape")


def _raw(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
