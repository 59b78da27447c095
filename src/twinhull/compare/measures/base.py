"""A measure: what it records of one subject in one turn."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from twinhull.compare.bench import Bench
from twinhull.compare.model import Fact, Metric, Missing, Record, Sample
from twinhull.compare.subjects.base import NotMeasuredError, Subject
from twinhull.errors import TwinhullError


class Measure(abc.ABC):
    """`quick`, `full`: rounds in either profile, 0: not in it. `guess`, `long`: seconds of a turn of either, until one has been seen.

    `stage`: 2 for what may wait. The guesses are what a turn of a container and one of an emulated VM take in the mean on two cores.
    """

    name: str
    metrics: tuple[Metric, ...] = ()
    quick: int
    full: int
    warm_up: bool = True
    guess: float = 2.0
    long: float = 4.0
    stage: int = 1
    hulls_only: bool = False
    """Whether peers, which have command lines only, are left out."""

    @abc.abstractmethod
    def take(self, turn: Recorder) -> None:
        """One turn."""

    def rounds(self, profile: str) -> int:
        """Of a profile."""
        return self.full if profile == "full" else self.quick

    def seconds(self, profile: str) -> float:
        """Of a turn of a profile, as guessed."""
        return self.long if profile == "full" else self.guess


@dataclass
class Recorder:
    """One turn as a measure sees it: the bench, the subject, and where its records go."""

    bench: Bench
    subject: Subject
    round: int
    records: list[Record] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether there is time for more."""
        return self.bench.full

    def sample(self, metric: str, value: float, **detail: Any) -> None:
        """A value."""
        self.records.append(Sample(metric, self.subject.name, self.round, value, time.time(), detail))

    def missing(self, metric: str, reason: str) -> None:
        """Why there is none."""
        self.records.append(Missing(metric, self.subject.name, self.round, reason))

    def fact(self, column: str, text: str, how: str, data: Mapping[str, Any] | None = None) -> None:
        """A cell of a table."""
        self.records.append(Fact(column, self.subject.name, text, how, data or {}))

    @contextmanager
    def attempt(self, *metrics: str) -> Iterator[None]:
        """What fails in the block becomes rows that say why, and the turn goes on."""
        count = len(self.records)
        try:
            yield
        except (TwinhullError, OSError, ValueError, KeyError) as error:
            told = error.message if isinstance(error, TwinhullError) else f"{type(error).__name__}: {error}"
            del self.records[count:]
            for metric in metrics:
                self.missing(metric, told)

    def tool(self, metric: str, argv: tuple[str, ...], parse: Callable[[str], float], user: str = "") -> None:
        """The value that a program in the box tells."""
        with self.attempt(metric):
            self.sample(metric, parse(self.bench.tool(self.subject, *argv, user=user)))


def number_after(text: str, words: str) -> float:
    """The number that follows `words` in a program's output. Raises NotMeasuredError."""
    _, found, rest = text.partition(words)
    try:
        return float(rest.split()[0].strip("(),"))
    except (IndexError, ValueError):
        raise NotMeasuredError(f"the output has no number after {words!r}" if found else f"the output has no {words!r}") from None
