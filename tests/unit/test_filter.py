"""The compiled filter, evaluated instruction by instruction: what the guest's kernel will answer."""

from __future__ import annotations

import errno
import struct

import pytest

from twinhull.errors import UserError
from twinhull.instance import capabilities, seccomp
from twinhull.instance.vm.filter import compile_profile
from twinhull.spec.instance import Security

_X86_64, _I386 = 0xC000003E, 0x40000003
_ALLOW = 0x7FFF0000
_READ, _CLONE, _SOCKET, _MOUNT, _CLONE3, _PERSONALITY = 0, 56, 41, 165, 435, 135
_NEWUSER, _AF_UNIX, _AF_NETLINK, _AF_VSOCK = 0x10000000, 1, 16, 40


def _evaluate(program: bytes, number: int, *arguments: int, arch: int = _X86_64) -> int:
    """Classic BPF as seccomp uses it: loads of 32 bits, jumps, and, return."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(*arguments, *[0] * (6 - len(arguments))))
    counter, accumulator = 0, 0
    while True:
        code, true, false, value = struct.unpack_from("<HBBI", program, counter * 8)
        counter += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x05:
                counter += value
            case 0x15:
                counter += true if accumulator == value else false
            case 0x25:
                counter += true if accumulator > value else false
            case 0x35:
                counter += true if accumulator >= value else false
            case 0x54:
                accumulator &= value
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"instruction {code:#x}")


def _program(**security: object) -> bytes:
    chosen = Security(**security)  # type: ignore[arg-type]
    return compile_profile(seccomp.for_security(chosen, capabilities.effective(chosen)))


def _errno(value: int) -> int:
    return 0x00050000 | value


def test_the_default_profile() -> None:
    program = _program()
    assert _evaluate(program, _READ) == _ALLOW
    assert _evaluate(program, 3, arch=_I386) == _ALLOW  # read of 32-bit programs
    assert _evaluate(program, _MOUNT) == _errno(errno.EPERM)
    assert _evaluate(program, 9999) == _errno(errno.ENOSYS)
    assert _evaluate(program, _CLONE3) == _errno(errno.ENOSYS)
    assert _evaluate(program, _CLONE, 17) == _ALLOW
    assert _evaluate(program, _CLONE, 17 | _NEWUSER) != _ALLOW
    assert _evaluate(program, _SOCKET, _AF_UNIX, 1) == _ALLOW
    assert _evaluate(program, _SOCKET, _AF_VSOCK, 1) != _ALLOW
    assert _evaluate(program, _SOCKET, _AF_VSOCK | 1 << 32, 1) != _ALLOW
    assert _evaluate(program, _SOCKET, _AF_NETLINK, 3, 0) == _ALLOW


def test_a_capability_opens_its_calls() -> None:
    program = _program(cap_add=("SYS_ADMIN",))
    assert _evaluate(program, _MOUNT) == _ALLOW
    assert _evaluate(program, _CLONE, 17 | _NEWUSER) == _ALLOW


def test_no_profile_no_program() -> None:
    assert _program(seccomp="unconfined") == _program(privileged=True) == b""


def test_a_profile_of_ones_own() -> None:
    text = """{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
        {"names": ["mount", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"""
    program = _program(seccomp=text)
    assert _evaluate(program, _MOUNT) == _errno(5)
    assert [_evaluate(program, _PERSONALITY, value) for value in range(4)] == [_ALLOW, 0x80000000, 0x80000000, _ALLOW]


@pytest.mark.parametrize(
    "text",
    [
        '{"defaultAction": "SCMP_ACT_TRACE"}',
        '{"defaultAction": 5}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", '
        '"args": [{"index": 0, "value": 1, "op": "SCMP_CMP_ALMOST"}]}]}',
    ],
)
def test_profiles_that_make_no_sense(text: str) -> None:
    with pytest.raises(UserError, match="seccomp profile"):
        _program(seccomp=text)
