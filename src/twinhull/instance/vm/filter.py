"""A seccomp profile (the OCI object that crun reads for containers) as the program that the guest's kernel takes.

libseccomp, which QEMU and crun depend on, compiles it in this process; so a system call is answered alike in every runtime.
Nothing is loaded on the host: the program is exported into memory.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
from collections.abc import Iterable
from typing import Any

from twinhull.errors import UnsupportedError, UserError

MAX_BYTES = 4096 * 8
"""The kernel's limit of instructions, eight bytes each."""

_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
_UNKNOWN_CALL = -1
_OPTIMIZE, _TREE = 8, 2


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def compile_profile(profile: dict[str, Any] | None) -> bytes:
    """An array of struct sock_filter for x86-64; empty without a profile. Raises UserError for a profile that doesn't make sense."""
    return b"" if profile is None else _compiled(json.dumps(profile, sort_keys=True))


@functools.lru_cache(maxsize=32)
def _compiled(text: str) -> bytes:
    profile = json.loads(text)
    try:
        default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
        return _build(default, profile)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"seccomp profile: {error}", "the format is that of the OCI runtime specification's linux.seccomp") from None


def _build(default: int, profile: dict[str, Any]) -> bytes:
    library = _library()
    context = library.seccomp_init(ctypes.c_uint32(default))
    if not context:
        raise UserError(f"seccomp profile: libseccomp refuses the default action {default:#x}")
    handle = ctypes.c_void_p(context)
    try:
        _add_architectures(handle, profile.get("architectures") or ())
        library.seccomp_attr_set(handle, _OPTIMIZE, ctypes.c_uint32(_TREE))  # before libseccomp 2.5: unknown, and only slower
        for rule in profile.get("syscalls") or ():
            _add_rule(handle, rule, default)
        return _export(handle)
    finally:
        library.seccomp_release(handle)


def _add_architectures(context: ctypes.c_void_p, names: Iterable[str]) -> None:
    for name in names:
        token = _library().seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
        if token == 0:
            raise ValueError(f"unknown architecture {name!r}")
        _check(_library().seccomp_arch_add(context, ctypes.c_uint32(token)), name, allowed=(errno.EEXIST,))


def _add_rule(context: ctypes.c_void_p, rule: dict[str, Any], default: int) -> None:
    action = _action(rule["action"], rule.get("errnoRet"))
    if action == default:
        return  # libseccomp takes no rule that says what holds anyway
    for name in rule["names"]:
        number = _library().seccomp_syscall_resolve_name(name.encode())
        if number != _UNKNOWN_CALL:
            for comparisons in _alternatives(rule.get("args") or ()):
                _add(context, action, number, comparisons, name)


def _alternatives(arguments: Iterable[dict[str, Any]]) -> list[list[_Comparison]]:
    """One rule with all comparisons, or one for each if several look at the same argument, which libseccomp can't join (as runc does)."""
    comparisons = [_comparison(argument) for argument in arguments]
    if len({comparison.arg for comparison in comparisons}) == len(comparisons):
        return [comparisons]
    return [[comparison] for comparison in comparisons]


def _comparison(argument: dict[str, Any]) -> _Comparison:
    operator = argument["op"].removeprefix("SCMP_CMP_")
    if operator not in _OPERATORS:
        raise ValueError(f"unknown operator {argument['op']!r}")
    number = _OPERATORS.index(operator) + 1
    return _Comparison(int(argument["index"]), number, int(argument["value"]), int(argument.get("valueTwo") or 0))


def _add(context: ctypes.c_void_p, action: int, number: int, comparisons: list[_Comparison], name: str) -> None:
    array = (_Comparison * max(1, len(comparisons)))(*comparisons)
    result = _library().seccomp_rule_add_array(context, ctypes.c_uint32(action), number, ctypes.c_uint(len(comparisons)), array)
    _check(result, name, allowed=(errno.EEXIST,))


def _action(name: str, errno_value: int | None) -> int:
    if name not in _ACTIONS:
        raise ValueError(f"action {name!r} can't be used in a VM")
    base = _ACTIONS[name]
    return base | (errno.EPERM if errno_value is None else int(errno_value)) if name == "SCMP_ACT_ERRNO" else base


def _export(context: ctypes.c_void_p) -> bytes:
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(_library().seccomp_export_bpf(context, descriptor), "export")
        size = os.fstat(descriptor).st_size
        if size > MAX_BYTES:
            raise ValueError(f"{size // 8} instructions, the kernel takes {MAX_BYTES // 8}")
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def _check(result: int, what: str, allowed: tuple[int, ...] = ()) -> None:
    if result < 0 and -result not in allowed:
        raise ValueError(f"{what}: {os.strerror(-result)}")


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise UnsupportedError("libseccomp.so.2 isn't there", "apt-get install libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    return library
