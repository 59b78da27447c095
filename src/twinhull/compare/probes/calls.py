"""System calls that a workload has no business with. Arguments are such that nothing happens even where a call is permitted."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import time

from .table import Owner, Place, attempt, call, first, got_past


@attempt("calls", Owner.KERNEL, "load, find and remove kernel modules", "more than EPERM")
def kernel_modules(place: Place) -> str:
    bad = (errno.EFAULT, errno.ENOEXEC, errno.EBADF, errno.ENOENT, errno.EINVAL)
    tries = {"init_module": (175, 0, 0, b""), "finit_module": (313, -1, b"", 0), "delete_module": (176, b"no-such-module", os.O_NONBLOCK)}
    return first(list(tries), lambda name: f"{name}: {got_past(*tries[name], beyond=bad)}")


@attempt("calls", Owner.KERNEL, "kexec_load, kexec_file_load", "more than EPERM")
def kexec(place: Place) -> str:
    bad = (errno.EBADF, errno.EINVAL, errno.EADDRNOTAVAIL, errno.EBUSY)
    tries = {"kexec_load": (246, 0, 17, 0, 0xFFFFFFFF), "kexec_file_load": (320, -1, -1, 0, b"", 0xFFFF)}
    return first(list(tries), lambda name: f"{name}: {got_past(*tries[name], beyond=bad)}")


@attempt("calls", Owner.SELF, "reboot, with wrong magic numbers", "EINVAL: the right was there")
def reboot(place: Place) -> str:
    return got_past(169, 1, 2, 3, 0, beyond=(errno.EINVAL,))


@attempt("calls", Owner.KERNEL, "read the kernel's log and its size", "bytes")
def kernel_log(place: Place) -> str:
    buffer = ctypes.create_string_buffer(256)
    try:
        return f"syslog gave {call(103, 3, buffer, 256)} bytes"
    except OSError:
        with open("/proc/kmsg", "rb", buffering=0) as file:
            return f"opened {file.name}"


@attempt("calls", Owner.KERNEL, "set the clock to what it is", "one of the calls is taken")
def clock(place: Place) -> str:
    def now() -> bytes:
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        return struct.pack("@qq", seconds, nanoseconds // 1000)

    # ADJ_SETOFFSET by nothing: struct timex is 208 bytes, and its `time` is zero
    offset = ctypes.create_string_buffer(struct.pack("@I", 0x0100).ljust(208, b"\0"))
    tries = {
        "clock_settime": lambda: time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns()),
        "settimeofday": lambda: call(164, now(), 0),
        "adjtimex": lambda: call(159, offset),
    }

    def one(name: str) -> str:
        tries[name]()
        return name

    return first(list(tries), one)


@attempt("calls", Owner.KERNEL, "swapon, swapoff, acct, quotactl of files that aren't there", "more than EPERM")
def storage_calls(place: Place) -> str:
    gone = b"/no/such/file"
    tries = {"swapon": (167, gone, 0), "swapoff": (168, gone), "acct": (163, gone)}
    return first(list(tries), lambda name: f"{name}: {got_past(*tries[name], beyond=(errno.ENOENT, errno.EINVAL))}")


@attempt("calls", Owner.KERNEL, "keyrings: add_key, request_key, keyctl", "a key or its number")
def keyrings(place: Place) -> str:
    tries = {
        "add_key": (248, b"user", b"twinhull-escape", b"x", 1, -2),  # the process's own keyring, which goes with it
        "request_key": (249, b"user", b"twinhull-escape", 0, 0),
        "keyctl": (250, 0, -3, 0),  # the session keyring's number
    }
    return first(list(tries), lambda name: f"{name}: {got_past(*tries[name], beyond=(errno.ENOKEY,))}")


@attempt("calls", Owner.KERNEL, "bpf: make a map, load a socket filter", "a descriptor")
def bpf(place: Place) -> str:
    attributes = ctypes.create_string_buffer(struct.pack("@IIIII", 2, 4, 8, 1, 0).ljust(128, b"\0"))
    return f"map {call(321, 0, attributes, 72)}"


@attempt("calls", Owner.KERNEL, "perf_event_open over all processes", "a descriptor")
def perf_events(place: Place) -> str:
    attributes = ctypes.create_string_buffer(struct.pack("@IIQ", 1, 112, 0).ljust(112, b"\0"))
    return f"event {call(298, attributes, -1, 0, -1, 0)}"


@attempt("calls", Owner.KERNEL, "userfaultfd", "a descriptor")
def userfaultfd(place: Place) -> str:
    return f"descriptor {call(323, 0)}"


@attempt("calls", Owner.KERNEL, "io_uring_setup", "a ring")
def io_uring(place: Place) -> str:
    return got_past(425, 1, ctypes.create_string_buffer(120), beyond=(errno.EINVAL, errno.EFAULT))


@attempt("calls", Owner.SELF, "fanotify over a whole mount", "a descriptor")
def fanotify(place: Place) -> str:
    return f"descriptor {call(300, 0, 0)}"


@attempt("calls", Owner.KERNEL, "personality: no address randomization, READ_IMPLIES_EXEC", "the call is taken")
def personality(place: Place) -> str:
    return first([hex(0x0040000), hex(0x0400000)], lambda flags: f"{flags}: {call(135, int(flags, 16))}")


@attempt("calls", Owner.SELF, "take descriptors from, and compare, other processes", "one of the calls is taken")
def foreign_descriptors(place: Place) -> str:
    tries = {"kcmp": (312, 1, 1, 0, 0, 0), "pidfd_getfd": (438, -1, 0, 0)}
    return first(list(tries), lambda name: f"{name}: {got_past(*tries[name], beyond=(errno.EBADF, errno.EINVAL))}")


@attempt("calls", Owner.KERNEL, "memory policy of others: move_pages, migrate_pages", "the call is taken")
def memory_policy(place: Place) -> str:
    tries = {"migrate_pages": (256, place.pid, 0, 0, 0), "move_pages": (279, place.pid, 0, 0, 0, 0, 0)}
    return first(list(tries), lambda name: f"{name}: {call(*tries[name])}")


@attempt("calls", Owner.SELF, "mount through the x32 table, which a filter on one table would miss", "EFAULT: it was looked at")
def x32_table(place: Place) -> str:
    return got_past(165 | 0x40000000, 0, 0, 0, 0, 0, beyond=(errno.EFAULT, errno.EINVAL))


@attempt("calls", Owner.SELF, "mount through the 32-bit table (int 0x80)", "EFAULT: it was looked at")
def i386_table(place: Place) -> str:
    # push rbx; mov eax, 21 (mount); clear ebx, ecx, edx, esi, edi; int 0x80; pop rbx; ret
    code = bytes.fromhex("53b81500000031db31c931d231f631ffcd805bc3")
    area = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area.write(code)
    error = -ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))()
    if error not in (errno.EFAULT, errno.EINVAL, 0):
        raise OSError(error, os.strerror(error))
    return f"it was looked at ({error})"
