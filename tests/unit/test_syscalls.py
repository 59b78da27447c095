"""What QEMU may ask of the host's kernel, by number; the table's numbers are checked against libseccomp's."""

from __future__ import annotations

import ctypes
import errno

import pytest
from tests.integration.filters import ALLOW, ERRNO, KILL, LAST, Program, verdict

from twinhull.instance.vm import syscalls

VARIANTS = [(False, False), (False, True), (True, False), (True, True)]
MOST = 70


def _program(kvm: bool, volumes: bool) -> Program:
    import struct

    return list(struct.iter_unpack("<HBBI", syscalls.program(kvm=kvm, volumes=volumes)))


def _answer(number: int, *arguments: int, kvm: bool = True, volumes: bool = True, **more: int) -> int:
    return verdict([_program(kvm, volumes)], number, arguments, **more)


def test_numbers_are_libseccomps() -> None:
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    named = syscalls.allowed(kvm=True, volumes=True) | syscalls._ABSENT | {name: pair[0] for name, pair in syscalls._PRETENDED.items()}
    known = {name: resolve(ctypes.c_uint32(0xC000003E), name.encode()) for name in named}
    assert {name: number for name, number in named.items() if known[name] not in (number, -1)} == {}
    assert len(set(named.values())) == len(named), "none has two answers"


@pytest.mark.parametrize(("kvm", "volumes"), VARIANTS)
def test_no_more_than_seventy(kvm: bool, volumes: bool) -> None:
    names = syscalls.allowed(kvm=kvm, volumes=volumes)
    plain = {number for number in range(LAST) if _answer(number, kvm=kvm, volumes=volumes) == ALLOW}
    assert plain == set(names.values()) - {names["ioctl"], names["clone"], names["prctl"]}, "those three are refused these arguments"
    assert len(names) <= MOST


@pytest.mark.parametrize(
    "name", ["socket", "fork", "vfork", "ptrace", "bpf", "mount", "setns", "unshare", "setuid", "kill", "connect", "dup3"]
)
def test_what_nobody_needs_ends_it(name: str) -> None:
    number = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch(ctypes.c_uint32(0xC000003E), name.encode())
    assert _answer(number) == KILL


def test_execve_is_asked_and_its_sister_refused() -> None:
    assert _answer(59) == syscalls.ASK
    assert _answer(322) == KILL


@pytest.mark.parametrize("number", [0x40000000, 0x40000000 + 59, 0xFFFFFFFF - (1 << 32)])
def test_other_tables_end_it(number: int) -> None:
    assert _answer(number) == KILL
    assert _answer(0, architecture=0x40000003) == KILL, "i386"


def test_newer_calls_dont_exist() -> None:
    assert _answer(LAST) == ERRNO | errno.ENOSYS
    assert _answer(syscalls._NEWEST) == KILL


def test_threads_and_nothing_else() -> None:
    assert _answer(56, 0x3D0F00) == ALLOW
    assert _answer(56, 17) == KILL, "SIGCHLD: fork"
    assert _answer(56, 0x3D0F00 | 0x10000000) == KILL, "CLONE_NEWUSER"
    assert _answer(435) == ERRNO | errno.ENOSYS, "clone3: the flags can't be seen"


@pytest.mark.parametrize(("request_", "volumes", "kvm", "answer"), [
    (0x400454D0, False, False, ALLOW),  # TUNSETOFFLOAD
    (0x400454CA, True, True, ERRNO | errno.ENOTTY),  # TUNSETIFF: another tap
    (0x5412, True, True, ERRNO | errno.ENOTTY),  # TIOCSTI
    (0x80087601, True, False, ALLOW),  # FS_IOC_GETVERSION
    (0x80087601, False, True, ERRNO | errno.ENOTTY),
    (0xAE80, False, True, ALLOW),  # KVM_RUN
    (0xAE80, False, False, ERRNO | errno.ENOTTY),
])  # fmt: skip
def test_requests(request_: int, volumes: bool, kvm: bool, answer: int) -> None:
    assert _answer(16, 3, request_, volumes=volumes, kvm=kvm) == answer
    assert _answer(16, 3, request_ | 1 << 40, volumes=volumes, kvm=kvm) == answer, "the kernel takes the low word"


def test_limits_are_read_and_never_set() -> None:
    assert _answer(302, 0, 7, 0, 1 << 40) == ALLOW
    assert _answer(302, 0, 7, 1 << 40, 0) == _answer(302, 0, 7, 8, 0) == ERRNO | errno.EPERM


def test_names_of_threads_and_not_much_more() -> None:
    assert _answer(157, 15) == ALLOW
    assert _answer(157, 38) == _answer(157, 22) == ERRNO | errno.EINVAL
