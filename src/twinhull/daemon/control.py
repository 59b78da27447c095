"""Start in the background, ask about, and end the daemon, from a client's process. Imports are light."""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path

from twinhull.daemon import lock
from twinhull.errors import NotFoundError, PermanentError
from twinhull.home import Home

START_PATIENCE = 30.0
"""Seconds in which a daemon must answer."""
STOP_PATIENCE = 60.0


def detach(home: Home) -> int:
    """Start a daemon and return its pid once it answers. Raises ConflictError or PermanentError with the end of its log."""
    _make_folders(home)
    log = home.state / "daemon.log"
    ready, told = os.pipe()
    try:
        pid = _spawn(log, told)
        os.close(told)
        _wait_ready(ready, pid, log)
    finally:
        os.close(ready)
    return pid


def stop(home: Home, *, all: bool = False) -> int:
    """End the daemon, with all also every workload; returns its pid when it has ended. Raises NotFoundError."""
    from twinhull.client import thin
    from twinhull.client.target import Target

    pid = lock.holder(home)
    if pid is None:
        raise NotFoundError(f"no daemon runs for {home.state}")
    descriptor = os.pidfd_open(pid)
    try:
        thin.call("POST", "/v1/daemon/stop", {"all": all}, target=Target(socket=str(home.socket)))
        if not select.select([descriptor], [], [], STOP_PATIENCE)[0]:
            raise PermanentError(f"daemon {pid} doesn't end within {STOP_PATIENCE:g} s", f"see {home.state / 'daemon.log'}")
    finally:
        os.close(descriptor)
    return pid


def status(home: Home) -> int | None:
    """Pid of the running daemon, None without one."""
    return lock.holder(home)


def _make_folders(home: Home) -> None:
    home.state.mkdir(parents=True, exist_ok=True, mode=0o700)


def _spawn(log: Path, told: int) -> int:
    argv = [sys.executable, "-m", "twinhull.daemon.main", "--ready-fd", str(told)]
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.set_inheritable(told, True)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    try:
        return os.posix_spawn(sys.executable, argv, dict(os.environ), file_actions=actions, setsid=True)
    finally:
        os.close(output)
        os.close(null)


def _wait_ready(ready: int, pid: int, log: Path) -> None:
    deadline = time.monotonic() + START_PATIENCE
    readable = select.select([ready], [], [], START_PATIENCE)[0]
    if readable and os.read(ready, 1):
        return
    if time.monotonic() >= deadline:
        raise PermanentError(f"the daemon (pid {pid}) doesn't answer within {START_PATIENCE:g} s", f"see {log}")
    os.waitpid(pid, 0)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise PermanentError(f"start the daemon: {lines[-1] if lines else 'it ended at once'}", f"see {log}")
