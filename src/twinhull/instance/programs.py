"""Whether a program can be run inside a root, said as Docker says it and before anything is started.

The root is an image's: every lookup stays inside it. What lies below a mount that isn't there yet can't be judged and passes.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Collection, Iterator, Sequence

from twinhull.errors import CannotRunError
from twinhull.sys import mounts

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HEAD = 256
"""Bytes that the kernel reads to tell the format (BINPRM_BUF_SIZE)."""


def check(root: int, argv: Sequence[str], env: Sequence[str], cwd: str, covered: Collection[str] = ()) -> None:
    """Raise CannotRunError 127 (missing) or 126 (not executable) unless `argv[0]` can be run. `covered`: targets of mounts to come."""
    if not argv or not argv[0]:
        raise CannotRunError("no command specified", "name a command, or use an image that has one", exit_code=127)
    failure: CannotRunError | None = None
    for path in _candidates(argv[0], env, cwd):
        if _below(path, covered):
            return
        found = _problem(root, path, argv[0])
        if found is None:
            return
        if failure is None or (failure.exit_code == 127 and found.exit_code == 126):
            failure = found
    if failure is None or ("/" not in argv[0] and failure.exit_code == 127):
        failure = _error(argv[0], "executable file not found in $PATH", 127)
    raise failure


def from_message(message: str, program: str) -> CannotRunError | None:
    """The same error out of a runtime's own words, None if they say something else."""
    if "not found in $PATH" in message:
        return _error(program, "executable file not found in $PATH", 127)
    for what, code in (("permission denied", 126), ("no such file or directory", 127), ("exec format error", 126)):
        if re.search(rf"\bexec(utable)?\b.*{what.removeprefix('exec ')}", message, re.IGNORECASE | re.DOTALL):
            return _error(program, what, code)
    return None


def _candidates(program: str, env: Sequence[str], cwd: str) -> Iterator[str]:
    if "/" in program:
        yield posixpath.normpath(posixpath.join(cwd or "/", program))
        return
    path = next((entry[5:] for entry in env if entry.startswith("PATH=")), _DEFAULT_PATH)
    for folder in path.split(":"):
        yield posixpath.normpath(posixpath.join(cwd or "/", folder, program))


def _problem(root: int, path: str, program: str) -> CannotRunError | None:
    """Why `path` can't be run; None if it can."""
    try:
        descriptor = mounts.open_inside(root, path, os.O_PATH)
    except PermissionError:
        return _error(program, "permission denied", 126)
    except OSError:
        return _error(program, f"stat {path}: no such file or directory", 127)
    try:
        mode = os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
    if stat.S_ISDIR(mode):
        return _error(program, "is a directory", 126)
    if not stat.S_ISREG(mode) or not mode & 0o111:
        return _error(program, "permission denied", 126)
    return _format_problem(root, path, program)


def _format_problem(root: int, path: str, program: str) -> CannotRunError | None:
    head = mounts.read_inside(root, path, _HEAD) or b""
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        interpreter = os.fsdecode(words[0]) if words else ""
        if not interpreter or not mounts.exists_inside(root, interpreter):
            return _error(program, "no such file or directory", 127)
    elif not head.startswith(b"\x7fELF") and not os.path.exists("/proc/sys/fs/binfmt_misc/status"):
        return _error(program, "exec format error", 126)
    return None


def _below(path: str, targets: Collection[str]) -> bool:
    return any(path == target or path.startswith(target.rstrip("/") + "/") for target in targets)


def _error(program: str, what: str, code: int) -> CannotRunError:
    return CannotRunError(f'exec: "{program}": {what}', exit_code=code)
