"""Subprocesses: the only module that spawns.

argv lists and an explicit environment always; ending one is TERM, grace, KILL, wait;
the tail of stderr is in the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinhull.errors import PermanentError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TAIL = 2000
GRACE = 5.0
"""Seconds between TERM and KILL."""


class ProcessError(PermanentError):
    """A program ended with a status that wasn't expected."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        tail = stderr.strip()[-_TAIL:]
        super().__init__(f"{os.path.basename(argv[0])} {' '.join(argv[1:3])}: exit status {status}: {tail}".rstrip(": "))
        self.argv = tuple(argv)
        self.exit_status = status
        self.stderr = stderr


@dataclass(frozen=True, slots=True)
class Result:
    """What a program left behind."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """stdout as text, undecodable bytes kept as surrogates."""
        return self.stdout.decode("utf-8", "surrogateescape")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A minimal environment: PATH, HOME, a UTF-8 locale, and `extra`."""
    base = {"PATH": _PATH, "HOME": os.environ.get("HOME", "/root"), "LC_ALL": "C.UTF-8"}
    return base | dict(extra or {})


def run_blocking(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout: float | None = None,
    check: bool = True,
    cwd: Path | None = None,
) -> Result:
    """Run to the end in this thread. Raises ProcessError, or TimeoutError after killing it."""
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            env=clean_environment(env),
            timeout=timeout,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise ProcessError(argv, 127, f"{error.filename}: not installed") from error
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{argv[0]}: no end within {timeout} s") from error
    result = Result(done.returncode, done.stdout, done.stderr)
    _check(argv, result, check)
    return result


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout: float | None = None,
    check: bool = True,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
) -> Result:
    """Run to the end. Cancelled or timed out, the program is ended and waited for."""
    process = await start(
        argv,
        env=env,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(stdin or None)
    except BaseException:
        await end(process)
        raise
    result = Result(process.returncode or 0, out, err)
    _check(argv, result, check)
    return result


async def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    **streams: Any,
) -> asyncio.subprocess.Process:
    """Start a program; the caller owns it and must wait for it or `end` it."""
    try:
        return await asyncio.create_subprocess_exec(*argv, env=clean_environment(env), pass_fds=tuple(pass_fds), cwd=cwd, **streams)
    except FileNotFoundError as error:
        raise ProcessError(argv, 127, f"{error.filename}: not installed") from error


async def end(process: asyncio.subprocess.Process, grace: float = GRACE) -> int:
    """TERM, grace, KILL, and always wait. Returns the exit status."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    return await process.wait()


async def wait_pid(pid: int) -> None:
    """Return when the process, child or not, has ended (at once if there is none)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def alive(pid: int, started: int | None = None) -> bool:
    """Whether the process runs; with `started` (see `start_time`) also that the pid wasn't reused."""
    now = start_time(pid)
    return now is not None and (started is None or now == started)


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat in clock ticks since boot, the identity of a pid; None without such a process or for a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _check(argv: Sequence[str], result: Result, check: bool) -> None:
    if check and result.status != 0:
        raise ProcessError(argv, result.status, result.stderr.decode("utf-8", "replace"))
