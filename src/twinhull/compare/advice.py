"""Which hull for an instance: what it is, laid over what was measured. Pure: the caller asks the daemon.

The rules are few and in order, and each says why. Where the figures leave it open, so does the advice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from twinhull.compare.measures import reach
from twinhull.compare.model import Results
from twinhull.compare.report import facts
from twinhull.compare.report.facts import Report
from twinhull.compare.report.text import value
from twinhull.compare.statistics import Word
from twinhull.spec.app import ServiceSpec
from twinhull.spec.instance import InstanceSpec, NetworkMode

_MUCH = 0.02
"""Share of an hour spent on starting, above which the start latency counts."""
_HOUR = 3600.0
_EXPOSED = {
    101: "ptrace", 155: "pivot_root", 165: "mount", 166: "umount2", 167: "swapon", 175: "init_module", 176: "delete_module",
    179: "quotactl", 246: "kexec_load", 248: "add_key", 249: "request_key", 250: "keyctl", 272: "unshare", 298: "perf_event_open",
    303: "name_to_handle_at", 304: "open_by_handle_at", 308: "setns", 310: "process_vm_readv", 311: "process_vm_writev", 312: "kcmp",
    313: "finit_module", 320: "kexec_file_load", 321: "bpf", 323: "userfaultfd", 425: "io_uring_setup", 426: "io_uring_enter",
    427: "io_uring_register",
}  # fmt: skip
"""System calls that Docker's documentation of its default profile calls significant and refuses, or once refused, for the kernel code that
they open ("Seccomp security profiles for Docker"), with their numbers on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl)."""


@dataclass(frozen=True, slots=True)
class Posture:
    """What is known of an instance. `memory`: its limit in bytes, 0: none; `needs`: what only one hull has."""

    name: str
    runtime: str
    others: bool
    """Whether it runs code of people who aren't trusted with the host."""
    starts: float
    """Per hour."""
    memory: int
    needs: tuple[str, ...]
    loose: tuple[str, ...] = ()
    """What it may do in the kernel beyond the defaults."""
    from_zero: bool = False
    """Whether it is started on demand."""
    app: str = ""
    """Of a service."""
    image: str = ""


@dataclass(frozen=True, slots=True)
class Advice:
    """`hull` "": the evidence doesn't decide."""

    instance: str
    hull: str
    reasons: tuple[str, ...]
    limits: tuple[str, ...]
    run: str


def posture(name: str, runtime: str, spec: InstanceSpec, trust: str, starts: float) -> Posture:
    """From what an instance is asked to be, and what the user says."""
    needs = ("the host's network, which only a container has",) if spec.network_mode is NetworkMode.HOST else ()
    loose = []
    if spec.security.privileged:
        loose.append("privileges")
    loose += [f"the capability {name}" for name in spec.security.cap_add]
    if spec.security.seccomp != "default":
        loose.append("a system call filter other than the default")
    return Posture(name, runtime, trust == "others", starts, spec.resources.memory, needs, tuple(loose), image=spec.image)


def of_service(app: str, service: ServiceSpec, trust: str, starts: float) -> Posture:
    """From a compose file's service."""
    found = posture(service.name, service.template.runtime.value, service.template, trust, starts)
    return replace(found, app=app, from_zero=service.scale is not None and service.scale.min == 0)


def advise(results: Results, about: Posture) -> Advice:
    """The hull with its reasons."""
    report = _about(facts.build(results), about)
    limits = [*report.remarks, *_same_machine(report)]
    if about.from_zero and not about.starts:
        limits.append("it is started on demand: --starts says how often an hour")
    if not _own_calls(report, about):
        limits.append("which system calls it makes hasn't been seen: compare the service itself (measure reach)")
    hull, reasons = _decide(report, about)
    return Advice(about.name, hull, (*reasons, *_calls(report, about)), tuple(limits), results.run.id)


def _about(report: Report, about: Posture) -> Report:
    """Without what was measured of another service."""
    told = report.run.service
    if not told or (told["app"], told["service"]) == (about.app, about.name):
        return report
    rows = tuple(row for row in report.rows if row.metric.group != "workload")
    isolation = {column: cells for column, cells in report.isolation.items() if column != reach.CALLS}
    remarks = (f"the last comparison is of another service, {told['service']} of {told['app']}", *report.remarks)
    return replace(report, rows=rows, isolation=isolation, remarks=remarks)


def _decide(report: Report, about: Posture) -> tuple[str, list[str]]:
    costs = _costs(report, about)
    if any("only a container" in need for need in about.needs):
        return "container", [f"it needs {about.needs[0]}", *costs]
    if about.others:
        return "vm", ["it runs code of others, and a container shares the host's kernel: " + _kernel(report), *costs]
    if about.loose:
        return "vm", [f"it has {', '.join(about.loose)}: in a container those are the host's kernel's, in a VM its own kernel's", *costs]
    if exposed := [_EXPOSED[number] for number in _own_calls(report, about) if number in _EXPOSED]:
        return "vm", [f"it makes system calls that default filters refuse ({', '.join(exposed)}): a VM's own kernel answers them", *costs]
    dear = [cost for cost, heavy in _weighed(report, about) if heavy]
    if dear:
        return "container", ["it runs your own code, and a VM would cost:", *dear]
    asked = [row for row in report.rows if row.metric.name in _COSTS]
    open_rows = [row.metric.title for row in asked if any(verdict.word is Word.OPEN for verdict in row.verdicts.values())]
    if open_rows or not costs:
        return "", [f"not decided by the last comparison: {title}" for title in open_rows] or ["the last comparison has no figures for it"]
    return "", ["it runs your own code, and neither its starts nor its memory make a difference that counts", *costs]


_COSTS = ("workload.ready", "workload.rate", "workload.memory", "start.output", "start.ready", "memory.anonymous")


def _costs(report: Report, about: Posture) -> list[str]:
    return [cost for cost, _ in _weighed(report, about)]


def _weighed(report: Report, about: Posture) -> list[tuple[str, bool]]:
    """What a VM costs more than a container, and whether that counts for this instance."""
    found: list[tuple[str, bool]] = []
    for row in report.rows:
        if row.metric.name not in _COSTS or "vm" not in report.subjects or "container" not in report.subjects:
            continue
        vm, container = row.cell("vm").summary, row.cell("container").summary
        verdict = row.verdicts.get("vm") or row.verdicts.get("container")
        if vm is None or container is None or verdict is None or verdict.word is Word.OPEN:
            continue
        unit = row.metric.unit
        text = f"{row.metric.title}: vm {value(vm.median, unit)}, container {value(container.median, unit)}"
        found.append((text, _counts(about, unit, vm.median - container.median)))
    return found


def _counts(about: Posture, unit: str, more: float) -> bool:
    """A start counts by its share of the hour; memory if it is more than half of what the instance itself may use."""
    if unit == "1/s":
        return False  # that fewer requests can be answered counts only where there are so many
    if unit == "s":
        return about.starts * more / _HOUR > _MUCH
    return about.memory > 0 and more > about.memory / 2


def _kernel(report: Report) -> str:
    cells = report.isolation.get("Kernel", {})
    return "; ".join(f"{subject}: {fact.text}" for subject, fact in cells.items()) or "the last comparison didn't look"


def _own_calls(report: Report, about: Posture) -> list[int]:
    """Numbers of the system calls that it was seen to make under its own load as a container; none if that is of another image."""
    fact = report.isolation.get(reach.CALLS, {}).get("container")
    return sorted(fact.data.get("own", ())) if fact and report.run.image == about.image else []


def _calls(report: Report, about: Posture) -> list[str]:
    """What it asks of the host's kernel in either hull."""
    cells = report.isolation.get(reach.CALLS, {}) if _own_calls(report, about) else {}
    told = "; ".join(f"{subject}: {fact.text}" for subject, fact in cells.items() if subject in ("container", "vm"))
    return [f"{reach.CALLS}: {told}"] if told else []


def _same_machine(report: Report) -> tuple[str, ...]:
    return (f"figures of {report.run.title} on this machine, run {report.run.id}",)


def text(found: Advice) -> str:
    """For people."""
    first = f"{found.instance}: {found.hull}" if found.hull else f"{found.instance}: the evidence doesn't decide"
    return "\n".join([first, *(f"  - {reason}" for reason in found.reasons), *(f"  ! {limit}" for limit in found.limits)]) + "\n"


def plain(found: Advice) -> dict[str, Any]:
    """For programs."""
    return asdict(found)
