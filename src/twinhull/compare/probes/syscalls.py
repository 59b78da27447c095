"""Which system calls are answered at all: each once, in a process of its own, with arguments that are all -1.

Prints one line of JSON: number → "allowed" or the word of its refusal. EPERM and ENOSYS may also be the call's own answer, so the
number of allowed ones is what is certainly allowed.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal

LAST = 470
"""Above the newest call of Linux 6.18."""
_PATIENCE = 2
_REFUSALS = (errno.EPERM, errno.ENOSYS)


def main() -> None:
    """All of them."""
    print(json.dumps({number: answer(number) for number in range(LAST + 1)}))


def answer(number: int) -> str:
    """What one call comes to. A call that waits, ends the process or kills it, was allowed, unless by SIGSYS."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _try(number, writer)
    os.close(writer)
    said = os.read(reader, 100).decode()
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        return "SIGSYS"
    return said or "allowed"


def _try(number: int, writer: int) -> None:
    os.dup2(os.open("/dev/null", os.O_RDWR), 1)
    os.setpgid(0, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_PATIENCE)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    me = os.getpid()
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
    code = ctypes.get_errno()
    if os.getpid() == me and result == -1 and code in _REFUSALS:
        os.write(writer, errno.errorcode[code].encode())
    os._exit(0)
