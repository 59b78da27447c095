"""What the host's kernel must be able to do."""

from __future__ import annotations

import re

from twinhull.doctor.finding import Finding, missing, ok, warn
from twinhull.doctor.machine import Machine

LEAST = (5, 19)
"""Idmapped layers below an overlay came with 5.19."""
_ROOT = "run: sudo twinhull doctor"
_TRY_LINKS = (
    "set -e; ip link add d0 type bridge; ip link add d1 type veth peer name d2; ip link set d1 master d0;"
    " ip link set d1 type bridge_slave isolated on"
)
_TRY_TABLE = """
table inet doctor {
  map services { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain service { numgen inc mod 2 0 dnat ip to 192.0.2.1; dnat ip to 192.0.2.2; }
  chain pre { type nat hook prerouting priority -100; ip daddr . meta l4proto . th dport vmap @services; }
  chain post { type nat hook postrouting priority 100; ct status dnat masquerade; }
}
"""
_BUILT_IN = "the distribution's own kernel has it; custom kernels need the option"


def version(machine: Machine) -> Finding:
    """At least LEAST."""
    release = machine.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if number >= LEAST:
        return ok("kernel", release)
    return missing("kernel", f"{release} is older than {LEAST[0]}.{LEAST[1]}", "use a kernel of Debian 12, Ubuntu 22.04 HWE or newer")


def overlay(machine: Machine) -> Finding:
    """Roots of containers."""
    return _file_system(machine, "overlay", "CONFIG_OVERLAY_FS", "containers have no root without it")


def loop(machine: Machine) -> Finding:
    """Nothing of the daemon's needs loop devices; some tests do."""
    if machine.exists("/dev/loop-control"):
        return ok("loop devices", "/dev/loop-control")
    return warn("loop devices", "no /dev/loop-control: only a few tests need it", "modprobe loop")


def user_namespaces(machine: Machine) -> Finding:
    """Root inside is nobody outside."""
    most = machine.read("/proc/sys/user/max_user_namespaces").strip()
    if most and most != "0":
        return ok("user namespaces", f"at most {most}")
    return missing("user namespaces", "switched off", "sysctl -w user.max_user_namespaces=65536")


def idmapped_mounts(machine: Machine) -> Finding:
    """Volumes and layers keep their owners through the user namespace."""
    if not machine.is_root():
        return warn("idmapped mounts", "can't be tried without root", _ROOT)
    if machine.can_idmap():
        return ok("idmapped mounts", "tried on the root file system")
    return missing("idmapped mounts", "the file system of /usr refuses them", "use ext4, xfs or btrfs, and a kernel of 5.19 or newer")


def seccomp(machine: Machine) -> Finding:
    """The default profile of containers."""
    if machine.read("/proc/sys/kernel/seccomp/actions_avail").strip():
        return ok("seccomp", "filters are available")
    return missing("seccomp", "no filters", f"CONFIG_SECCOMP_FILTER: {_BUILT_IN}")


def network(machine: Machine) -> Finding:
    """Bridge with isolated ports and veth pairs, tried in a network namespace of their own."""
    if not machine.is_root():
        return warn("bridge and veth", "can't be tried without root", _ROOT)
    status, text = machine.run(["unshare", "-n", "sh", "-c", _TRY_LINKS])
    if status == 0:
        return ok("bridge and veth", "made and removed")
    return missing("bridge and veth", f"can't be made: {_last(text)}", f"modprobe -a bridge veth; {_BUILT_IN}")


def tun(machine: Machine) -> Finding:
    """A VM's network card."""
    if machine.is_device("/dev/net/tun"):
        return ok("tun", "/dev/net/tun")
    return missing("tun", "no /dev/net/tun: VMs have no network without it", "modprobe tun")


def nftables(machine: Machine) -> Finding:
    """All that the service map needs, loaded into a namespace of its own."""
    if not machine.is_root():
        return warn("nftables", "can't be tried without root", _ROOT)
    status, text = machine.run(["unshare", "-n", "nft", "-f", "-"], _TRY_TABLE)
    if status == 0:
        return ok("nftables", "nat, numgen and verdict maps work")
    return missing(
        "nftables",
        f"a table with nat and numgen is refused: {_last(text)}",
        "apt-get install nftables; modprobe -a nf_tables nft_nat nft_numgen",
    )


def cgroups(machine: Machine) -> Finding:
    """Version and controllers; v1, hybrid and v2 all work."""
    unified = machine.read("/sys/fs/cgroup/cgroup.controllers").split()
    if unified:
        lost = [name for name in ("cpu", "memory", "pids") if name not in unified]
        return ok("cgroups", f"v2: {' '.join(unified)}") if not lost else _lost(lost)
    lost = [name for name in ("cpu", "memory", "pids", "freezer") if not machine.exists(f"/sys/fs/cgroup/{name}")]
    kind = "v1 beside v2 (hybrid)" if machine.exists("/sys/fs/cgroup/unified") else "v1"
    return ok("cgroups", kind) if not lost else _lost(lost)


def forward_policy(machine: Machine) -> Finding:
    """Another firewall's "drop" in the forward hook wins over our accept: both chains are asked."""
    if not machine.is_root():
        return warn("other firewalls", "can't be read without root", _ROOT)
    status, text = machine.run(["nft", "list", "chains"])
    if status != 0:
        return warn("other firewalls", f"can't be read: {_last(text)}")
    owners = sorted(set(_dropping_tables(text)))
    if not owners:
        return ok("other firewalls", "none drops what is forwarded")
    mend = "allow interfaces named th*: for docker, iptables -I DOCKER-USER -i th+ -j ACCEPT; for ufw, ufw default allow routed"
    return warn("other firewalls", f"{', '.join(owners)} drops forwarded packets: instances may not reach the outside", mend)


def _dropping_tables(text: str) -> list[str]:
    """From `nft list chains`: tables of others with a forward hook whose policy is drop."""
    found, table = [], ""
    for line in text.splitlines():
        if head := re.match(r"table (\S+ \S+) \{", line.strip()):
            table = head[1]
        elif "hook forward" in line and "policy drop" in line and "twinhull-" not in table:
            found.append(table)
    return found


def _file_system(machine: Machine, name: str, option: str, why: str) -> Finding:
    if re.search(rf"\t{name}$", machine.read("/proc/filesystems"), re.MULTILINE):
        return ok(name, "in the kernel")
    if f"/{name}.ko" in machine.read(f"/lib/modules/{machine.release()}/modules.dep"):
        return ok(name, "a module, loaded when needed")
    return missing(name, f"not in this kernel: {why}", f"modprobe {name}; {option}: {_BUILT_IN}")


def _lost(names: list[str]) -> Finding:
    return missing("cgroups", f"no {', '.join(names)} controller: limits can't be kept", "boot without cgroup_disable=")


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
