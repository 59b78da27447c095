"""Runs all checks side by side and prints one line each; the exit status is 1 if a container or a VM can't run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

from twinhull import home as homes
from twinhull.doctor import daemon, kernel, programs
from twinhull.doctor.finding import Finding, Level
from twinhull.doctor.machine import Machine, ThisMachine
from twinhull.home import Home

_COLORS = {Level.OK: "32", Level.WARN: "33", Level.MISSING: "31"}


def main(arguments: argparse.Namespace | Sequence[str] | None = None) -> int:
    """The command. Takes a namespace with `json`, or words."""
    options = arguments if isinstance(arguments, argparse.Namespace) else _parser().parse_args(arguments)
    findings = examine(ThisMachine(), homes.current())
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print("\n".join(render(findings, color=sys.stdout.isatty())))
    return int(any(finding.level is Level.MISSING for finding in findings))


def examine(machine: Machine, home: Home) -> list[Finding]:
    """All findings, in the order of the report."""
    with ThreadPoolExecutor(8) as pool:
        return [job.result() for job in [pool.submit(check) for check in _checks(machine, home)]]


def render(findings: Sequence[Finding], *, color: bool) -> list[str]:
    """Lines for people: level, subject, how it is; the mend below."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        level = f"{finding.level.value:<8}"
        shown = f"\033[{_COLORS[finding.level]}m{level}\033[0m" if color else level
        lines.append(f"{shown} {finding.subject:<{width}}  {finding.text}")
        if finding.mend:
            lines.append(f"{'':<9}{'':<{width}}  → {finding.mend}")
    return [*lines, "", _verdict(findings)]


def _verdict(findings: Sequence[Finding]) -> str:
    count = {level: sum(finding.level is level for finding in findings) for level in Level}
    if count[Level.MISSING]:
        return f"Not ready: {count[Level.MISSING]} missing. Mend these, then run `twinhull doctor` again."
    return "Ready: containers and VMs can run" + (f"; {count[Level.WARN]} thing(s) could be better." if count[Level.WARN] else ".")


def _checks(machine: Machine, home: Home) -> list[Callable[[], Finding]]:
    kernel_checks = (
        kernel.version,
        kernel.cgroups,
        kernel.overlay,
        kernel.user_namespaces,
        kernel.idmapped_mounts,
        kernel.seccomp,
        kernel.network,
        kernel.tun,
        kernel.nftables,
        kernel.forward_policy,
        kernel.loop,
        programs.oci_runtime,
        programs.qemu,
        programs.libnftables,
        programs.group,
    )
    return [
        *(partial(check, machine) for check in kernel_checks),
        *(partial(programs.program, machine, wanted) for wanted in programs.PROGRAMS),
        partial(programs.guest, machine, homes.assets()),
        partial(daemon.accelerator, machine, home),
        partial(programs.disk, machine, home),
        partial(daemon.running, home),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="twinhull doctor", description="Check this machine, and say how to mend what is missing.")
    parser.add_argument("--json", action="store_true", help="for programs: a list of {subject, level, text, mend}")
    return parser
