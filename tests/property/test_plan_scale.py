"""What holds of the autoscaler under any load, with any settings and instruments."""

from __future__ import annotations

import itertools
import math
import random

from bench.elastic import spaced
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import load
from tests.fakes.load import Lens, Service, Shape

from twinhull.plan.scale import ScaleMemory, dump, restore
from twinhull.spec.app import ScaleSpec, ScaleTarget

TARGETS = [ScaleTarget("rps", 50.0), ScaleTarget("concurrency", 2.0), ScaleTarget("cpu", 60.0), ScaleTarget("p95", 0.3)]


def some_spec(chance: random.Random) -> ScaleSpec:
    least = chance.choice([0, 0, 1, 3])
    return ScaleSpec(
        min=least,
        max=least + chance.choice([1, 5, 50]),
        targets=tuple(chance.sample(TARGETS, chance.randint(1, 3))),
        window=chance.choice([20.0, 60.0]),
        panic_window=chance.choice([3.0, 6.0]),
        scale_down_delay=chance.choice([0.0, 10.0, 30.0]),
        rate_up=chance.choice([0.0, 0.0, 2.0]),
        rate_down=chance.choice([0.0, 0.0, 2.0]),
    )


def some_shape(chance: random.Random) -> Shape:
    low, high = chance.choice([0.0, 10.0, 100.0]), chance.choice([50.0, 400.0, 2000.0])
    return chance.choice(
        [
            load.step(low, high, 30),
            load.step(high, low, 60),
            load.ramp(low, high, 20, 120),
            load.spike(low, high, 40, 5),
            load.flash_crowd(low, high, 40, 30),
            lambda t: high if int(t / 15) % 2 else low,
        ]
    )


def some_lens(chance: random.Random) -> Lens:
    def lying(metric: str, at: float, value: float) -> float:
        return chance.choice([value, value, value, 0.0, -1.0, math.nan, math.inf, value * 1000])

    return chance.choice([load.truth, load.noisy(0.2, chance), load.missing(50, 120), lying])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_it_stays_within_its_bounds_and_says_why(seed: int) -> None:
    chance = random.Random(seed)
    spec = some_spec(chance)
    trial = Service(spec, dt=0.5, starts=chance.choice([0.3, 2.0, 15.0])).run(some_shape(chance), 240, some_lens(chance))
    assert all(spec.min <= number <= spec.max for _, number in trial.desired)
    assert spaced(trial, spec.scale_down_delay)
    for decision in trial.decisions:
        assert decision.decided_by != "nothing" or decision.desired == decision.memory.desired[-1][1]
        assert all(bound.reason and bound.before != bound.after for bound in decision.bounds[1:])
        assert decision.bounds[-1].after == decision.desired if decision.bounds else True
        assert len(decision.memory.desired) <= 62 and len(decision.memory.wishes) <= 62
        assert len(decision.wishes) == len(spec.targets)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_without_metrics_it_never_scales_down(seed: int) -> None:
    chance = random.Random(seed)
    spec = some_spec(chance)
    trial = Service(spec, dt=0.5).run(some_shape(chance), 240, load.missing(60 + 15, 240))
    blind = [number for at, number in trial.desired if at > 60 + 15 + 15]
    before = [number for at, number in trial.desired if at <= 60 + 15 + 15][-1:]
    assert all(after >= earlier for earlier, after in itertools.pairwise(before + blind))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32))
def test_steady_load_ends_in_rest_at_what_the_target_asks(seed: int) -> None:
    chance = random.Random(seed)
    rate = chance.uniform(1, 2000)
    trial = Service(ScaleSpec(1, 60, TARGETS[:1]), dt=0.5).run(load.step(rate, rate, 0), 300)
    ideal = max(1, math.ceil(rate / 50))
    assert ideal * 0.9 - 1e-9 <= trial.desired[-1][1] <= max(ideal, math.ceil(ideal * 1.1))
    assert trial.desired[-1][0] < 120


def test_the_memory_survives_as_json() -> None:
    trial = Service(ScaleSpec(1, 60, TARGETS[:1])).run(load.step(10, 400, 20), 60)
    memory = {"web": trial.decisions[-1].memory}
    assert restore(dump(memory)) == memory
    assert restore(b'{"web": {}}') == {"web": ScaleMemory()}
