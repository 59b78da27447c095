"""The seccomp filters of another process's threads, read with PTRACE_SECCOMP_GET_FILTER (ptrace(2); root, Linux 4.4).

Each thread stands still for the moment of reading and goes on afterwards; nothing of it is changed.
"""

from __future__ import annotations

import ctypes
import os

from twinhull.compare.bpf import Instruction, decode

_SEIZE, _INTERRUPT, _GET_FILTER, _DETACH = 0x4206, 0x4207, 0x420C, 17
_WALL = 0x40000000
_MAX = 4096 * 8
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long


def threads(pid: int) -> list[int]:
    """Of a process."""
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def filters(tid: int) -> list[list[Instruction]]:
    """Of one thread, the newest first; empty without any. Raises OSError (EPERM without the right)."""
    _ptrace(_SEIZE, tid, 0, 0)
    try:
        _ptrace(_INTERRUPT, tid, 0, 0)
        os.waitpid(tid, _WALL)
        return _all(tid)
    finally:
        _ptrace(_DETACH, tid, 0, 0)


def _all(tid: int) -> list[list[Instruction]]:
    found: list[list[Instruction]] = []
    buffer = ctypes.create_string_buffer(_MAX)
    while True:
        try:
            count = _ptrace(_GET_FILTER, tid, len(found), ctypes.addressof(buffer))
        except FileNotFoundError:  # ENOENT: no filter of that number
            return found
        except OSError as error:
            if error.errno == 22 and not found:  # EINVAL: the thread has none at all
                return found
            raise
        found.append(decode(buffer.raw[: count * 8]))


def _ptrace(request: int, tid: int, address: int, data: int) -> int:
    result = int(_libc.ptrace(ctypes.c_long(request), ctypes.c_long(tid), ctypes.c_void_p(address), ctypes.c_void_p(data)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
