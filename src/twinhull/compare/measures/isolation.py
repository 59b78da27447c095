"""Isolation, seen from inside and outside: separate columns, which are never merged into one score."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from twinhull.compare import bpf, tracee
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.report.text import value
from twinhull.compare.subjects.base import Subject
from twinhull.errors import TwinhullError
from twinhull.instance.base import Region

KERNEL, CALLS, VMM, DEVICES, POSTURE = (
    "Kernel",
    "System calls answered to the workload",
    "System calls open to the VMM process",
    "Device surface",
    "Posture of the workload",
)
LAST = 470
"""The last number that is tried, as in probes/syscalls.py."""
NUMBERS = frozenset((*range(335), *range(424, LAST + 1)))
"""Those that x86-64 has given out, or may soon (arch/x86/entry/syscalls/syscall_64.tbl)."""
_CAPABILITIES = 41
_MASKED = "/proc/kcore /proc/keys /proc/timer_list /proc/acpi /sys/firmware"


class Isolation(Measure):
    """Facts, each seen once."""

    name = "isolation"
    quick, full, guess, long, warm_up = 1, 1, 4.2, 4.2, False

    def take(self, turn: Recorder) -> None:
        for column, look in ((KERNEL, _kernel), (CALLS, _calls), (VMM, _vmm), (DEVICES, _devices), (POSTURE, _posture)):
            try:
                look(turn)
            except (TwinhullError, OSError, ValueError) as error:
                turn.fact(column, "not seen", str(error))


def _kernel(turn: Recorder) -> None:
    """The same build, booted at the same second, is the same kernel; boot_id proves nothing, for every instance is given its own."""
    script = "cat /proc/version; grep btime /proc/stat || true"
    inside = turn.bench.tool(turn.subject, "sh", "-c", script).splitlines()
    outside = [
        Path("/proc/version").read_text().strip(),
        *(x for x in Path("/proc/stat").read_text().splitlines() if x.startswith("btime")),
    ]
    release = inside[0].split()[2]
    shared = inside == outside
    text = f"shared with the host: Linux {release}" if shared else f"its own: {release}"
    turn.fact(KERNEL, text, "/proc/version and btime of /proc/stat, inside and outside", {"inside": inside, "outside": outside})


def _calls(turn: Recorder) -> None:
    answers = json.loads(turn.bench.probe(turn.subject, "syscalls"))
    allowed = sorted(NUMBERS & {int(number) for number, word in answers.items() if word == "allowed"})
    whose = {"container": ", by the host's kernel", "vm": ", by its own kernel"}.get(turn.subject.name, "")
    text = f"{len(allowed)} of {len(NUMBERS)} numbers{whose}"
    turn.fact(
        CALLS,
        text,
        "each number once with arguments of -1, in a forked process; EPERM, ENOSYS and SIGSYS are refusals",
        {"allowed": allowed},
    )


def _vmm(turn: Recorder) -> None:
    how = "PTRACE_SECCOMP_GET_FILTER of every thread, evaluated for every number with arguments of 0, 1 and -1"
    machines = [pid for pid in turn.subject.processes(turn.bench.box(turn.subject)) if _is_machine(pid)]
    if not machines:
        turn.fact(VMM, "there is no VMM: the workload's own calls reach the host's kernel", how)
        return
    numbers: set[int] = set()
    threads = tracee.threads(machines[0])
    for tid in threads:
        numbers |= NUMBERS & bpf.allowed(tracee.filters(tid), LAST)
    turn.fact(VMM, f"{len(numbers)} of {len(NUMBERS)} numbers, over {len(threads)} threads", how, {"allowed": sorted(numbers)})


def _is_machine(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("qemu")
    except OSError:
        return False


_DRIVERS = {"container": "the host's kernel's", "sandbox": "gVisor's", "vm": "its own kernel's"}


def _devices(turn: Recorder) -> None:
    """What a workload can open, and below it what the kernel that answers has of the host: its hardware, or what QEMU emulates."""
    nodes = json.loads(turn.bench.probe(turn.subject, "nodes"))
    opened = [path for path, (_, word) in nodes.items() if word == "opened"]
    disks = [path for path in opened if nodes[path][0] == "block"]
    names = ", ".join(path.removeprefix("/dev/") for path in opened)
    reached = f"{len(opened)} of {len(nodes)} nodes in /dev can be opened ({names}), {'disks: ' + ', '.join(disks) if disks else 'no disk'}"
    words, data = [f"{reached}; their drivers are {_DRIVERS.get(turn.subject.name, 'its kernel')}"], {"nodes": nodes}
    models = _models(turn.subject, turn)
    if models:
        told, regions = _emulated(turn)
        words.append(f"{told}, for {', '.join(models)}, a serial line, a clock, interrupt controllers")
        data |= {"models": models, "regions": [[region.space, region.start, region.size, region.name] for region in regions]}
    how = "every node opened once, no ioctl; VM: `info mtree -f` of the running QEMU without RAM, ROM and gaps; -device of its command line"
    turn.fact(DEVICES, "; ".join(words), how, data)


def _emulated(turn: Recorder) -> tuple[str, tuple[Region, ...]]:
    """What QEMU answers to the guest, as the daemon is told by it; or why that isn't known."""
    try:
        regions = turn.bench.client.regions(turn.bench.box(turn.subject).ident)
    except TwinhullError as error:
        return f"what QEMU answers to the guest isn't known ({error.message})", ()
    memory, ports = ([region.size for region in regions if region.space == space] for space in ("memory", "ports"))
    told = (
        f"QEMU answers {len(memory)} regions of memory ({value(sum(memory), 'bytes')}) and {len(ports)} of I/O ports ({sum(ports)} ports)"
    )
    return told, regions


def _models(subject: Subject, turn: Recorder) -> list[str]:
    """What QEMU emulates, from its command line."""
    for pid in subject.processes(turn.bench.box(subject)):
        if _is_machine(pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            return sorted({after.partition(",")[0] for word, after in itertools.pairwise(words) if word == "-device"})
    return []


def _posture(turn: Recorder) -> None:
    own = "cat /proc/self/status /proc/self/uid_map; cat /proc/self/attr/current 2>/dev/null || true; echo"
    script = f"{own}; cat {_MASKED} 2>/dev/null | wc -c"
    lines = turn.bench.tool(turn.subject, "sh", "-c", script).splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    capabilities = int(status["CapEff"], 16).bit_count()
    mapped = next(line.split() for line in lines if len(line.split()) == 3 and line.split()[0].isdigit())
    root = "root is root of its own kernel" if mapped[1] == "0" else f"root is id {mapped[1]} outside"
    profile = next((line.strip("\0 ") for line in lines if "(enforce)" in line), "none")
    words = [
        f"{capabilities} of {_CAPABILITIES} capabilities",
        f"no new privileges: {'yes' if status.get('NoNewPrivs') == '1' else 'no'}",
        f"seccomp: {'filter' if status.get('Seccomp') == '2' else 'none'}",
        root,
        f"MAC profile: {profile}",
        f"masked paths show {lines[-1].strip()} bytes",
    ]
    how = f"/proc/self/status, uid_map, attr/current; {_MASKED}"
    turn.fact(POSTURE, "; ".join(words), how, {"capabilities": status["CapEff"], "uid_map": mapped})
