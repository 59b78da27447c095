"""One daemon per home: a lock on a file that the kernel lets go of when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os

from twinhull.errors import ConflictError
from twinhull.home import Home


def acquire(home: Home) -> int:
    """The locked descriptor, to be kept open for the daemon's life. Raises ConflictError while another daemon holds it."""
    descriptor = os.open(home.state / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode().strip()
        os.close(descriptor)
        raise ConflictError(f"a daemon for {home.state} runs already (pid {holder})", "twinhull daemon stop ends it") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def holder(home: Home) -> int | None:
    """Pid of the running daemon, None without one."""
    try:
        descriptor = os.open(home.state / "daemon.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 20, 0).decode().strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)
    return None
