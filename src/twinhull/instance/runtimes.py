"""The OCI runtimes by their command lines. Pure, but for finding the programs and opening a gate.

All of them share one state folder per home, because crun keeps compiled seccomp filters in it.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from twinhull.errors import UnsupportedError
from twinhull.sys import proc

_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class OciRuntime:
    """A program with its global options. `state`: where it keeps a folder per container.

    `hands_over`: a foreground exec takes --console-socket (crun). The others want a terminal as their own stdin instead, write the pid file
    by renaming, and run where the root was (runc, runsc). `pid_option`: what names the exec's pid as it is known to `kill`.
    `mounts_in_proc`: files below /proc can be covered (runc refuses that). `gate`: the fifo in a container's state folder from which its
    first process reads a byte before it executes the program ("" where that is otherwise).
    """

    program: str
    state: Path
    options: tuple[str, ...] = ()
    hands_over: bool = True
    pid_option: str = "--pid-file"
    mounts_in_proc: bool = False
    gate: str = ""

    def command(self, log: Path | str | None = None) -> list[str]:
        """The start of each command line; errors go to `log` as JSON lines."""
        words = [self.program, "--root", str(self.state), *self.options]
        return words + (["--log", str(log), "--log-format", "json"] if log is not None else [])

    def start(self, instance: str, log: Path) -> list[str]:
        """Let a created container run."""
        return [*self.command(log), "start", instance]

    def open_gate(self, instance: str) -> bool:
        """What `start` does where there are no hooks, without a process for it (5 ms). False: `start` is needed, or knows what is wrong."""
        path = self.state / instance / self.gate
        try:
            gate = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC) if self.gate else -1
        except OSError:  # not there, or nobody waits at it
            return False
        if gate < 0:
            return False
        try:
            path.unlink()  # by which the runtime tells "created" from "running"
            os.write(gate, b"\0")
        finally:
            os.close(gate)
        return True

    def inspect(self, instance: str) -> list[str]:
        """Its state as JSON."""
        return [*self.command(), "state", instance]

    def remove(self, instance: str) -> list[str]:
        """Kill and forget it."""
        return [*self.command(), "delete", "--force", instance]

    def exec(self, instance: str, process: str, pid_file: str, log: str) -> list[str]:
        """Another process; in the foreground, so that the exit status is the process's own."""
        return [*self.command(log), "exec", "--process", process, self.pid_option, pid_file, instance]


def container_runtime(state: Path) -> OciRuntime:
    """crun, else runc. Raises UnsupportedError with the mend."""
    for name in ("crun", "runc"):
        if program := find(name):
            options = ("--cgroup-manager=cgroupfs",) if name == "crun" else ()
            crun = name == "crun"
            return OciRuntime(program, state / name, options, hands_over=crun, mounts_in_proc=crun, gate="exec.fifo" if crun else "")
    raise UnsupportedError("no OCI runtime is installed", "apt install crun")


def monitor() -> str:
    """conmon's path. Raises UnsupportedError with the mend."""
    program = find("conmon")
    if program is None:
        raise UnsupportedError("conmon isn't installed", "apt install conmon")
    return program


@functools.cache
def find(name: str, search: str = _SEARCH) -> str | None:
    """A program's path; what was missing once is looked for again by a new daemon only."""
    return shutil.which(name, path=search)


def sandbox_runtime(state: Path, *, network: str) -> OciRuntime:
    """gVisor's runsc. `network`: "sandbox" (gVisor's own stack on the namespace's interfaces) or "none".

    Raises UnsupportedError with the mend.
    """
    program = find("runsc")
    if program is None:
        raise UnsupportedError("runsc isn't installed", "apt install runsc")
    options = (f"--network={network}", "--net-raw", "--ignore-cgroups", "--platform=ptrace")
    return OciRuntime(program, state / "runsc", options, hands_over=False, pid_option="--internal-pid-file")


_LEAST_RUNSC = 20230101
"""Debian 12's runsc, of 2022-12-19, lets every user of an `exec` read files that only root may, in files of its own root and in secrets."""


@functools.cache
def sandbox_trouble() -> str:
    """Why this machine's runsc isn't offered, "" if it is. One short process, once."""
    program = find("runsc")
    if not program:
        return "runsc isn't installed"
    words = proc.run_blocking([program, "--version"], timeout=10).text.split()
    release = words[2] if len(words) > 2 else "of an unknown release"
    dated = re.search(r"20\d{6}", release)
    if dated and int(dated[0]) >= _LEAST_RUNSC:
        return ""
    return f"this runsc ({release}) ignores users' permissions in exec; one of 2023 or newer is needed"
