"""Known answers: equal runtimes come out equal, a planted difference is found, and too few samples decide nothing."""

from __future__ import annotations

from random import Random

import pytest

from twinhull.compare import statistics
from twinhull.compare.model import Better
from twinhull.compare.statistics import Word

RUNS = 100


def noisy(random: Random, middle: float, n: int = 20) -> list[float]:
    """As latencies scatter on a shared machine: 5 % log-normal, and one in twenty half as long again."""
    return [middle * random.lognormvariate(0, 0.05) * (1.5 if random.random() < 0.05 else 1) for _ in range(n)]


def words(factor: float, better: Better, monkeypatch: pytest.MonkeyPatch) -> list[Word]:
    """The verdicts of RUNS comparisons of two runtimes that differ by `factor`."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    random = Random(7)
    return [
        statistics.compare(noisy(random, 0.5), noisy(random, 0.5 * factor), better, 0.10, Random(number)).word for number in range(RUNS)
    ]


def test_equal_runtimes_are_no_different(monkeypatch: pytest.MonkeyPatch) -> None:
    assert words(1.0, Better.LOWER, monkeypatch).count(Word.SAME) >= 95


@pytest.mark.parametrize(("better", "expected"), [(Better.LOWER, Word.WORSE), (Better.HIGHER, Word.BETTER)])
def test_a_planted_difference_is_found(better: Better, expected: Word, monkeypatch: pytest.MonkeyPatch) -> None:
    assert words(1.2, better, monkeypatch).count(expected) >= 95


def test_few_samples_decide_nothing_and_say_how_many_would() -> None:
    found = statistics.compare([1.0] * 4, [3.0] * 4, Better.LOWER, 0.1, Random(1))
    assert (found.word, found.needs) == (Word.OPEN, statistics.MINIMUM)
    assert str(found) == "not decided, needs n = 5"


def test_scatter_leaves_it_open_and_more_samples_are_asked_for() -> None:
    random = Random(3)
    wide = [[random.lognormvariate(0, 0.5) for _ in range(8)] for _ in range(2)]
    found = statistics.compare(wide[0], wide[1], Better.LOWER, 0.05, random)
    assert found.word is Word.OPEN
    assert found.needs > 8


@pytest.mark.parametrize(
    ("values", "middle", "last"), [([3.0], 3.0, 3.0), ([1.0, 2.0], 1.5, 2.0), ([float(n) for n in range(1, 201)], 100.5, 198.0)]
)
def test_median_and_p99(values: list[float], middle: float, last: float) -> None:
    found = statistics.summary(values, Random(0))
    assert (found.n, found.median, found.p99) == (len(values), middle, last)
    assert found.low <= found.median <= found.high


def test_readings_that_came_out_negative_are_no_crash() -> None:
    found = statistics.compare([-1.0, -2.0, 0.0, 1.0, -1.0], [5.0] * 5, Better.LOWER, 0.1, Random(0))
    assert found.ratio > 1
