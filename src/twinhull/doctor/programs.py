"""Programs and files that the daemon calls."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from twinhull.doctor.finding import Finding, missing, ok, warn
from twinhull.doctor.machine import Machine
from twinhull.home import Home


@dataclass(frozen=True, slots=True)
class Program:
    """One that is installed by a Debian package. `loss`: what can't be done without it; `needed`: whether that is the main job."""

    name: str
    package: str
    loss: str
    needed: bool
    arguments: tuple[str, ...] = ("--version",)


PROGRAMS = (
    Program("conmon", "conmon", "containers can't be started", True),
    Program("skopeo", "skopeo", "images can't be loaded, pulled or pushed", True),
    Program("buildah", "buildah", "images can't be built or committed", False),
    Program("dnsmasq", "dnsmasq-base", "instances can't find each other by name", True),
    Program("haproxy", "haproxy", "routes of apps lead nowhere", False, ("-v",)),
    Program("mkfs.ext4", "e2fsprogs", "VMs have no writable layer", True, ("-V",)),
    Program("mmdebstrap", "mmdebstrap", "image bootstrap doesn't work", False),
    Program("runsc", "runsc", "there is no runtime `sandbox` (optional)", False),
)
_ASSETS = ("vmlinux", "initrd", "manifest.json")


def program(machine: Machine, wanted: Program) -> Finding:
    """Installed, and its version."""
    path = machine.find(wanted.name)
    if path:
        _, text = machine.run([path, *wanted.arguments])
        return ok(wanted.name, _version(text) or path)
    tell = missing if wanted.needed else warn
    return tell(wanted.name, f"not installed: {wanted.loss}", f"apt-get install {wanted.package}")


def oci_runtime(machine: Machine) -> Finding:
    """crun, or runc where there is none."""
    for name in ("crun", "runc"):
        if path := machine.find(name):
            _, text = machine.run([path, "--version"])
            found = f"{name} {_version(text)}"
            return (
                ok("OCI runtime", found) if name == "crun" else warn("OCI runtime", f"{found}: crun starts faster", "apt-get install crun")
            )
    return missing("OCI runtime", "neither crun nor runc is installed: containers can't be started", "apt-get install crun")


def qemu(machine: Machine) -> Finding:
    """With the machine type that our VMs are."""
    path = machine.find("qemu-system-x86_64")
    if not path:
        return missing("QEMU", "not installed: VMs can't be started", "apt-get install qemu-system-x86")
    _, text = machine.run([path, "--version"])
    _, machines = machine.run([path, "-M", "help"])
    if re.search(r"^microvm\b", machines, re.MULTILINE):
        return ok("QEMU", f"{_version(text)} with microvm")
    return missing("QEMU", f"{_version(text)} has no machine type microvm", "apt-get install qemu-system-x86")


def guest(machine: Machine, folder: Path) -> Finding:
    """Kernel and initrd of the VMs."""
    lost = [name for name in _ASSETS if not machine.exists(str(folder / name))]
    if lost:
        return missing("guest kernel", f"{', '.join(lost)} not in {folder}: VMs can't be started", "make setup")
    release = re.search(r'"release": *"([^"]*)"', machine.read(str(folder / "manifest.json")))
    return ok("guest kernel", f"{release[1] if release else 'unpacked'} in {folder}")


def libnftables(machine: Machine) -> Finding:
    """In process: a tenth of the time of a program's start."""
    if machine.has_library("libnftables.so.1"):
        return ok("libnftables", "libnftables.so.1")
    return missing("libnftables", "not installed: networks can't be made", "apt-get install libnftables1")


def disk(machine: Machine, home: Home) -> Finding:
    """Free space for images and writable layers."""
    free = machine.free_bytes(str(home.state)) / 1e9
    text = f"{free:.0f} GB free for {home.state}"
    if free < 1:
        return missing("disk", text, "free some: twinhull system prune")
    return ok("disk", text) if free >= 5 else warn("disk", text, "images take about 0.2 GB each: twinhull system prune")


def group(machine: Machine) -> Finding:
    """Members may use the daemon without sudo."""
    if machine.has_group("twinhull"):
        return ok("group twinhull", "its members may use the daemon (that is as good as root)")
    return warn("group twinhull", "doesn't exist: only root can use the daemon", "groupadd --system twinhull")


def _version(text: str) -> str:
    """The first thing in a program's words that looks like a version."""
    found = re.search(r"\b\d+\.\d+[\w.+~-]*", text)
    return found[0] if found else ""
