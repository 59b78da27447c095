"""The table of attempts: what each tries, how its success would show, and whose things a success would touch.

Runs inside an instance, and is read by the tests outside; so only the standard library, and nothing of the project.
An attempt returns what it got hold of (its evidence) or raises: OSError and Denied mean that it was refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Owner(Enum):
    """Whom a success would reach. The word decides where a success is allowed (see `compare/escape_verdict.py`)."""

    SELF = "self"
    """The instance's own namespaces: refused by default, allowed with all capabilities."""
    KERNEL = "kernel"
    """The kernel it runs on: the host's in a container, so never there; its own in a VM, where all capabilities may allow it."""
    HOST = "host"
    """Something of the host, shown by its canary: never, whatever the capabilities."""


@dataclass(frozen=True, slots=True)
class Place:
    """What the host tells the probes about itself: names that an attacker could guess, and a canary that only the host can read."""

    canary_path: str
    canary: str
    """The text of the canary's file: whoever has it, has read a file of the host."""
    pid: int
    """A process of the host."""
    disk: str
    """major:minor of the host's disk."""
    sockets: tuple[str, ...] = ()
    """Paths and (with a leading @) abstract names of UNIX sockets on which the host answers."""
    read_only: str = ""
    """A folder of the host that the instance was given read-only."""


class Denied(Exception):  # noqa: N818  a word that reads as what happened
    """Refused, for a reason that isn't a system call's error."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row."""

    name: str
    group: str
    owner: Owner
    tries: str
    shows: str
    act: Callable[[Place], str]


ATTEMPTS: dict[str, Attempt] = {}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def attempt(group: str, owner: Owner, tries: str, shows: str) -> Callable[[Callable[[Place], str]], Callable[[Place], str]]:
    """Register a function as a row; its name is the row's."""

    def register(act: Callable[[Place], str]) -> Callable[[Place], str]:
        name = act.__name__.replace("_", "-")
        ATTEMPTS[name] = Attempt(name, group, owner, tries, shows, act)
        return act

    return register


def call(number: int, *arguments: object) -> int:
    """syscall(2); integers are 64 bits wide. Raises OSError."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def got_past(*words: Any, beyond: tuple[int, ...]) -> str:
    """A call with arguments that can't do harm: an error out of `beyond` means that only they stopped it. Raises OSError for others."""
    try:
        return f"returned {call(*words)}"
    except OSError as error:
        if error.errno in beyond:
            return f"permitted, only the arguments were bad ({errno.errorcode[error.errno or 0]})"
        raise


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> str:
    """mount(2). Raises OSError."""
    call(165, source.encode(), target.encode(), kind.encode(), flags, data.encode())
    return f"mounted {kind or 'it'} at {target}"


def unmount(target: str) -> None:
    """umount2(2), lazily. Raises OSError."""
    call(166, target.encode(), 2)


@contextmanager
def folder(name: str) -> Iterator[str]:
    """A new folder of this process's own in /tmp."""
    path = f"/tmp/escape-{name}-{os.getpid()}"
    os.mkdir(path)
    try:
        yield path
    finally:
        os.rmdir(path)


@contextmanager
def node(kind: int, major: int, minor: int, where: str = "/tmp") -> Iterator[str]:
    """A device node of one's own."""
    path = f"{where}/escape-node-{os.getpid()}"
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    try:
        yield path
    finally:
        os.unlink(path)


def write_back(path: str) -> str:
    """Write a setting's own value to it: harmless if it works. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        value = os.read(descriptor, 4096)
        os.pwrite(descriptor, value, 0)
        return f"wrote {value[:40]!r} to {path}"
    finally:
        os.close(descriptor)


def opened(path: str, flags: int = os.O_WRONLY) -> str:
    """Open, and no more. Raises OSError."""
    os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))
    return f"opened {path}"


def first(paths: list[str], act: Callable[[str], str]) -> str:
    """The first of several that works; else the last refusal."""
    failure: Exception = Denied("none is there")
    for path in paths:
        try:
            return act(path)
        except (OSError, Denied) as error:
            failure = error
    raise failure


def canary_below(root: str, place: Place) -> str:
    """Read the host's canary as if `root` were the host's "/". Raises OSError or Denied."""
    with open(root.rstrip("/") + place.canary_path, encoding="utf-8") as file:
        if file.read().strip() != place.canary:
            raise Denied("another file of that name")
    return f"read the host's canary through {root}"
