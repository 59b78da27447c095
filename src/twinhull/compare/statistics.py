"""Medians, their intervals, and what two sets of samples say about each other. Pure; randomness is passed in.

The method, in one paragraph: the effect is the ratio of two medians; its 95 % interval comes from a percentile bootstrap (Efron and
Tibshirani 1993) over both sets; the ratio is "the same" if the whole interval lies within the equivalence band around 1 (two one-sided
tests, Schuirmann 1987), "better" or "worse" if the interval leaves 1 out, and undecided otherwise. Below MINIMUM samples a set decides
nothing: with five against five, that two sets don't overlap at all has a probability of 2/252 if they are equal; with three it is 1/10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from twinhull.compare.model import Better

MINIMUM = 5
"""Samples of each side."""
RESAMPLES = 1000
CONFIDENCE = 0.95
MOST = 10_000
"""Samples above which "needs n" says no more than that it isn't worth it."""
_TINY = 1e-12


class Word(StrEnum):
    """What follows for a subject, compared with the baseline."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no difference"
    OPEN = "not decided"


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one set. `low`, `high`: the 95 % interval of the median."""

    n: int
    median: float
    p99: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of two sets. `ratio`: the subject's median over the baseline's, with its interval; `needs`: samples of each side, 0 if decided."""

    word: Word
    ratio: float
    low: float
    high: float
    band: float
    needs: int = 0

    def __str__(self) -> str:
        if self.word is Word.SAME:
            return f"no difference beyond {self.band * 100:g} %"
        if self.word is Word.OPEN:
            return f"not decided, needs n = {self.needs if self.needs <= MOST else f'more than {MOST}'}"
        return self.word.value


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones. `values` isn't empty."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def quantile(values: Sequence[float], share: float) -> float:
    """By nearest rank: a value that was seen. Below 100 samples the 99th percentile is thus the greatest."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1))]


def summary(values: Sequence[float], random: Random) -> Summary:
    """Of a set that isn't empty."""
    low, high = interval([median(random.choices(values, k=len(values))) for _ in range(RESAMPLES)])
    return Summary(len(values), median(values), quantile(values, 0.99), low, high)


def compare(baseline: Sequence[float], subject: Sequence[float], better: Better, band: float, random: Random) -> Verdict:
    """What `subject` is against `baseline`; both have at least one value."""
    ratio = _ratio(median(subject), median(baseline))
    resampled = [
        _ratio(median(random.choices(subject, k=len(subject))), median(random.choices(baseline, k=len(baseline)))) for _ in range(RESAMPLES)
    ]
    low, high = interval(resampled)
    count = min(len(baseline), len(subject))
    if count < MINIMUM:
        return Verdict(Word.OPEN, ratio, low, high, band, MINIMUM)
    if 1 / (1 + band) <= low and high <= 1 + band:
        return Verdict(Word.SAME, ratio, low, high, band)
    if low <= 1 <= high:
        return Verdict(Word.OPEN, ratio, low, high, band, needed(count, ratio, (low, high), band))
    return Verdict(Word.WORSE if (ratio > 1) is (better is Better.LOWER) else Word.BETTER, ratio, low, high, band)


def needed(count: int, ratio: float, between: tuple[float, float], band: float) -> int:
    """Samples of each side with which the same scatter would decide: intervals shrink with the root of n."""
    width = (math.log(max(between[1], _TINY)) - math.log(max(between[0], _TINY))) / 2
    effect = abs(math.log(max(ratio, _TINY)))
    goal = max(effect, math.log1p(band) - effect, _TINY)
    return min(max(count + 1, math.ceil(count * (width / goal) ** 2)), MOST + 1)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle CONFIDENCE of resampled values."""
    tail = (1 - CONFIDENCE) / 2
    return quantile(values, tail), quantile(values, 1 - tail)


def ecdf(values: Sequence[float]) -> list[tuple[float, float]]:
    """The empirical distribution function: (value, share of samples that are at most that), ascending."""
    ordered = sorted(values)
    return [(value, (number + 1) / len(ordered)) for number, value in enumerate(ordered)]


def _ratio(above: float, below: float) -> float:
    """Of two medians; what isn't positive (a difference of two noisy readings) counts as next to nothing."""
    return max(above, _TINY) / max(below, _TINY)
