"""Namespaces by system call: the daemon's own mount namespace, and user namespaces that exist only as descriptors.

Invariant: nothing here starts a program, and nothing made here outlives its last descriptor or process.
Called by the daemon at its start, by `sys/mounts` and by the instances.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os

from twinhull.errors import PermanentError

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

IDS = 65536
"""User and group ids in one instance's user namespace."""

_CLONE_VM = 0x00000100
_CLONE_VFORK = 0x00004000
_WCLONE = 0x80000000 - 2**32
"""As a signed int, which is what waitpid takes."""
_MS_REC, _MS_SLAVE = 16384, 1 << 19
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_MNT_DETACH = 2
_UNIFIED = b"/sys/fs/cgroup/unified"
_STACK = 65536
_own_mounts = False


@functools.cache
def libc() -> ctypes.CDLL:
    """The C library with errno kept per thread."""
    return ctypes.CDLL(None, use_errno=True)


def os_error(path: str = "") -> OSError:
    """The last failed call of `libc()` in this thread as an exception."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path or None)


def unshare(flags: int) -> None:
    """Leave the namespaces named by CLONE_NEW… flags (this thread only, but for user namespaces)."""
    if libc().unshare(ctypes.c_int(flags)) != 0:
        raise os_error("unshare")


def setns(descriptor: int, flags: int = 0) -> None:
    """Enter the namespace behind a descriptor (this thread only)."""
    if libc().setns(ctypes.c_int(descriptor), ctypes.c_int(flags)) != 0:
        raise os_error("setns")


def prepare_daemon_namespace() -> None:
    """Give this process a mount namespace of its own; called once, before the first thread is started.

    Mounts made later are the daemon's and its children's alone, so that nothing of them is left when they are gone;
    mounts of the host still arrive (recursively slave). On hosts with hybrid cgroups the cgroup2 mount is taken out of this view,
    because crun before 1.9 refuses to run beside it.
    """
    unshare(CLONE_NEWNS)
    if libc().mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None) != 0:
        raise os_error("/")
    hide_unified_cgroup()
    global _own_mounts  # noqa: PLW0603 (a fact about the process, as its namespaces are)
    _own_mounts = True


def has_own_mounts() -> bool:
    """Whether this process (or the one it was forked from) went through `prepare_daemon_namespace`."""
    return _own_mounts


def hide_unified_cgroup() -> None:
    """Put a tmpfs in the place of a hybrid host's /sys/fs/cgroup/unified in the present mount namespace; nothing elsewhere.

    A tmpfs, because crun takes every folder of /sys/fs/cgroup for a controller and would leave its folders on the host's own.
    """
    if not os.path.ismount(_UNIFIED):
        return
    if libc().umount2(_UNIFIED, _MNT_DETACH) != 0:
        raise os_error(os.fsdecode(_UNIFIED))
    if libc().mount(b"twinhull", _UNIFIED, b"tmpfs", ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC), b"mode=755") != 0:
        raise os_error(os.fsdecode(_UNIFIED))


def user_namespace(id_base: int, count: int = IDS, *, daemon_as: int | None = None) -> int:
    """A descriptor of a new user namespace in which ids 0…count-1 are id_base…id_base+count-1 outside. The caller closes it.

    `daemon_as`: a further id, at or above `count`, that stands for the host's root (see mounts.overlay).

    A vfork-like child makes it and ends at once; its zombie still names the namespace until it is reaped. That costs no copy of
    this process's page tables (a fork of the daemon would) and no program.
    """
    lines = f"0 {id_base} {count}\n" + ("" if daemon_as is None else f"{daemon_as} 0 1\n")
    child = _clone_and_exit(CLONE_NEWUSER)
    try:
        for kind in ("uid_map", "gid_map"):
            _write_map(f"/proc/{child}/{kind}", lines)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, _WCLONE)


def _write_map(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _clone_and_exit(flags: int) -> int:
    """The pid of a child made with `flags` that has already ended; it sends no signal, and only a wait with __WCLONE reaps it."""
    stack = mmap.mmap(-1, _STACK)
    anchor = ctypes.c_char.from_buffer(stack)
    top = (ctypes.addressof(anchor) + _STACK) & ~15
    entry = ctypes.cast(libc()._exit, ctypes.c_void_p)
    pid = int(libc().clone(entry, ctypes.c_void_p(top), ctypes.c_int(flags | _CLONE_VM | _CLONE_VFORK), None))
    del anchor
    stack.close()
    if pid < 0:
        raise _clone_error()
    return pid


def _clone_error() -> Exception:
    error = os_error("user namespace")
    if error.errno in (errno.EPERM, errno.ENOSPC, errno.EINVAL):
        return PermanentError(
            f"make a user namespace: {error.strerror}",
            "check that sysctl user.max_user_namespaces is above the number of instances and CONFIG_USER_NS is set",
        )
    return error
