"""What a guest and its template must have in common. Pure.

Invariant: two guests with the same key differ only in what a restored guest is told from outside: disks behind the same slots, taps,
MACs, names, limits. QEMU's whole command line is in the key, so a change of it is another template by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from twinhull.instance.vm import process, qemu

PLACEHOLDER = 64 << 30
"""Bytes of both disks of a template: as many as a scratch disk has, and more than a root may have."""
_FORMAT = 1
_NOWHERE = qemu.Channels(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Shape:
    """`binary`: QEMU's path. `memory`: bytes of RAM. `nics`: number of interfaces. `volumes`: the folder in the jail, "" = none."""

    binary: str
    memory: int
    cpu: qemu.Cpu
    nics: int
    volumes: str


@dataclass(frozen=True, slots=True)
class Parts:
    """Descriptors of what stands behind a template's slots."""

    root: int
    scratch: int
    taps: Sequence[int]


def mac(number: int) -> str:
    """A template's MAC for an interface, by which the agent finds it and gives it its own (agent/PROTOCOL.md, INTERFACE)."""
    return f"02:54:48:00:00:{number:02x}"


def machine(shape: Shape, name: str, channels: qemu.Channels, parts: Parts, saved: qemu.Saved) -> qemu.Vm:
    """The machine that is saved, or restored for a test."""
    return qemu.Vm(
        name=name,
        binary=shape.binary,
        kernel=process.KERNEL,
        initrd=process.INITRD,
        memory=shape.memory,
        cpu=shape.cpu,
        channels=channels,
        root=parts.root,
        scratch=parts.scratch,
        nics=tuple(qemu.Nic(mac(number), tap) for number, tap in enumerate(parts.taps)),
        volumes=shape.volumes,
        saved=saved,
    )


def key(shape: Shape, inputs: str) -> str:
    """32 hexadecimal digits. `inputs`: what else a template depends on, hashed (QEMU's build, kernel, initrd, host).

    The counter's frequency isn't in it, because it is measured and never twice the same: it is compared with a tolerance.
    """
    still = replace(shape, cpu=replace(shape.cpu, tsc_khz=0))
    vm = machine(still, "", _NOWHERE, Parts(0, 0, (0,) * shape.nics), qemu.Saved(0, 0, restore=False))
    return hashlib.sha256(repr((_FORMAT, qemu.argv(vm), inputs)).encode()).hexdigest()[:32]
