"""The doctor's checks against a fake machine: each requirement fine, and each broken one named with its mend."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from twinhull import home as homes
from twinhull.doctor import daemon, kernel, main, programs
from twinhull.doctor.finding import Finding, Level, missing, ok, warn
from twinhull.doctor.machine import Machine, ThisMachine
from twinhull.doctor.report import examine, render

_NFT = "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n"


@dataclass
class FakeMachine:
    """A fit machine; tests take things away from it."""

    kernel: str = "6.1.0-30-amd64"
    files: dict[str, str] = field(
        default_factory=lambda: {
            "/proc/filesystems": "nodev\ttmpfs\nnodev\toverlay\n\text4\n",
            "/proc/sys/user/max_user_namespaces": "100\n",
            "/proc/sys/kernel/seccomp/actions_avail": "kill_process allow\n",
            "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
            "/dev/loop-control": "",
            "/dev/net/tun": "",
        }
    )
    programs: dict[str, str] = field(
        default_factory=lambda: {
            "crun": "crun version 1.8.1\ncommit: x",
            "runc": "runc version 1.1.5",
            "qemu-system-x86_64": "QEMU emulator version 7.2.9 (Debian 1:7.2)\nmicrovm              microvm (i386)\n",
            **{wanted.name: f"{wanted.name} 1.2.3" for wanted in programs.PROGRAMS},
        }
    )
    unshare: tuple[int, str] = (0, "")
    chains: tuple[int, str] = (0, "")
    root: bool = True
    idmap: bool = True
    libraries: tuple[str, ...] = ("libnftables.so.1",)
    groups: tuple[str, ...] = ("twinhull",)
    free: int = 50_000_000_000
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def release(self) -> str:
        return self.kernel

    def read(self, path: str) -> str:
        return self.files.get(path, "")

    def exists(self, path: str) -> bool:
        return path in self.files

    def is_device(self, path: str) -> bool:
        return path in self.files

    def find(self, program: str) -> str:
        return f"/usr/bin/{program}" if program in self.programs else ""

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str]:
        self.asked.append(tuple(argv))
        if argv[0] == "unshare":
            return self.unshare
        if argv[0] == "nft":
            return self.chains
        return 0, self.programs[argv[0].removeprefix("/usr/bin/")]

    def free_bytes(self, path: str) -> int:
        return self.free

    def is_root(self) -> bool:
        return self.root

    def can_idmap(self) -> bool:
        return self.idmap

    def has_library(self, name: str) -> bool:
        return name in self.libraries

    def has_group(self, name: str) -> bool:
        return name in self.groups


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


def test_the_fake_answers_every_question() -> None:
    """A check that asks something new must be answerable by tests."""
    questions = {name for name in vars(Machine) if not name.startswith("_")}
    assert questions <= set(dir(FakeMachine))
    assert questions <= set(dir(ThisMachine))


KERNEL_CHECKS = [
    kernel.version,
    kernel.overlay,
    kernel.loop,
    kernel.user_namespaces,
    kernel.idmapped_mounts,
    kernel.seccomp,
    kernel.network,
    kernel.tun,
    kernel.nftables,
    kernel.cgroups,
    kernel.forward_policy,
    programs.oci_runtime,
    programs.qemu,
    programs.libnftables,
    programs.group,
]


@pytest.mark.parametrize("check", KERNEL_CHECKS)
def test_a_fit_machine_passes(machine: FakeMachine, check: Callable[[Machine], Finding]) -> None:
    finding = check(machine)
    assert finding.level is Level.OK
    assert finding.mend == ""


def without(path: str) -> Callable[[FakeMachine], None]:
    def apply(machine: FakeMachine) -> None:
        del machine.files[path]

    return apply


def setting(**values: object) -> Callable[[FakeMachine], None]:
    def apply(machine: FakeMachine) -> None:
        for name, value in values.items():
            setattr(machine, name, value)

    return apply


@pytest.mark.parametrize(
    ("check", "spoil", "level", "words"),
    [
        (kernel.version, setting(kernel="5.18.99"), Level.MISSING, "5.18.99"),
        (kernel.version, setting(kernel="odd"), Level.MISSING, "odd"),
        (kernel.overlay, without("/proc/filesystems"), Level.MISSING, "modprobe overlay"),
        (kernel.loop, without("/dev/loop-control"), Level.WARN, "modprobe loop"),
        (kernel.user_namespaces, lambda m: m.files.update({"/proc/sys/user/max_user_namespaces": "0"}), Level.MISSING, "sysctl -w"),
        (kernel.idmapped_mounts, setting(idmap=False), Level.MISSING, "ext4"),
        (kernel.idmapped_mounts, setting(root=False), Level.WARN, "sudo"),
        (kernel.seccomp, without("/proc/sys/kernel/seccomp/actions_avail"), Level.MISSING, "CONFIG_SECCOMP_FILTER"),
        (kernel.network, setting(unshare=(2, "RTNETLINK answers: Operation not supported\n")), Level.MISSING, "not supported"),
        (kernel.tun, without("/dev/net/tun"), Level.MISSING, "modprobe tun"),
        (kernel.nftables, setting(unshare=(1, "Error: x\nCould not process rule\n")), Level.MISSING, "Could not process rule"),
        (kernel.cgroups, lambda m: m.files.update({"/sys/fs/cgroup/cgroup.controllers": "cpu pids"}), Level.MISSING, "memory"),
        (kernel.forward_policy, setting(chains=(0, _NFT)), Level.WARN, "ip filter"),
        (programs.oci_runtime, lambda m: m.programs.pop("crun"), Level.WARN, "runc 1.1.5"),
        (programs.qemu, lambda m: m.programs.pop("qemu-system-x86_64"), Level.MISSING, "apt-get install qemu-system-x86"),
        (programs.qemu, lambda m: m.programs.update({"qemu-system-x86_64": "QEMU emulator version 4.0"}), Level.MISSING, "microvm"),
        (programs.libnftables, setting(libraries=()), Level.MISSING, "libnftables1"),
        (programs.group, setting(groups=()), Level.WARN, "groupadd"),
    ],
)
def test_what_is_broken_is_named_with_its_mend(
    machine: FakeMachine, check: Callable[[Machine], Finding], spoil: Callable[[FakeMachine], object], level: Level, words: str
) -> None:
    spoil(machine)
    finding = check(machine)
    assert finding.level is level
    assert finding.mend
    assert words in f"{finding.text} {finding.mend}"


def test_no_runtime_at_all_is_missing(machine: FakeMachine) -> None:
    machine.programs.clear()
    assert programs.oci_runtime(machine).level is Level.MISSING


def test_overlay_as_a_module_counts(machine: FakeMachine) -> None:
    machine.files["/proc/filesystems"] = "nodev\ttmpfs\n"
    machine.files["/lib/modules/6.1.0-30-amd64/modules.dep"] = "kernel/fs/overlayfs/overlay.ko:\n"
    assert kernel.overlay(machine).level is Level.OK


@pytest.mark.parametrize("unified", [True, False])
def test_version_one_and_hybrid_cgroups_count(machine: FakeMachine, unified: bool) -> None:
    del machine.files["/sys/fs/cgroup/cgroup.controllers"]
    machine.files.update({f"/sys/fs/cgroup/{name}": "" for name in ("cpu", "memory", "pids", "freezer")})
    if unified:
        machine.files["/sys/fs/cgroup/unified"] = ""
    finding = kernel.cgroups(machine)
    assert finding.level is Level.OK
    assert ("hybrid" in finding.text) == unified
    del machine.files["/sys/fs/cgroup/memory"]
    assert kernel.cgroups(machine).level is Level.MISSING


def test_our_own_tables_are_no_other_firewall(machine: FakeMachine) -> None:
    machine.chains = (0, _NFT.replace("ip filter", "inet twinhull-1a2b3"))
    assert kernel.forward_policy(machine).level is Level.OK


@pytest.mark.parametrize("wanted", programs.PROGRAMS, ids=lambda wanted: wanted.name)
def test_each_program_is_told_with_version_or_package(machine: FakeMachine, wanted: programs.Program) -> None:
    assert programs.program(machine, wanted) == ok(wanted.name, "1.2.3")
    del machine.programs[wanted.name]
    finding = programs.program(machine, wanted)
    assert finding.level is (Level.MISSING if wanted.needed else Level.WARN)
    assert finding.mend == f"apt-get install {wanted.package}"


def test_guest_needs_all_of_its_files(machine: FakeMachine) -> None:
    folder = Path("/g")
    machine.files.update({f"/g/{name}": "" for name in ("vmlinux", "initrd", "manifest.json")})
    machine.files["/g/manifest.json"] = '{"release": "6.1.0-30-amd64"}'
    assert "6.1.0-30-amd64" in programs.guest(machine, folder).text
    del machine.files["/g/initrd"]
    assert programs.guest(machine, folder) == missing("guest kernel", "initrd not in /g: VMs can't be started", "make setup")


@pytest.mark.parametrize(("free", "level"), [(500_000_000, Level.MISSING), (2_000_000_000, Level.WARN), (9_000_000_000, Level.OK)])
def test_disk_space_has_two_marks(machine: FakeMachine, free: int, level: Level) -> None:
    machine.free = free
    assert programs.disk(machine, homes.at(Path("/x"))).level is level


def test_daemon_that_does_not_run_is_a_remark_only(tmp_path: Path) -> None:
    assert daemon.running(homes.at(tmp_path)).level is Level.WARN


def test_without_kvm_no_probe_is_made(machine: FakeMachine) -> None:
    finding = daemon.accelerator(machine, homes.at(Path("/x")))
    assert (finding.level, machine.asked) == (Level.WARN, [])
    assert "emulated" in finding.text


def test_report_has_a_line_for_each_and_a_verdict() -> None:
    findings = [ok("kernel", "6.1"), warn("group twinhull", "no", "groupadd"), missing("tun", "none", "modprobe tun")]
    lines = render(findings, color=False)
    assert lines[0] == "ok       kernel          6.1"
    assert lines[2].split() == ["→", "groupadd"]
    assert lines[-1] == "Not ready: 1 missing. Mend these, then run `twinhull doctor` again."
    assert render(findings[:2], color=False)[-1] == "Ready: containers and VMs can run; 1 thing(s) could be better."
    assert render(findings[:1], color=False)[-1] == "Ready: containers and VMs can run."
    assert "\033[31m" in render(findings, color=True)[3]


def test_examine_asks_everything_once(machine: FakeMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINHULL_ASSETS", "/g")
    machine.files.update({f"/g/{name}": "" for name in ("vmlinux", "initrd", "manifest.json")})
    findings = examine(machine, homes.at(tmp_path))
    subjects = [finding.subject for finding in findings]
    assert len(subjects) == len(set(subjects)) > 20
    assert [finding.subject for finding in findings if finding.level is not Level.OK] == ["VM acceleration", "daemon"]


@pytest.mark.parametrize("level", list(Level))
def test_exit_status_and_json(level: Level, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("twinhull.doctor.report.examine", lambda *_: [Finding("thing", level, "so", "do")])
    assert main(argparse.Namespace(json=True)) == (1 if level is Level.MISSING else 0)
    assert json.loads(capsys.readouterr().out) == [{"subject": "thing", "level": level.value, "text": "so", "mend": "do"}]
    main([])
    assert "thing" in capsys.readouterr().out


def test_this_machine_answers_without_harm(tmp_path: Path) -> None:
    this = ThisMachine()
    assert this.read("/proc/sys/kernel/osrelease").strip() == this.release()
    assert this.read(str(tmp_path / "none")) == ""
    assert this.run(["no-such-program"])[0] == 127
    assert this.run(["cat"], "in")[1] == "in"
    assert this.is_device("/dev/null")
    assert not this.is_device("/etc/passwd")
    assert this.free_bytes(str(tmp_path / "a" / "b")) > 0
    assert this.has_library("libc.so.6")
    assert not this.has_library("libnosuch.so.9")
    assert not this.has_group("no-such-group")
