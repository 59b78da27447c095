"""Which turn comes when, and how long the rest will take. Pure: the seed is passed in, so that a run that goes on has the same plan.

All subjects take their turns of a round before the next round begins, in an order that is drawn anew for every round: what changes on
the machine meanwhile (its temperature, its neighbours) meets every subject alike. Measures that come second lose their turns first where
the time is used up, instead of every measure losing its last rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean

from twinhull.compare.model import Done, Turn


@dataclass(frozen=True, slots=True)
class Planned:
    """`guess`: seconds of a turn, until one has been seen; `stage`: all turns of a stage come before those of the next."""

    name: str
    rounds: int
    warm_up: bool
    subjects: tuple[str, ...]
    guess: float
    stage: int = 1


def schedule(measures: Sequence[Planned], seed: int) -> tuple[Turn, ...]:
    """Every turn, in its order."""
    random = Random(seed)
    stages = sorted({measure.stage for measure in measures})
    return tuple(turn for stage in stages for turn in _rounds([measure for measure in measures if measure.stage == stage], random))


def fit(measures: Sequence[Planned], seconds: float, least: int) -> tuple[Planned, ...]:
    """The same with fewer rounds, as far as the guesses say that they take more than `seconds`; none gets fewer than `least` for it.

    All give the same share, so that each measure's part of the time stays what it was.
    """
    for share in range(100, -1, -5):
        fitted = tuple(replace(each, rounds=min(each.rounds, max(least, each.rounds * share // 100))) for each in measures)
        if sum(map(cost, fitted)) <= seconds:
            break
    return fitted


def cost(measure: Planned) -> float:
    """Seconds of all its turns, as guessed."""
    return measure.guess * len(measure.subjects) * (measure.rounds + measure.warm_up)


def _rounds(measures: Sequence[Planned], random: Random) -> list[Turn]:
    """Of one stage."""
    turns: list[Turn] = []
    for number in range(max((measure.rounds for measure in measures), default=0) + 1):
        due = [measure for measure in measures if number <= measure.rounds and (number > 0 or measure.warm_up)]
        blocks = [[Turn(measure.name, subject, number) for subject in measure.subjects] for measure in due]
        for block in blocks:
            random.shuffle(block)
        random.shuffle(blocks)
        turns += [turn for block in blocks for turn in block]
    return turns


def remaining(left: Iterable[Turn], done: Iterable[Done], guesses: Mapping[str, float]) -> float:
    """Seconds that the turns left will take, by the mean of what the same measure of the same subject took so far."""
    seen: dict[tuple[str, str], list[float]] = {}
    for record in done:
        seen.setdefault((record.measure, record.subject), []).append(record.seconds)
    total = 0.0
    for turn in left:
        known = seen.get((turn.measure, turn.subject))
        total += fmean(known) if known else guesses.get(turn.measure, 1.0)
    return total
