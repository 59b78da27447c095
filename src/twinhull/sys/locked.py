"""Copies of read-only mounts that nobody below the host's user namespace can make writable again.

A mount's read-only flag is locked when it is copied into a mount namespace of another user namespace (mount_namespaces(7)), and
clones keep the lock. A runtime that clones a mount by descriptor and attaches it inside gets around that copy, and then CAP_SYS_ADMIN
inside is enough to remount it writable. So the copy is made here, and the clone of it is what the runtime sees.

Invariant: nothing is left but the descriptor returned.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import threading
from pathlib import Path

from twinhull.sys import mounts, namespaces

_CLONE_VM, _CLONE_FS = 0x00000100, 0x00000200
_WCLONE = 0x80000000 - 2**32
_STACK = 65536
_LIFE = 10
"""Seconds; the child is needed for a fraction of a millisecond."""


def clone(path: Path) -> int:
    """A descriptor of a detached copy of the mount at `path` and those below it, its flags locked. The caller attaches and closes it."""
    space = _copied_namespace()
    try:
        return _in_thread(space, path)
    finally:
        os.close(space)


def _copied_namespace() -> int:
    """A descriptor of a mount namespace that belongs to a new user namespace and is a copy of this one.

    A child that shares this process's memory stands in it until it is killed: that costs no copy of page tables and starts no program.
    Should this process die in between, the child ends by itself.
    """
    stack = mmap.mmap(-1, _STACK)
    anchor = ctypes.c_char.from_buffer(stack)
    top = ctypes.c_void_p((ctypes.addressof(anchor) + _STACK) & ~15)
    flags = ctypes.c_int(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS | _CLONE_VM)
    stand = ctypes.cast(namespaces.libc().sleep, ctypes.c_void_p)
    child = int(namespaces.libc().clone(stand, top, flags, ctypes.c_void_p(_LIFE)))
    if child < 0:
        raise namespaces.os_error("lock a mount")
    try:
        return os.open(f"/proc/{child}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, _WCLONE)
        del anchor
        stack.close()


def _in_thread(space: int, path: Path) -> int:
    """Clone inside `space`, in a thread of its own, for a thread that has been there can't come back."""
    results: list[int | BaseException] = []

    def body() -> None:
        try:
            namespaces.unshare(_CLONE_FS)
            namespaces.setns(space, namespaces.CLONE_NEWNS)
            results.append(mounts.clone(path, recursive=True))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=body, name="twinhull-lock")
    thread.start()
    thread.join()
    result = results[0]
    if isinstance(result, BaseException):
        raise result
    return result
