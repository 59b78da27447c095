"""conmon, the monitor that outlives the daemon: its argv (pure), its answer over the sync pipe, its control fifo and files.

One conmon per start. It starts the runtime's `create`, keeps the log, serves the attach socket, and leaves the exit code in a file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhull.errors import PermanentError

STDOUT_MARK, STDERR_MARK = 2, 3
"""First byte of each message of the attach socket."""
MESSAGE = 8192
"""Bytes of stdin in one message to the attach socket; conmon's buffer is 32 KiB, and what doesn't fit into it is lost."""
_BUFFER = 32 * 1024
PACKET = _BUFFER + 2
"""At least the largest message that conmon sends."""
_ANSWER_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Folders:
    """conmon's files below Paths.run."""

    run: Path

    @property
    def bundle(self) -> Path:
        """config.json; conmon adds attach, ctl and winsz."""
        return self.run / "bundle"

    @property
    def pid(self) -> Path:
        """The workload's host pid."""
        return self.run / "pid"

    @property
    def monitor_pid(self) -> Path:
        """conmon's own pid."""
        return self.run / "conmon.pid"

    @property
    def exits(self) -> Path:
        """Folder in which the exit code appears, named by the id."""
        return self.run / "exit"

    @property
    def persist(self) -> Path:
        """Folder in which `oom` appears."""
        return self.run / "persist"

    @property
    def runtime_log(self) -> Path:
        """Where the runtime says what went wrong."""
        return self.run / "runtime.log"

    @property
    def attach(self) -> Path:
        """The attach socket."""
        return self.bundle / "attach"

    @property
    def control(self) -> Path:
        """The control fifo."""
        return self.bundle / "ctl"


def argv(
    *, conmon: str, runtime: Sequence[str], instance: str, name: str, folders: Folders, log: Path, tty: bool, stdin: bool
) -> list[str]:
    """conmon's command line. `runtime`: the runtime's path and global options."""
    words = [conmon, "--api-version", "1", "--cid", instance, "--cuuid", instance, "--name", name, "--runtime", runtime[0]]
    words += [f"--runtime-arg={word}" for word in runtime[1:]]
    words += ["--bundle", str(folders.bundle), "--full-attach", "--container-pidfile", str(folders.pid)]
    words += ["--conmon-pidfile", str(folders.monitor_pid), "--exit-dir", str(folders.exits), "--persist-dir", str(folders.persist)]
    words += ["--log-path", f"k8s-file:{log}", "--log-level", "error", "--no-sync-log"]
    words += ["--terminal"] if tty else []
    return words + (["--stdin"] if stdin and not tty else [])


def parse_answer(line: bytes) -> int:
    """The workload's pid from the sync pipe. Raises RuntimeError with the runtime's message."""
    try:
        answer = json.loads(line)
        pid = int(answer.get("data", answer.get("pid", -1)))
    except (ValueError, TypeError, AttributeError):
        raise PermanentError(f"conmon answered {line[:200]!r}") from None
    if pid <= 0:
        raise RuntimeError(str(answer.get("message") or ""))
    return pid


def runtime_error(folders: Folders) -> str:
    """The last message in the runtime's log, "" if there is none."""
    try:
        return last_message(folders.runtime_log.read_bytes()[-_ANSWER_LIMIT:])
    except OSError:
        return ""


def last_message(log: bytes) -> str:
    """The last message of a runtime's log in JSON lines."""
    for line in reversed(log.splitlines()):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(line)["msg"])
    return ""


def resize(folders: Folders, rows: int, cols: int) -> None:
    """Set the terminal's size; nothing when the monitor is gone."""
    _control(folders, f"1 {rows} {cols}\n")


def reopen_log(folders: Folders) -> None:
    """Write to a new file at the log's path from now on."""
    _control(folders, "2 0 0\n")


def exit_code(folders: Folders, instance: str) -> tuple[int, float] | None:
    """The workload's exit code and when the monitor noted it; None while it isn't there. 128 + signal is conmon's own way."""
    path = folders.exits / instance
    try:
        return int(path.read_text()), path.stat().st_mtime
    except (FileNotFoundError, ValueError):
        return None


def _control(folders: Folders, text: str) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folders.control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
