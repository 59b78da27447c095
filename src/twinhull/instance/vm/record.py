"""What an instance's run folder says about it, for the daemon that comes after this one: `machine.json`, `exit.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from twinhull.instance.base import Exit
from twinhull.sys import fs

MADE, EXIT = "machine.json", "exit.json"


@dataclass(frozen=True, slots=True)
class Made:
    """`machine.json`: bytes of workload memory and of RAM, processors, interfaces, and whether the workload was started.

    `volumes`: whether it has the device for them. `capturing`: whether it may stand still for a snapshot (snapshots.py).

    `slot`, `cgroup`: the range of ids and the control group of a QEMU that was parked before (parking.py); -1 and "": the instance's own.
    """

    accelerator: str
    memory: int
    ram: int
    cpus: int
    nics: int = 0
    started: bool = False
    slot: int = -1
    cgroup: str = ""
    volumes: bool = False
    capturing: bool = False


def write_made(run: Path, made: Made) -> None:
    """Replace it."""
    fs.write_atomic(run / MADE, json.dumps(asdict(made)), sync=False)


def read_made(run: Path) -> Made | None:
    """None if it isn't there, or isn't whole."""
    try:
        return Made(**json.loads((run / MADE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_exit(run: Path, outcome: Exit) -> None:
    """How the workload ended."""
    fs.write_atomic(run / EXIT, json.dumps(asdict(outcome)), sync=False)


def read_exit(run: Path) -> Exit | None:
    """None if it isn't there, or isn't whole."""
    try:
        return Exit(**json.loads((run / EXIT).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
