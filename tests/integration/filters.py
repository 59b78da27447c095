"""Seccomp filters of running threads, dumped and evaluated; and a system call put into another process's mouth.

The kernel runs every filter of a thread and takes the strictest answer (seccomp(2)); so does `verdict`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X86_64 = 0xC000003E
LAST = 512
"""Above the newest system call of every kernel so far."""

Program = list[tuple[int, int, int, int]]
"""struct sock_filter: code, jt, jf, k."""

_SEIZE, _INTERRUPT, _GET_FILTER, _DETACH, _SYSCALL, _CONT, _POKEUSER = 0x4206, 0x4207, 0x420C, 17, 24, 7, 6
_TRACE_SYSGOOD, _WALL = 1, 0x40000000
_ORIG_RAX = 15 * 8
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long


def threads(pid: int) -> list[int]:
    """Ids of a process's threads."""
    return sorted(int(name.name) for name in Path(f"/proc/{pid}/task").iterdir())


def of_thread(tid: int) -> list[Program]:
    """All filters of a thread; needs CAP_SYS_ADMIN."""
    with _stopped(tid):
        found: list[Program] = []
        while (size := _ptrace(_GET_FILTER, tid, len(found), 0, none=errno.ENOENT)) > 0:
            raw = ctypes.create_string_buffer(size * 8)
            _ptrace(_GET_FILTER, tid, len(found), ctypes.addressof(raw))
            found.append(list(struct.iter_unpack("<HBBI", raw.raw)))
        return found


def verdict(filters: Sequence[Program], number: int, arguments: Sequence[int] = (), architecture: int = X86_64) -> int:
    """SECCOMP_RET_… with its data; the order of strictness is that of the values, taken as signed."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    return min((_run(program, data) for program in filters), key=_signed)


def speak(pid: int, number: int) -> None:
    """Let the first thread's next system call be another one. Returns when it has been made, or has ended the process."""
    with _stopped(pid, _TRACE_SYSGOOD):
        _ptrace(_SYSCALL, pid, 0, 0)
        os.waitpid(pid, _WALL)
        _ptrace(_POKEUSER, pid, _ORIG_RAX, number)


def _run(program: Program, data: bytes) -> int:
    accumulator, at = 0, 0
    while True:
        code, then, otherwise, value = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, value)[0]
            case 0x54:
                accumulator &= value
            case 0x06:
                return value
            case 0x15:
                at += then if accumulator == value else otherwise
            case 0x35:
                at += then if accumulator >= value else otherwise
            case 0x25:
                at += then if accumulator > value else otherwise
            case 0x05:
                at += value
            case _:
                raise AssertionError(f"an instruction that isn't known here: {code:#x}")


def _signed(value: int) -> int:
    return ctypes.c_int32(value & 0xFFFF0000).value


@contextmanager
def _stopped(tid: int, options: int = 0) -> Iterator[None]:
    _ptrace(_SEIZE, tid, 0, options)
    _ptrace(_INTERRUPT, tid, 0, 0)
    os.waitpid(tid, _WALL)
    try:
        yield
    finally:
        _ptrace(_DETACH, tid, 0, 0, none=errno.ESRCH)


def _ptrace(request: int, tid: int, address: int, data: int, none: int = 0) -> int:
    result = int(_libc.ptrace(ctypes.c_long(request), ctypes.c_long(tid), ctypes.c_void_p(address), ctypes.c_void_p(data)))
    if result < 0 and ctypes.get_errno() != none:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")
    return result
