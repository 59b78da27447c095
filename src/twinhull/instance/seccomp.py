"""The default seccomp profile as the runtime specification's `linux.seccomp` object. Pure but for reading its own data file once.

Semantics are Docker's: a system call is allowed always (`allow`), or with a capability (`by_capability`), or on a machine
(`by_machine`). Known calls that aren't allowed give EPERM; calls that aren't known give ENOSYS, so that a newer C library
falls back to what it did before. Without CAP_SYS_ADMIN no namespace can be made: `clone` is allowed when its flags have no
CLONE_NEW… bit, and `clone3`, whose flags a filter can't see, gives ENOSYS.
"""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Any

from twinhull.errors import UserError
from twinhull.spec.instance import Security

_ALLOW, _ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_EPERM, _ENOSYS, _EINVAL = 1, 38, 22
_NEW_NAMESPACE = 0x7E020000
"""All CLONE_NEW… flags but CLONE_NEWTIME, whose bit clone's exit signal uses."""
_AF_NETLINK, _NETLINK_AUDIT, _AF_VSOCK = 16, 9, 40
_FAMILIES = 46
"""AF_MAX of Linux 6; what is above doesn't exist."""

_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
}


def for_security(security: Security, capabilities: Collection[str], machine: str = "") -> dict[str, Any] | None:
    """What goes into config.json: None if unconfined or privileged; a profile given as JSON text is passed on. Raises UserError."""
    if security.privileged or security.seccomp == "unconfined":
        return None
    if security.seccomp == "default":
        return default_profile(frozenset(capabilities), machine or platform.machine())
    return _custom(security.seccomp)


@functools.lru_cache(maxsize=32)
def default_profile(capabilities: frozenset[str], machine: str) -> dict[str, Any]:
    """The profile for a set of capabilities. The result is shared: don't change it."""
    data = _data()
    granted = {name for capability in capabilities for name in data["by_capability"].get(capability, ())}
    gated = {name for names in data["by_capability"].values() for name in names}
    allowed = set(data["allow"]) | granted | set(data["by_machine"].get(machine, ()))
    denied = (set(data["deny"]) | gated) - allowed - {"clone", "clone3"}
    rules = [_rule(sorted(allowed)), _rule(sorted(denied), _ERRNO, errnoRet=_EPERM)]
    rules += [_rule(["personality"], args=[_compare(0, value, "SCMP_CMP_EQ")]) for value in data["personalities"]]
    if "clone" not in allowed:
        rules += _clone_rules()
    rules += _socket_rules("CAP_AUDIT_WRITE" in capabilities)
    architectures = list(_ARCHITECTURES.get(machine, ()))
    return {"defaultAction": _ERRNO, "defaultErrnoRet": _ENOSYS, "architectures": architectures, "syscalls": rules}


def _clone_rules() -> list[dict[str, Any]]:
    return [_rule(["clone"], args=[_masked(0, _NEW_NAMESPACE, 0)]), _rule(["clone3"], _ERRNO, errnoRet=_ENOSYS)]


def _socket_rules(audit: bool) -> list[dict[str, Any]]:
    """All families but vsock, which reaches the hypervisor; netlink's audit only with CAP_AUDIT_WRITE (sshd and su expect EINVAL).

    The family is compared in its low 32 bits, as the kernel takes it: "not equal 40" on 64 bits would let 2^32 + 40 pass.
    """
    families = [family for family in range(_FAMILIES) if family != _AF_VSOCK and (audit or family != _AF_NETLINK)]
    rules = [_rule(["socket"], args=[_masked(0, 0xFFFFFFFF, family)]) for family in families]
    if not audit:
        netlink = _masked(0, 0xFFFFFFFF, _AF_NETLINK)
        rules.append(_rule(["socket"], args=[netlink, _compare(2, _NETLINK_AUDIT, "SCMP_CMP_NE")]))
        rules.append(_rule(["socket"], _ERRNO, args=[netlink, _compare(2, _NETLINK_AUDIT, "SCMP_CMP_EQ")], errnoRet=_EINVAL))
    return rules


def _rule(names: list[str], action: str = _ALLOW, **more: Any) -> dict[str, Any]:
    return {"names": names, "action": action, **more}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _compare(index: int, value: int, operator: str) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": 0, "op": operator}


def _custom(text: str) -> dict[str, Any]:
    try:
        profile = json.loads(text)
    except ValueError as error:
        raise UserError(f"seccomp profile: {error}", 'use "default", "unconfined", or a profile\'s JSON text') from None
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise UserError("seccomp profile: no defaultAction", "the format is that of the OCI runtime specification's linux.seccomp")
    return profile


@functools.cache
def _data() -> dict[str, Any]:
    text = Path(__file__).with_name("seccomp.json").read_text()
    data: dict[str, Any] = json.loads(text)
    return data
