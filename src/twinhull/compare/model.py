"""What a comparison consists of. Pure data: a metric, what is recorded of it, and the record of a whole run.

A record is one line of JSON in the run's journal; `kind` says which of the classes below it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Better(StrEnum):
    """In which direction a metric improves."""

    LOWER = "lower"
    HIGHER = "higher"


class Bound(StrEnum):
    """What limits a metric; decides what an emulated CPU does to its meaning."""

    CPU = "cpu"
    """The guest's instructions: under TCG the figure is about the emulator."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that is measured. `how`: the pair of events, or the tool with its options. `band`: what counts as equal, relative."""

    name: str
    """GROUP.WORD; the group is the measure that records it."""
    title: str
    unit: str
    """s, bytes, 1/s, B/s or 1."""
    how: str
    better: Better = Better.LOWER
    bound: Bound = Bound.CPU
    band: float = 0.10

    @property
    def group(self) -> str:
        """The measure."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Turn:
    """One measure of one subject once. Round 0 is the warm-up."""

    measure: str
    subject: str
    round: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A value. `at`: seconds since the epoch; `detail`: what else is known of it (its place on a curve, the image)."""

    metric: str
    subject: str
    round: int
    value: float
    at: float = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "sample"


@dataclass(frozen=True, slots=True)
class Missing:
    """A value that can't be had, and why."""

    metric: str
    subject: str
    round: int
    reason: str
    kind: str = "missing"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something seen that is no quantity to compare: a cell of the isolation table. `data`: what it was counted from."""

    column: str
    subject: str
    text: str
    how: str
    data: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "fact"


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a turn. Records of a turn without it don't count: they are of a turn that was interrupted."""

    measure: str
    subject: str
    round: int
    seconds: float
    kind: str = "done"

    @property
    def turn(self) -> Turn:
        """Which."""
        return Turn(self.measure, self.subject, self.round)


Record = Sample | Missing | Fact
_KINDS: dict[str, type[Sample | Missing | Fact | Done]] = {"sample": Sample, "missing": Missing, "fact": Fact, "done": Done}


@dataclass(frozen=True, slots=True)
class Run:
    """What a run was asked to do, and where: the head of its journal. A run that goes on must be asked the same."""

    id: str
    image: str
    subjects: tuple[str, ...]
    """The first is the one that the others are compared with."""
    profile: str
    seed: int
    measures: tuple[str, ...]
    rounds: int = 0
    """0: as the profile says."""
    workload: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    started_at: float = 0.0
    tools: str = ""
    """The image with the programs that measure."""
    service: Mapping[str, Any] = field(default_factory=dict)
    """Of a service: where it is described (service.Source), its app, its mark, and where its copies differ from it (remarks)."""
    words: tuple[str, ...] = ()
    """Of the command line: what is compared, and its load."""
    kind: str = "run"

    @property
    def title(self) -> str:
        """What is compared, for people."""
        return f"service {self.service['service']} of {self.service['app']} ({self.image})" if self.service else self.image

    @property
    def baseline(self) -> str:
        """What the others are compared with."""
        return self.subjects[0]


@dataclass(frozen=True, slots=True)
class Results:
    """All that is known of a run."""

    run: Run
    samples: tuple[Sample, ...]
    """Of complete turns, warm-ups apart."""
    missing: tuple[Missing, ...]
    facts: tuple[Fact, ...]
    done: frozenset[Turn]
    complete: bool
    """Whether all turns of the plan are done."""

    def values(self, metric: str, subject: str) -> tuple[float, ...]:
        """In the order in which they were measured."""
        return tuple(sample.value for sample in self.samples if sample.metric == metric and sample.subject == subject)


def plain(record: Record | Done | Run) -> dict[str, Any]:
    """As JSON takes it, the kind first."""
    fields = asdict(record)
    return {"kind": fields.pop("kind"), **fields}


def parse(fields: Mapping[str, Any]) -> Record | Done:
    """A line of a journal. Raises KeyError and TypeError for one that isn't of this version."""
    rest = dict(fields)
    return _KINDS[rest.pop("kind")](**rest)


def parse_run(fields: Mapping[str, Any]) -> Run:
    """The head of a journal. Raises TypeError."""
    rest = {key: value for key, value in fields.items() if key != "kind"}
    lists = {key: tuple(rest.get(key, ())) for key in ("subjects", "measures", "words")}
    return Run(**{**rest, **lists})


def gather(run: Run, records: list[Record | Done], planned: int) -> Results:
    """From a journal's lines: records of complete turns only, each turn once."""
    done = {record.turn: record for record in records if isinstance(record, Done)}
    open_turn: list[Record] = []
    kept: dict[Turn, list[Record]] = {}
    for record in records:
        if isinstance(record, Done):
            kept.setdefault(record.turn, open_turn)
            open_turn = []
        else:
            open_turn.append(record)
    found = [record for turn, turn_records in kept.items() if turn.round > 0 for record in turn_records]
    return Results(
        run,
        tuple(record for record in found if isinstance(record, Sample)),
        tuple(record for record in found if isinstance(record, Missing)),
        tuple(record for record in found if isinstance(record, Fact)),
        frozenset(done),
        len(done) >= planned,
    )
