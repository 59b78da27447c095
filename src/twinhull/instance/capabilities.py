"""Capability names, Docker's defaults, and what cap_add and cap_drop make of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from twinhull.errors import UserError
from twinhull.spec.instance import Security

ALL = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"),
    *("CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW"),
    *("CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT"),
    *("CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD"),
    *("CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG"),
    *("CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"),
)
"""In the kernel's order: the index is the number (linux/capability.h)."""

DEFAULT = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP"),
    *("CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP"),
)
"""Docker's fourteen."""


def mask(names: Iterable[str]) -> int:
    """Names as the kernel's bit set."""
    return sum(1 << ALL.index(name) for name in set(names))


def effective(security: Security, possible: int = (1 << len(ALL)) - 1) -> tuple[str, ...]:
    """What the workload gets: the defaults (all if privileged), minus cap_drop, plus cap_add; "ALL" is understood in both.

    `possible` is the daemon's own bounding set as bits: a name that was asked for and isn't in it is refused,
    one that comes from "ALL" or the defaults is left out. Raises UserError for an unknown name.
    """
    dropped, added = _names(security.cap_drop), _names(security.cap_add)
    for name in added - {"ALL"}:
        if not possible >> ALL.index(name) & 1:
            raise UserError(f"cap_add {name}: this daemon doesn't have it itself", "run the daemon with that capability or leave it out")
    chosen = set(ALL) if security.privileged else set(DEFAULT)
    if "ALL" in added:
        chosen = set(ALL)
    chosen = set() if "ALL" in dropped and "ALL" not in added else chosen
    chosen = (chosen - dropped) | (added - {"ALL"})
    return tuple(name for number, name in enumerate(ALL) if name in chosen and possible >> number & 1)


def _names(words: Iterable[str]) -> set[str]:
    return {_name(word) for word in words}


def _name(word: str) -> str:
    upper = word.upper()
    if upper == "ALL":
        return upper
    name = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if name not in ALL:
        raise UserError(f"unknown capability {word!r}", "names are those of capabilities(7), with or without CAP_")
    return name
