"""`resources: auto`: the size of a service's instances follows what they use; and the guests that wait for a service that sleeps.

A container's limits change while it runs; a VM has its new size from its next replacement on. Both are written down with what is wanted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from twinhull.engine.apps.meters import Meter, Subject
from twinhull.engine.base import Event
from twinhull.engine.instances import Instances
from twinhull.engine.live import Live
from twinhull.engine.snapshots import can_be_parked, key
from twinhull.errors import TwinhullError
from twinhull.instance.vm.parking import want
from twinhull.plan.resize import WINDOW, Resize, Size, resize
from twinhull.spec.app import APP_LABEL, SERVICE_LABEL
from twinhull.spec.instance import Resources, Runtime

_log = logging.getLogger(__name__)
LEAST = Size(0.1, 32 << 20)
"""What an instance has in any case."""
LEAST_VM = Size(0.5, 128 << 20)
"""A guest's kernel and its monitor live on it too: with a tenth of a CPU the next start would take as long as ten."""
_WARM_EVERY = 300.0
"""Seconds after which the pool of parked guests is reminded of those that wait for a service; it forgets after 900."""


@dataclass(eq=False)
class Sizing:
    """window: seconds of use that count. oom: services whose instances the kernel killed for lack of memory, and when."""

    instances: Instances
    window: float = WINDOW
    oom: dict[str, float] = field(default_factory=dict)
    _reminded: float = 0.0

    def size(self, subject: Subject) -> Size:
        """Of an instance made now. 0: no limit."""
        resources = subject.spec.template.resources
        return subject.app.wanted.sizes.get(subject.spec.name, Size(resources.cpus, resources.memory))

    def happened(self, event: Event) -> None:
        """An instance's event: what ran out of memory gets more."""
        if event.kind == "instance" and event.action == "oom":
            live = self.instances.lives.get(event.id)
            labels = live.record.spec.labels if live is not None else {}
            self.oom[f"{labels.get(APP_LABEL, '')}/{labels.get(SERVICE_LABEL, '')}"] = event.at

    async def look(self, subjects: Iterable[Subject], meters: Mapping[str, Meter], now: float) -> None:
        """Change what has to be changed."""
        for subject in subjects:
            if subject.scale.auto_resources and subject.name in meters:
                await self._adjust(subject, meters[subject.name], now)
        self.remind(subjects, now)

    async def _adjust(self, subject: Subject, meter: Meter, now: float) -> None:
        bounds = _bounds(subject)
        present = _whole(self.size(subject), bounds[1])
        result = resize(tuple(meter.uses), present, bounds, now, oom_at=self.oom.pop(subject.name, 0.0), window=self.window)
        if result.reason:
            app, name = subject.app, subject.spec.name
            app.change(sizes={**app.wanted.sizes, name: result.size})
            self._tell(subject, result)
        size = subject.app.wanted.sizes.get(subject.spec.name)
        if size is not None:
            for live in subject.lives:
                await self._change(live, size)

    def _tell(self, subject: Subject, result: Resize) -> None:
        text = f"{result.size.cpus:g} CPUs, {result.size.memory >> 20} MiB each: {result.reason}"
        subject.app.note("resize", subject.spec.name, text)
        attributes = {"service": subject.spec.name, "reason": result.reason}
        attributes |= {"cpus": f"{result.size.cpus:g}", "memory": str(result.size.memory)}
        self.instances.events.emit("app", "resize", "", subject.app.name, **attributes)

    async def _change(self, live: Live, size: Size) -> None:
        """The limits of one that runs. What can't be given now (more is in use) is tried again with the next look."""
        wanted = sized(live.record.spec.resources, size)
        if live.record.spec.runtime is Runtime.VM or live.record.spec.resources == wanted or not live.up:
            return
        async with live.lock:
            try:
                if live.up:
                    await live.running().update(wanted)
                self.instances.database.save_instance(live.change(spec=replace(live.record.spec, resources=wanted)))
            except (TwinhullError, OSError) as error:
                _log.info("resize %s: %s", live.record.name, error)

    # guests that wait

    def remind(self, subjects: Iterable[Subject], now: float) -> None:
        """Parked guests of the services' shapes stay wanted."""
        due = now - self._reminded >= _WARM_EVERY
        for subject in subjects:
            self._learn(subject)
            if due:
                self.keep_warm(subject)
        self._reminded = now if due else self._reminded

    def _learn(self, subject: Subject) -> None:
        """From which snapshot its guests go on, as long as there is one to see it by."""
        if not (subject.scale.keep_warm and subject.spec.template.snapshot):
            return
        app, name, launcher = subject.app, subject.spec.name, self.instances.launcher
        for live in subject.lives[:1]:
            found = key(live, launcher.contents(live)) if live.record.spec.snapshot else ""
            if found and app.wanted.snapshots.get(name) != found and launcher.captures.store.has(found):
                app.change(snapshots={**app.wanted.snapshots, name: found})
                self.keep_warm(subject)

    def keep_warm(self, subject: Subject) -> None:
        """Have as many guests wait for it as `keep_warm` says."""
        template = subject.spec.template
        if template.runtime is not Runtime.VM or not subject.scale.keep_warm or not can_be_parked(template):
            return
        launcher = self.instances.launcher
        snapshot = subject.app.wanted.snapshots.get(subject.spec.name, "") if template.snapshot else ""
        known = snapshot if snapshot and launcher.captures.store.has(snapshot) else ""
        wish = want(sized(template.resources, self.size(subject)), len(template.networks), known)
        for _ in range(subject.scale.keep_warm):
            launcher.pool.expect(wish)


def sized(resources: Resources, size: Size) -> Resources:
    """With another size."""
    return replace(resources, cpus=size.cpus, memory=size.memory)


def _bounds(subject: Subject) -> tuple[Size, Size]:
    """(least, most): what the file says is the most, where it says something, else the machine's own."""
    resources = subject.spec.template.resources
    whole = Size(float(len(os.sched_getaffinity(0))), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    most = Size(resources.cpus or whole.cpus, resources.memory or whole.memory)
    least = LEAST_VM if subject.spec.template.runtime is Runtime.VM else LEAST
    return Size(min(least.cpus, most.cpus), min(least.memory, most.memory)), most


def _whole(size: Size, most: Size) -> Size:
    """Without a limit it has all there is."""
    return Size(size.cpus or most.cpus, size.memory or most.memory)
