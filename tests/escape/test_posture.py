"""How a workload stands: capabilities, filters, ids, masks, mounts, devices. Asked inside, through the API only; the same in every hull."""

from __future__ import annotations

import ctypes
import json
import os

import pytest
from tests.conformance.instance import Instance
from tests.escape.conftest import PROBES

from twinhull.instance import capabilities, seccomp

pytestmark = pytest.mark.except_for("sandbox", "its /proc doesn't tell them")
DOCKER = 0xA80425FB
"""chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod audit_write setfcap."""
DOCKERS_CALLS = 295
"""System calls that amicontained finds open under Docker's default profile, less than which a default must not refuse less."""
BEYOND_FILTERS = {335, 336}
"""uretprobe and uprobe: the kernel lets them past every filter, and kills who calls them without a probe (kernel/seccomp.c)."""
MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys", "/sys/fs/cgroup")
DEVICES = {
    *("core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"),
}
FLAGS = {
    "/proc": {"nosuid", "nodev", "noexec"},
    "/dev": {"nosuid"},
    "/dev/pts": {"nosuid", "noexec"},
    "/dev/shm": {"nosuid", "nodev", "noexec"},
    "/dev/mqueue": {"nosuid", "nodev", "noexec"},
    "/sys": {"ro", "nosuid", "nodev", "noexec"},
}


def status(instance: Instance) -> dict[str, str]:
    """/proc/self/status."""
    lines = instance.sh("cat /proc/self/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def mount_flags(instance: Instance) -> dict[str, set[str]]:
    """Mount point → flags of the mount and of its file system; what is mounted last counts."""
    found: dict[str, set[str]] = {}
    for line in instance.sh("cat /proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        found[fields.split()[4]] = set(fields.split()[5].split(",")) | set(rest.split()[2].split(","))
    return found


def test_capabilities_are_dockers(box: Instance) -> None:
    seen = status(box)
    assert int(seen["CapEff"], 16) == int(seen["CapPrm"], 16) == int(seen["CapBnd"], 16) == DOCKER
    assert int(seen["CapInh"], 16) == int(seen["CapAmb"], 16) == 0


def test_a_plain_user_has_none_and_a_set_user_bit_gives_none(box: Instance) -> None:
    box.sh("cp /usr/bin/id /tmp/suid-id; chmod 4755 /tmp/suid-id")
    assert box.exec("/tmp/suid-id", "-u", flags=["-u", "1000"]).text == "1000"
    assert box.exec("grep", "CapEff", "/proc/self/status", flags=["-u", "1000"]).text.split()[1] == "0" * 16


def test_no_new_privileges_and_a_filter(box: Instance) -> None:
    seen = status(box)
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")


def test_ids_inside_are_nobody_outside(box: Instance, runtime: str) -> None:
    inside, outside, count = (int(word) for word in box.sh("cat /proc/self/uid_map").split())
    assert inside == 0
    if runtime == "container":
        assert (outside >= 65536, count) == (True, 65536)


def test_masked_paths_show_nothing(box: Instance) -> None:
    seen = box.sh(f"for p in {' '.join(MASKED)}; do if test -d $p; then ls -A $p; else cat $p 2>/dev/null; fi | wc -c; done")
    assert seen.split() == ["0"] * len(MASKED)


def test_read_only_paths_refuse_a_change(box: Instance) -> None:
    script = "for p in {}; do test -e $p || continue; test -d $p && p=$p/x; if (: >$p) 2>/dev/null; then echo $p; fi; done"
    wanted = [path for path in READ_ONLY if path != "/sys/fs/cgroup"]
    assert box.sh(script.format(" ".join(wanted))) == ""


def test_cgroups_are_read_only(box: Instance) -> None:
    flags = mount_flags(box)
    lines = [line.split() for line in box.sh("cat /proc/self/mountinfo").splitlines() if " - cgroup" in line]
    assert lines
    assert all("ro" in flags[fields[4]] and {"nosuid", "nodev", "noexec"} <= flags[fields[4]] for fields in lines)


def test_devices_are_dockers(box: Instance) -> None:
    assert set(box.sh("ls /dev").split()) == DEVICES
    assert box.sh("find / -xdev \\( -type b -o -type c \\) 2>/dev/null || true") == ""


@pytest.mark.parametrize("path", sorted(FLAGS))
def test_mounts_have_dockers_flags(box: Instance, path: str) -> None:
    assert FLAGS[path] <= mount_flags(box)[path]


def test_no_mount_but_its_devices_allows_device_nodes_where_it_could_make_them(box: Instance, runtime: str) -> None:
    """A user namespace refuses mknod; where there is none, nodev stands behind CAP_MKNOD."""
    allowing = {point for point, flags in mount_flags(box).items() if "nodev" not in flags}
    assert runtime == "container" or allowing <= {"/dev/pts", *(f"/dev/{name}" for name in DEVICES), *MASKED}


def test_the_environment_holds_nothing_of_the_host(box: Instance) -> None:
    assert set(box.sh("env | sed 's/=.*//'").split()) <= {"PATH", "HOSTNAME", "HOME", "PWD", "SHLVL", "_"}


def test_it_is_alone(box: Instance) -> None:
    assert box.sh("tr '\\0' ' ' </proc/1/cmdline").strip() == "sleep 1000000"
    assert len(box.sh("ls -d /proc/[0-9]*").split()) <= 4
    assert all(line.rpartition(":")[2] == "/" for line in box.sh("cat /proc/self/cgroup").splitlines())


def test_no_more_system_calls_than_docker_allows(box: Instance, runtime: str) -> None:
    answers = json.loads(box.exec("python3", PROBES, "syscalls", timeout=200).out)
    allowed = {int(number) for number, word in answers.items() if word == "allowed"}
    print(f"\n{runtime}: {len(allowed)} system calls answered, {len(answers) - len(allowed)} refused")
    assert allowed - _named_in_the_profile() - BEYOND_FILTERS == set()
    assert 200 < len(allowed) <= DOCKERS_CALLS


def _named_in_the_profile() -> set[int]:
    """Numbers on this architecture of what the default profile allows, with conditions or without."""
    profile = seccomp.default_profile(frozenset(capabilities.DEFAULT), os.uname().machine)
    names = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name
    return {resolve(name.encode()) for name in names}
