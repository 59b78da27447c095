"""The default seccomp profile: its meaning, call by call, and capability sets."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from twinhull.errors import UserError
from twinhull.instance import capabilities, compiled
from twinhull.instance.seccomp import default_profile, for_security
from twinhull.spec.instance import Security

DEFAULT = frozenset(capabilities.DEFAULT)


def verdict(profile: dict[str, Any], name: str, *arguments: int) -> str | int:
    """ "allow", or the errno: what libseccomp's filter answers for one call."""
    for rule in profile["syscalls"]:
        if name in rule["names"] and all(_holds(condition, arguments) for condition in rule.get("args", ())):
            return "allow" if rule["action"] == "SCMP_ACT_ALLOW" else int(rule["errnoRet"])
    return int(profile["defaultErrnoRet"])


def _holds(condition: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    given = arguments[condition["index"]] if condition["index"] < len(arguments) else 0
    match condition["op"]:
        case "SCMP_CMP_EQ":
            return bool(given == condition["value"])
        case "SCMP_CMP_NE":
            return bool(given != condition["value"])
        case "SCMP_CMP_MASKED_EQ":
            return bool(given & condition["value"] == condition["valueTwo"])
    raise AssertionError(condition["op"])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("read",), "allow"),
        (("arch_prctl",), "allow"),
        (("mount",), 1),
        (("unshare",), 1),
        (("setns",), 1),
        (("bpf",), 1),
        (("keyctl",), 1),
        (("kexec_load",), 1),
        (("open_by_handle_at",), 1),
        (("userfaultfd",), 1),
        (("chroot",), "allow"),
        (("io_uring_setup",), 38),
        (("a_call_of_the_future",), 38),
        (("clone3",), 38),
        (("clone", 0x11), "allow"),
        (("clone", 0x3D0F00), "allow"),  # a thread
        (("clone", 0x10000000), 1),  # CLONE_NEWUSER
        (("clone", 0x40000000 | 0x11), 1),  # CLONE_NEWNET
        (("clone", 0x02000000), 1),  # CLONE_NEWCGROUP
        (("personality", 0), "allow"),
        (("personality", 0x40000), 38),  # ADDR_NO_RANDOMIZE
        (("socket", 2, 1, 0), "allow"),
        (("socket", 16, 3, 9), "allow"),
        (("socket", 40, 1, 0), 38),
        (("socket", 2**32 + 40, 1, 0), 38),  # the kernel drops the upper half
    ],
)
def test_default_profile(call: tuple[Any, ...], expected: str | int) -> None:
    profile = default_profile(DEFAULT, "x86_64")
    found = verdict(profile, *call)
    if call[0] == "clone" and expected == 1:
        assert found in (1, 38)
    else:
        assert found == expected


def test_without_audit_write_netlinks_audit_is_invalid() -> None:
    profile = default_profile(DEFAULT - {"CAP_AUDIT_WRITE"}, "x86_64")
    assert verdict(profile, "socket", 16, 3, 9) == 22
    assert verdict(profile, "socket", 16, 3, 0) == "allow"
    assert verdict(profile, "socket", 1, 1, 0) == "allow"


@pytest.mark.parametrize(
    ("capability", "call"),
    [
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_ADMIN", "clone3"),
        ("CAP_SYS_PTRACE", "process_vm_readv"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_BPF", "bpf"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_SYS_BOOT", "reboot"),
    ],
)
def test_a_capability_opens_its_calls(capability: str, call: str) -> None:
    assert verdict(default_profile(DEFAULT, "x86_64"), call) != "allow"
    assert verdict(default_profile(DEFAULT | {capability}, "x86_64"), call) == "allow"


def test_no_call_is_both_allowed_and_denied_without_arguments() -> None:
    for granted in (frozenset[str](), DEFAULT, frozenset(capabilities.ALL)):
        rules = [rule for rule in default_profile(granted, "x86_64")["syscalls"] if "args" not in rule]
        calls = [name for rule in rules for name in rule["names"]]
        assert len(calls) == len(set(calls))
        conditional = {n for r in default_profile(granted, "x86_64")["syscalls"] if "args" in r for n in r["names"]}
        assert not conditional & set(calls), "libseccomp drops conditions of a call that has a rule without"


def test_what_the_user_may_ask_for() -> None:
    assert for_security(Security(seccomp="unconfined"), DEFAULT) is None
    assert for_security(Security(privileged=True), DEFAULT) is None
    assert for_security(Security(seccomp='{"defaultAction": "SCMP_ACT_ALLOW"}'), DEFAULT) == {"defaultAction": "SCMP_ACT_ALLOW"}
    for text in ("nonsense", "[]", "{}"):
        with pytest.raises(UserError, match="seccomp profile"):
            for_security(Security(seccomp=text), DEFAULT)


def test_capability_words() -> None:
    assert capabilities.effective(Security()) == tuple(name for name in capabilities.ALL if name in DEFAULT)
    assert capabilities.effective(Security(cap_drop=("all",))) == ()
    assert capabilities.effective(Security(cap_drop=("ALL",), cap_add=("net_admin", "CAP_KILL"))) == ("CAP_KILL", "CAP_NET_ADMIN")
    assert capabilities.effective(Security(cap_add=("ALL",), cap_drop=("SYS_ADMIN",))) == tuple(
        name for name in capabilities.ALL if name != "CAP_SYS_ADMIN"
    )
    assert capabilities.effective(Security(privileged=True)) == capabilities.ALL
    with pytest.raises(UserError, match="unknown capability 'FLY'"):
        capabilities.effective(Security(cap_add=("FLY",)))


def test_what_the_daemon_lacks_is_refused_only_if_it_was_named() -> None:
    possible = capabilities.mask(capabilities.ALL) & ~capabilities.mask(["CAP_SYS_RESOURCE"])
    assert "CAP_SYS_RESOURCE" not in capabilities.effective(Security(cap_add=("ALL",)), possible)
    with pytest.raises(UserError, match=re.escape("CAP_SYS_RESOURCE")):
        capabilities.effective(Security(cap_add=("CAP_SYS_RESOURCE",)), possible)


def test_filters_are_kept_by_profile(tmp_path: Any) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [f"{tmp_path}"]}]}
    config = {"linux": {"seccomp": profile}}
    assert "annotations" not in compiled.with_filter(config)
    compiled.keep(config, tmp_path / "missing")
    (tmp_path / "torn").write_bytes(b"1234567")
    compiled.keep(config, tmp_path / "torn")
    assert "annotations" not in compiled.with_filter(config)
    (tmp_path / "bpf").write_bytes(b"12345678")
    compiled.keep(config, tmp_path / "bpf")
    assert compiled.with_filter(json.loads(json.dumps(config)))["annotations"] == {"run.oci.seccomp_bpf_data": "MTIzNDU2Nzg="}
    assert compiled.with_filter({"linux": {}}) == {"linux": {}}
