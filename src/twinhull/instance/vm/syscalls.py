"""The system calls that QEMU may make, and the seccomp program that says so. Pure: bytes come out, `jail.py` installs them.

Four answers. *Allowed*: what QEMU 7.2 was seen to need with every feature in use (bpftrace over the tests), and what the same paths need
with other C libraries. *Pretended*: calls at QEMU's start whose effect is there already. *Absent* (ENOSYS): what libraries try and do
without, and calls newer than this list, so that tomorrow's C library falls back as it does on an old kernel. *Anything else* ends the
process with SIGSYS, because only a QEMU that somebody else steers makes it. Why: docs/adr/0006-qemu-system-calls.md.

`execve` is asked of the launcher, which says yes once and goes: from then on the kernel itself says ENOSYS.

x86-64 only, as the guest is. Numbers: arch/x86/entry/syscalls/syscall_64.tbl. Called by `jail.py`.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALLOW, KILL, ERRNO, ASK = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
"""SECCOMP_RET_…: allow, kill the process, an error of its own, ask the listener."""

EXECVE = 59


def _numbers(table: str) -> dict[str, int]:
    words = table.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


_ALWAYS = _numbers(
    """
    futex 202 read 0 write 1 ppoll 271 recvmsg 47 sendmsg 46 poll 7
    mmap 9 munmap 11 mprotect 10 madvise 28
    openat 257 close 3 fstat 5 newfstatat 262 access 21 lseek 8 fcntl 72 readv 19 writev 20
    pread64 17 pwrite64 18 preadv 295 pwritev 296 fallocate 285 fdatasync 75
    eventfd2 290 signalfd4 289 accept4 288 getsockname 51 getsockopt 55
    set_tid_address 218 arch_prctl 158 sched_getaffinity 204 gettid 186 getpid 39 tgkill 234 exit 60 exit_group 231
    rt_sigaction 13 rt_sigprocmask 14 rt_sigreturn 15 restart_syscall 219
    clock_nanosleep 230 clock_gettime 228 gettimeofday 96 getrandom 318
    """
)
"""What is hot comes first: a program is read from its top. Memory; files (libraries and firmware, disks, tap, the state of a saved guest);
events and the three listening sockets; threads; signals; time, for hosts whose vDSO can't tell it."""
_KVM = _numbers("uname 63")
"""Asked by kvm_arch_init whether the host has 64 bits."""
_VOLUMES = _numbers(
    """
    fsync 74 ftruncate 77 getdents64 217 fstatfs 138 utimensat 280 chmod 90 fchownat 260
    mkdirat 258 mknodat 259 symlinkat 266 linkat 265 renameat 264 unlinkat 263 readlinkat 267
    lgetxattr 192 lsetxattr 189 llistxattr 195 lremovexattr 198
    """
)
"""9p serves files of the jail's `/volumes`; nothing else is writable there. `chmod` is of /proc/self/fd/N, as fchmodat follows links.
Without volumes they are absent: a memory backend asks fstatfs for the size of its pages."""

_IOCTL, _CLONE, _PRCTL, _PRLIMIT64 = 16, 56, 157, 302
_LOOKED_AT = {"ioctl": _IOCTL, "clone": _CLONE, "prctl": _PRCTL, "prlimit64": _PRLIMIT64}
_THREAD = 0x3D0F00
"""clone's flags for a thread: VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID (glibc and musl: the same)."""
_PRCTLS = (15, 29, 33)
"""PR_SET_NAME, PR_SET_TIMERSLACK, PR_MCE_KILL."""
_TAP_IOCTLS = (0x400454D0, 0x400454D4, 0x400454D8, 0x400454DC, 0x400454DE, 0x800454D2, 0x800454D7, 0x800454CF)
"""TUNSETOFFLOAD, TUNSETSNDBUF, TUNSETVNETHDRSZ, TUNSETVNETLE, TUNSETVNETBE, TUNGETIFF, TUNGETVNETHDRSZ, TUNGETFEATURES: of a tap that was
given; none makes another."""
_GET_VERSION = 0x80087601
"""FS_IOC_GETVERSION: 9p asks for a file's generation."""
_KVM_TYPE = 0xAE00
"""All of /dev/kvm's requests, whose descriptors only a VM under KVM has."""

_PRETENDED = {"listen": (50, 0), "getpeername": (52, errno.ENOTCONN), "set_robust_list": (273, 0), "epoll_create1": (291, 0)}
"""Number and errno (0: success). The sockets listen already and have no peer before accept4; nobody uses robust mutexes; an epoll
instance is made for the day on which there are 64 descriptors, and when epoll_ctl fails then (on 0, /dev/null), ppoll goes on."""
_ABSENT = _numbers(
    """
    brk 12 clone3 435 rseq 334 io_uring_setup 425 io_uring_enter 426 io_uring_register 427 epoll_ctl 233
    get_mempolicy 239 set_mempolicy 238 sysinfo 99 memfd_create 319 membarrier 324 statfs 137 readlink 89 unlink 87 mremap 25
    fadvise64 221 shutdown 48 setsockopt 54 seccomp 317 sched_yield 24 sigaltstack 131 mlock2 325 close_range 436 pidfd_open 434
    statx 332 openat2 437 faccessat2 439 preadv2 327 pwritev2 328 mseal 462
    """
)
"""Tried by the C library, libnuma, libselinux, liburing, glib or QEMU, with a way to go on without. Without brk, malloc takes mmap."""
_NEWEST = 469
"""file_setattr of Linux 6.17: the newest call that this list knows of."""

_X86_64, _X32 = 0xC000003E, 0x40000000
_LOAD, _JEQ, _JGE, _JGT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x25, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data; arguments are 64 bits, low word first."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One instruction; jumps go to labels, "" = to the next line. `name`: its own label."""

    code: int
    value: int
    then: str = ""
    otherwise: str = ""
    name: str = ""


def allowed(*, kvm: bool, volumes: bool) -> Mapping[str, int]:
    """Names and numbers of what may succeed; some only with certain arguments."""
    return _LOOKED_AT | _ALWAYS | (_KVM if kvm else {}) | (_VOLUMES if volumes else {})


def program(*, kvm: bool, volumes: bool) -> bytes:
    """An array of struct sock_filter."""
    plain = [number for name, number in allowed(kvm=kvm, volumes=volumes).items() if name not in _LOOKED_AT]
    lines = (
        _Line(_LOAD, _ARCHITECTURE),
        _Line(_JEQ, _X86_64, "", "kill"),
        _Line(_LOAD, _NUMBER),
        _Line(_JGE, _X32, "kill"),
        *(_Line(_JEQ, number, name) for name, number in _LOOKED_AT.items()),
        *(_Line(_JEQ, number, "allow") for number in plain),
        _Line(_JEQ, EXECVE, "ask"),
        _Line(_JGT, _NEWEST, "absent"),
        *(_Line(_JEQ, number, "absent") for number in (_ABSENT | _VOLUMES).values()),
        *(_Line(_JEQ, number, name) for name, (number, _) in _PRETENDED.items()),
        _Line(_RETURN, KILL, name="kill"),
        *_arguments(kvm, volumes),
        *(_Line(_RETURN, ERRNO | error, name=name) for name, (_, error) in _PRETENDED.items()),
        _Line(_RETURN, ERRNO | errno.ENOSYS, name="absent"),
        _Line(_RETURN, ASK, name="ask"),
        _Line(_RETURN, ALLOW, name="allow"),
    )
    return _assemble(lines)


def _arguments(kvm: bool, volumes: bool) -> tuple[_Line, ...]:
    """Requests by their low word, as the kernel takes them."""
    requests = (*_TAP_IOCTLS, *((_GET_VERSION,) if volumes else ()))
    to_kvm = (_Line(_AND, 0xFF00), _Line(_JEQ, _KVM_TYPE, "allow")) if kvm else ()
    return (
        _Line(_LOAD, _ARGUMENTS + 8, name="ioctl"),
        *(_Line(_JEQ, request, "allow") for request in requests),
        *to_kvm,
        _Line(_RETURN, ERRNO | errno.ENOTTY),
        _Line(_LOAD, _ARGUMENTS, name="clone"),
        _Line(_JEQ, _THREAD, "allow"),
        _Line(_RETURN, KILL),
        _Line(_LOAD, _ARGUMENTS, name="prctl"),
        *(_Line(_JEQ, option, "allow") for option in _PRCTLS),
        _Line(_RETURN, ERRNO | errno.EINVAL),
        _Line(_LOAD, _ARGUMENTS + 16, name="prlimit64"),  # new limits: none may be given
        _Line(_JEQ, 0, "", "limited"),
        _Line(_LOAD, _ARGUMENTS + 20),
        _Line(_JEQ, 0, "allow"),
        _Line(_RETURN, ERRNO | errno.EPERM, name="limited"),
    )


def _assemble(lines: Sequence[_Line]) -> bytes:
    places = {line.name: number for number, line in enumerate(lines) if line.name}

    def distance(label: str, here: int) -> int:
        return places[label] - here - 1 if label else 0

    return b"".join(
        struct.pack("<HBBI", line.code, distance(line.then, here), distance(line.otherwise, here), line.value)
        for here, line in enumerate(lines)
    )
