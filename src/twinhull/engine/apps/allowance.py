"""The machine's budget in numbers: what every instance asks for, and who has to go when memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twinhull.engine.apps.meters import Meter, Subject
from twinhull.engine.apps.state import App, replicas
from twinhull.engine.live import Live
from twinhull.instance.vm.parking import want
from twinhull.plan import budget
from twinhull.plan.budget import Claim, Grant, Room, Use
from twinhull.spec.app import APP_LABEL, ONE_OFF_LABEL
from twinhull.spec.instance import Resources, Runtime

RESERVE = 0.04
"""Part of the machine's memory that has to be available, or instances are evicted: below it the kernel soon kills by itself."""
_EVICTED_FOR = 60.0
"""Seconds in which what was evicted doesn't come back."""
_LEAVING = 10.0
"""Seconds that what was evicted may take to go, and to be missed in the measurements, before more have to follow."""
_FIXED = 1 << 30
"""Priority of what isn't scaled: it is there already, so it comes first."""
_MEMINFO = Path("/proc/meminfo")


def shortage() -> int:
    """Bytes that are missing from the reserve; 0: it is whole, or can't be told."""
    try:
        words = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        total, available = (int(words[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return 0
    return max(0, int(total * RESERVE) - available)


@dataclass(eq=False)
class Allowance:
    """`room`: what the owner allows for everything that runs here."""

    room: Room
    apps: Mapping[str, App]
    lives: Mapping[str, Live]
    shortage: Callable[[], int] = shortage
    """Bytes that the machine lacks."""
    caps: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Service → (until when, the most it may have): its instances were evicted."""

    def admit(self, subjects: Iterable[Subject], wanted: Mapping[str, int], now: float) -> dict[str, Grant]:
        """What each may have, by "APP/SERVICE"; those who aren't named want what they have. Empty where there is no bound."""
        self.caps = {name: cap for name, cap in self.caps.items() if cap[0] > now}
        if not (self.room.cpus or self.room.memory or self.caps):
            return {}
        claims = [_claim(subject, wanted.get(subject.name, subject.count)) for subject in subjects]
        grants = budget.admit(self.room, (*claims, *self._fixed({claim.service for claim in claims})))
        found = {claim.service: grants[claim.service] for claim in claims}
        for name, (_, most) in self.caps.items():
            if name in found and found[name].instances > most:
                found[name] = Grant(most, "memory was short a moment ago, and its priority is the lowest")
        return found

    def _fixed(self, scaled: set[str]) -> list[Claim]:
        """Services with a fixed number, and instances that belong to none."""
        found = []
        for app in self.apps.values():
            for spec in app.spec.services.values() if app.revisions and not app.wanted.removed else ():
                name = f"{app.name}/{spec.name}"
                if name not in scaled and app.wants(spec.name):
                    count = replicas(app.wanted, spec)
                    found.append(Claim(name, _FIXED, count, count, count, *_request(spec.template.resources, spec.template.runtime)))
        for live in self.lives.values():
            spec_of = live.record.spec
            if live.up and (APP_LABEL not in spec_of.labels or ONE_OFF_LABEL in spec_of.labels):
                found.append(Claim(f"instance {live.id}", _FIXED, 1, 1, 1, *_request(spec_of.resources, spec_of.runtime)))
        return found

    def evictions(self, subjects: Sequence[Subject], meters: Mapping[str, Meter], now: float) -> list[tuple[Subject, int, str]]:
        """(service, instances that it may keep, why): before the kernel chooses whom to kill."""
        if any(self._is_leaving(each, meters, now) for each in subjects):
            return []  # what is measured still counts it: others would follow it for nothing
        uses = [
            Use(each.name, each.scale.priority, each.scale.min, len(each.lives), meters[each.name].memory)
            for each in subjects
            if each.name in meters and each.lives
        ]
        if not uses:
            return []
        total = sum(use.memory for use in uses)
        short = max(total - self.room.memory if self.room.memory else 0, self.shortage())
        if short <= 0:
            return []
        found = []
        by_name = {subject.name: subject for subject in subjects}
        for eviction in budget.evict(total - short, uses):
            subject = by_name[eviction.service]
            left = max(0, min(subject.count, len(subject.lives)) - eviction.instances)
            self.caps[eviction.service] = (now + _EVICTED_FOR, left)
            found.append((subject, left, f"evicted: {eviction.reason}"))
        return found

    def _is_leaving(self, subject: Subject, meters: Mapping[str, Meter], now: float) -> bool:
        """Whether an eviction from it hasn't had its effect yet."""
        until, left = self.caps.get(subject.name, (0.0, 0))
        at = until - _EVICTED_FOR
        if not at < now < at + _LEAVING:
            return False
        return len(subject.lives) > left or (left > 0 and subject.name in meters and meters[subject.name].inside_at <= at)


def _claim(subject: Subject, wanted: int) -> Claim:
    size = subject.app.wanted.sizes.get(subject.spec.name)
    template = subject.spec.template
    cpus, memory = (size.cpus, size.memory) if size else _request(template.resources, template.runtime)
    return Claim(subject.name, subject.scale.priority, subject.scale.min, wanted, subject.count, cpus, memory)


def _request(resources: Resources, runtime: Runtime) -> tuple[float, int]:
    """(CPUs, bytes) of one instance; what a container doesn't say counts nothing, a VM has a size in any case."""
    if runtime is Runtime.VM:
        guest = want(resources, 0)
        return resources.cpus or float(guest.cpus), guest.memory
    return resources.cpus, resources.memory
