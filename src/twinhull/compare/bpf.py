"""Classic BPF as seccomp uses it: what a filter says about a system call. Pure.

Source of the semantics: Linux, Documentation/userspace-api/seccomp_filter.rst and net/core/filter.c. Only what seccomp lets through
its checker is understood (no packet access, no extensions).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

X86_64 = 0xC000003E
"""AUDIT_ARCH_X86_64."""
ALLOW, LOG, TRACE = 0x7FFF0000, 0x7FFC0000, 0x7FF00000
_ACTION = 0xFFFF0000
_PERMITTING = (ALLOW, LOG)
_MASK = 0xFFFFFFFF
_PATTERNS = (0, 1, 0xFFFFFFFFFFFFFFFF)
"""Arguments to try: a call is allowed if it is for any of them, for a filter may allow it with certain arguments only."""
_CLASS, _OPERATION, _SOURCE_X = 0x07, 0xF0, 0x08
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_ABSOLUTE, _IMMEDIATE, _MEMORY, _LENGTH = 0x20, 0x00, 0x60, 0x80
_DATA_SIZE = 64


class Instruction(NamedTuple):
    """struct sock_filter."""

    code: int
    jt: int
    jf: int
    k: int


class BpfError(ValueError):
    """A program that the kernel wouldn't have taken."""


def decode(data: bytes) -> list[Instruction]:
    """An array of struct sock_filter."""
    return [Instruction(*fields) for fields in struct.iter_unpack("=HBBI", data)]


def allowed(filters: Sequence[Sequence[Instruction]], last: int) -> set[int]:
    """The numbers up to `last` that all filters let through (the most restrictive verdict counts) with some of the arguments tried."""
    return {
        number for number in range(last + 1) if any(all(_permits(program, number, pattern) for program in filters) for pattern in _PATTERNS)
    }


def _permits(program: Sequence[Instruction], number: int, argument: int) -> bool:
    data = struct.pack("=IIQ6Q", number, X86_64, 0, *[argument] * 6)
    return run(program, data) & _ACTION in _PERMITTING


def run(program: Sequence[Instruction], data: bytes) -> int:
    """The verdict for one struct seccomp_data. Raises BpfError."""
    accumulator = index = at = 0
    memory = [0] * 16
    while 0 <= at < len(program):
        code, jt, jf, k = program[at]
        at += 1
        kind = code & _CLASS
        if kind == _RET:
            return accumulator if code & 0x18 == 0x10 else k
        if kind == _JMP:
            at += _jump(code, k, (jt, jf), (accumulator, index))
        elif kind == _LD:
            accumulator = _load(code, k, data, memory)
        elif kind == _LDX:
            index = _load(code, k, data, memory)
        elif kind in (_ST, _STX):
            memory[k] = accumulator if kind == _ST else index
        elif kind == _ALU:
            accumulator = _calculate(code, k if not code & _SOURCE_X else index, accumulator)
        elif code & 0xF8:  # MISC: TXA, else TAX
            accumulator = index
        else:
            index = accumulator
    raise BpfError("the program runs off its end")


def _load(code: int, k: int, data: bytes, memory: list[int]) -> int:
    mode = code & 0xE0
    if mode == _ABSOLUTE:
        return int(struct.unpack_from("=I", data, k)[0])
    if mode == _IMMEDIATE:
        return k
    if mode == _MEMORY:
        return memory[k]
    if mode == _LENGTH:
        return _DATA_SIZE
    raise BpfError(f"load {code:#x}")


def _jump(code: int, k: int, ways: tuple[int, int], registers: tuple[int, int]) -> int:
    operation = code & _OPERATION
    if operation == 0x00:
        return k
    left, right = registers[0], registers[1] if code & _SOURCE_X else k
    holds = {0x10: left == right, 0x20: left > right, 0x30: left >= right, 0x40: bool(left & right)}
    if operation not in holds:
        raise BpfError(f"jump {code:#x}")
    return ways[0] if holds[operation] else ways[1]


def _calculate(code: int, value: int, accumulator: int) -> int:
    operation = code & _OPERATION
    if operation in (0x30, 0x90) and value == 0:
        return 0
    results = {
        0x00: lambda: accumulator + value,
        0x10: lambda: accumulator - value,
        0x20: lambda: accumulator * value,
        0x30: lambda: accumulator // value,
        0x40: lambda: accumulator | value,
        0x50: lambda: accumulator & value,
        0x60: lambda: accumulator << (value & 31),
        0x70: lambda: accumulator >> (value & 31),
        0x80: lambda: -accumulator,
        0x90: lambda: accumulator % value,
        0xA0: lambda: accumulator ^ value,
    }
    if operation not in results:
        raise BpfError(f"arithmetic {code:#x}")
    return results[operation]() & _MASK
