"""Runs all attempts, each in a process of its own, and prints one line of JSON for each: [name, outcome, evidence or reason].

outcome: denied | succeeded. A process that is killed (by seccomp, or because it takes too long) was denied.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import select
import signal
import sys
from collections.abc import Callable

from . import calls, devices, kernel, mounts, processes, secrets  # noqa: F401  they register themselves
from .table import ATTEMPTS, Denied, Place, call

PATIENCE = 20.0
"""Seconds an attempt may take (an emulated machine is slow)."""


def main() -> None:
    """argv[1] is the Place as JSON."""
    fields = json.loads(sys.argv[1])
    place = Place(**{**fields, "sockets": tuple(fields["sockets"])})
    for name, attempt in ATTEMPTS.items():
        outcome, text = in_child(functools.partial(attempt.act, place))
        print(json.dumps([name, outcome, text]), flush=True)


def in_child(act: Callable[[], str]) -> tuple[str, str]:
    """Outcome and text of a call in a forked process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        with contextlib.suppress(OSError):
            call(272, 0x00020000)  # CLONE_NEWNS, where that's permitted: what one attempt mounts isn't there for the next
        os.write(writer, json.dumps(outcome_of(act)).encode()[:60_000])
        os._exit(0)
    os.close(writer)
    said = _read(reader, pid)
    _, status = os.waitpid(pid, 0)
    os.close(reader)
    if said:
        outcome, text = json.loads(said)
        return str(outcome), str(text)
    return "denied", f"killed by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "ended without a word"


def outcome_of(act: Callable[[], str]) -> tuple[str, str]:
    """What a call came to."""
    try:
        return "succeeded", act()
    except Denied as error:
        return "denied", str(error)
    except OSError as error:
        return "denied", errno.errorcode.get(error.errno or 0, str(error))
    except BaseException as error:
        return "broken", repr(error)


def _read(reader: int, pid: int) -> bytes:
    """All the child says; it is killed if it takes too long."""
    data = b""
    while select.select([reader], [], [], PATIENCE)[0]:
        part = os.read(reader, 65536)
        if not part:
            return data
        data += part
    os.kill(pid, signal.SIGKILL)
    return b""
