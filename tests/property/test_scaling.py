"""Whatever happens to the engine's autoscaler: numbers stay within min and max, and what can't be measured lowers nothing."""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.scaling import Lab

from twinhull.plan.memory import Memory, Rollout
from twinhull.spec.app import ScaleSpec, ScaleTarget

TARGETS = (ScaleTarget("rps", 10.0), ScaleTarget("concurrency", 3.0), ScaleTarget("p95", 0.2))


def some_spec(chance: random.Random) -> ScaleSpec:
    least = chance.choice([0, 0, 1, 3])
    targets = tuple(chance.sample(TARGETS, chance.randint(1, 3)))
    delay = chance.choice([0.0, 5.0])
    return ScaleSpec(least, least + chance.choice([1, 4, 20]), targets, 8.0, 3.0, delay, chance.choice([0.0, 2.0]))


async def check(seed: int, folder: Path) -> None:
    chance, lab = random.Random(seed), Lab(folder)
    spec = some_spec(chance)
    app = lab.add("shop", spec)
    for _ in range(120):
        blind = chance.random() < 0.15
        totals = lab.traffic.totals
        if blind:
            lab.traffic.totals = None
        match chance.randrange(12):
            case 0:
                lab.activator.held["shop/web"] = chance.choice([0, 1, 300])
                lab.scaler.wake("shop/web")
            case 1:
                lab.traffic.sessions["shop/web"] = chance.choice([0, 2, 100])
            case 2:
                app.memory["web"] = Memory(rollout=Rollout("new", "old")) if chance.random() < 0.5 else Memory()
            case 3:
                lab.scaler.set_by_hand(app, {"web": spec.max})
                lab.change("shop", autoscaled={"web": spec.max})
        before = lab.count("shop")
        stale = all(not kept or lab.now + 1 - kept[-1].at > 15 for kept in lab.scaler.meters.of("shop/web", lab.now).samples.values())
        await lab.run(1, {"shop": chance.choice([0, 0, 5, 200])})
        lab.traffic.totals = totals
        count = lab.count("shop")
        assert spec.min <= count <= spec.max
        if blind and stale:
            assert count >= before
        if app.memory.get("web", Memory()).rollout is not None:
            assert count >= before, "capacity was promised"
    lab.reload()
    assert lab.count("shop") == count
    await lab.close()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_within_bounds_and_never_lower_without_knowing(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(seed, Path(folder)))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_two_runs_of_the_same_day_decide_the_same(seed: int) -> None:
    async def run(folder: Path) -> list[int]:
        chance, lab = random.Random(seed), Lab(folder)
        lab.add("shop", replace(some_spec(chance), max=30))
        found = [count for _ in range(60) for count in await lab.run(1, {"shop": chance.choice([0, 20, 200])})]
        await lab.close()
        return found

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        assert asyncio.run(run(Path(one))) == asyncio.run(run(Path(two)))
