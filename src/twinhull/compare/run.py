"""One comparison from its plan to its results: takes the turns in their order, and leaves nothing but a journal.

Ctrl-C ends it between two bytes: what was made is removed, what was measured is kept, and `--resume` goes on with the next turn.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinhull import __version__
from twinhull.client import Client
from twinhull.compare import measures, model, plan, statistics, tools
from twinhull.compare.bench import Bench
from twinhull.compare.journal import Journal
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.model import Done, Missing, Results, Run, Turn
from twinhull.compare.plan import Planned
from twinhull.compare.subjects.base import Subject
from twinhull.compare.subjects.hull import Hull
from twinhull.compare.subjects.peer import KNOWN, Peer
from twinhull.errors import TwinhullError, UserError
from twinhull.spec.instance import InstanceSpec, Runtime
from twinhull.sys import proc

Say = Callable[[str], None]
BUDGET = {"quick": 170.0, "full": 1770.0}
"""Seconds within which the last turn must end, as far as it is known how long it takes: with the report, three minutes and half an hour."""
_PLANNED = {"quick": 1.0, "full": 0.9}
"""Share of them that the plan may use by its guesses. A quick run has no round to give away: its second stage waits for --resume."""
_OWN = {
    "quick": ("workload", "start", "memory", "isolation", "reach"),
    "full": ("workload", "start", "cold", "memory", "density", "jitter", "image", "isolation", "escape", "reach"),
}
"""What is measured where it is the user's own application; the tools say the same whatever the image is."""
DEFAULT_RUNTIMES = ("container", "vm")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says."""

    image: str
    runtimes: tuple[str, ...] = DEFAULT_RUNTIMES
    profile: str = "quick"
    against: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    rounds: int = 0
    seed: int = 0
    workload: Mapping[str, Any] | None = None
    tools: str = tools.IMAGE
    service: Mapping[str, Any] = field(default_factory=dict)
    """As in Run."""
    words: tuple[str, ...] = ()
    """As in Run."""


def begin(client: Client, asked: Asked) -> Run:
    """The head of a new run. Raises what the daemon says: without one, and without the image, there is nothing to compare."""
    client.ping()
    client.image(asked.image)
    try:
        runtimes = [Runtime.parse(word).value for word in asked.runtimes]
    except ValueError as error:
        raise UserError(str(error)) from error
    subjects = tuple(dict.fromkeys((*runtimes, *asked.against)))
    if asked.service and asked.against:
        raise UserError("--against: other engines can't reach a service's networks", "compare its image with them instead")
    if len(subjects) < 2:
        raise UserError("one runtime can't be compared with itself", "name two: --runtimes container,vm")
    now = time.time()
    return Run(
        id=time.strftime("%Y%m%d-%H%M%S", time.localtime(now)) + f"-{asked.seed:x}",
        image=asked.image,
        subjects=subjects,
        profile=asked.profile,
        seed=asked.seed,
        measures=_chosen(asked),
        rounds=asked.rounds,
        workload=asked.workload or {},
        machine=machine(client),
        started_at=now,
        tools=asked.tools,
        service=asked.service,
        words=asked.words or (asked.image,),
    )


def _chosen(asked: Asked) -> tuple[str, ...]:
    for word in asked.only:
        if word not in measures.BY_NAME:
            raise UserError(f"--only {word}: there is no such measure", f"use {', '.join(measures.BY_NAME)}")
    if asked.only:
        return asked.only
    if asked.workload or asked.service:
        return _OWN[asked.profile]
    return tuple(name for name in measures.BY_NAME if name != "workload")


def machine(client: Client) -> dict[str, Any]:
    """What the figures hold for."""
    info = client.info()
    model_name = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    return {
        "kernel": platform.release(),
        "cpu": model_name,
        "cpus": os.cpu_count(),
        "memory": info.get("memory", 0),
        "accelerator": info.get("accelerator", "unknown"),
        "twinhull": __version__,
        "kvm": Path("/dev/kvm").exists(),
        "load": os.getloadavg()[0],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of the programs that hold the instances: the first line that each says."""
    found = {}
    for program in ("crun", "qemu-system-x86_64", "runsc"):
        try:
            found[program] = proc.run_blocking([program, "--version"], timeout=10, check=False).text.splitlines()[0].strip()
        except (proc.ProcessError, TimeoutError, IndexError):
            continue
    return found


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


class Runner:
    """Takes the turns that are left."""

    def __init__(self, client: Client, journal: Journal, say: Say) -> None:
        self.journal = journal
        self.run = journal.run
        self._client = client
        self._say = say
        self.template: InstanceSpec | None = None
        """Of a service; must be there before turns are taken."""
        self._chosen: Sequence[Measure] = [measures.BY_NAME[name] for name in self.run.measures]
        self._subjects = {subject.name: subject for subject in map(self._subject, self.run.subjects)}
        planned = [self._plan(measure) for measure in self._chosen]
        self._budget = math.inf if self.run.rounds else BUDGET[self.run.profile]
        self._planned = plan.fit(planned, self._budget * _PLANNED[self.run.profile], statistics.MINIMUM)
        self.turns = plan.schedule([planned for planned in self._planned if planned.rounds], self.run.seed)

    def _subject(self, words: str) -> Subject:
        if words.partition("=")[0] in KNOWN:
            return Peer(self._client, words, self.run.id)
        return Hull(self._client, Runtime(words), self.run.id)

    def _plan(self, measure: Measure) -> Planned:
        names = tuple(one.name for one in self._subjects.values() if isinstance(one, Hull) or not measure.hulls_only)
        rounds = self.run.rounds if self.run.rounds and measure.metrics else measure.rounds(self.run.profile)
        return Planned(measure.name, rounds, measure.warm_up, names, measure.seconds(self.run.profile), measure.stage)

    def results(self) -> Results:
        """Of what is done so far."""
        return model.gather(self.run, self.journal.records, len(self.turns))

    def take(self, progress: Callable[[int, int, float, Turn], None]) -> Results:
        """All turns that are left. KeyboardInterrupt passes through, after everything was removed."""
        bench = Bench(self._client, self.run, self._subjects, self.template)
        try:
            bench.close()  # what an earlier, killed part of this run left
            self._prepare()
            self._turns(bench, progress)
        finally:
            bench.close()
        return self.results()

    def _prepare(self) -> None:
        """Images where they are needed; a subject that can't be measured is left with a reason in each of its rows."""
        self._trouble = {name: subject.trouble() for name, subject in self._subjects.items()}
        for name, why in self._trouble.items():
            if why:
                self._say(f"{name} can't be measured: {why}")
        try:
            tools.provide(self._client, self.run.tools, self._say)
        except TwinhullError as error:
            self._say(f"no tools image: {error.message}")
        for name, subject in self._subjects.items():
            for image in (self.run.image, self.run.tools) if not self._trouble[name] else ():
                try:
                    subject.provide(image)
                except TwinhullError as error:
                    self._say(f"{name}: {image}: {error.message}")

    def _turns(self, bench: Bench, progress: Callable[[int, int, float, Turn], None]) -> None:
        guesses = {planned.name: planned.guess for planned in self._planned}
        finished = {record.turn for record in self.journal.records if isinstance(record, Done)}
        left = [turn for turn in self.turns if turn not in finished]
        begin, skipped = time.monotonic(), 0
        for number, turn in enumerate(left):
            done = [record for record in self.journal.records if isinstance(record, Done)]
            rest = self._budget - (time.monotonic() - begin)
            if plan.remaining([turn], done, guesses) > rest:
                skipped += 1
                continue
            seconds = min(plan.remaining(left[number:], done, guesses), rest)
            progress(len(self.turns) - len(left) + number, len(self.turns), seconds, turn)
            self._one(bench, turn)
        if skipped:
            self._say(f"the time of a {self.run.profile} run is used up, with {skipped} turns left: --resume takes them")

    def _one(self, bench: Bench, turn: Turn) -> None:
        measure = measures.BY_NAME[turn.measure]
        recorder = Recorder(bench, self._subjects[turn.subject], turn.round)
        begin = time.perf_counter()
        why = self._trouble[turn.subject]
        if why:
            recorder.records += [Missing(metric.name, turn.subject, turn.round, why) for metric in measure.metrics]
        else:
            _guarded(measure, recorder)
        for record in recorder.records:
            self.journal.write(record)
        self.journal.write(Done(turn.measure, turn.subject, turn.round, time.perf_counter() - begin))


def _guarded(measure: Measure, recorder: Recorder) -> None:
    """A measure's own failure is a row too."""
    try:
        measure.take(recorder)
    except (TwinhullError, OSError, ValueError, LookupError) as error:
        known = {record.metric for record in recorder.records if not isinstance(record, model.Fact)}
        for metric in measure.metrics:
            if metric.name not in known:
                recorder.missing(metric.name, str(error))
