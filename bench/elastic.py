"""The autoscaler's decisions under simulated load, against what the proof of the elastic services asks for.

    .venv/bin/python -m bench.elastic [--seed 1]

Nothing is started: plan/scale.py decides for a fluid model of a service (tests/fakes/load.py; 50 ms a request, 4 at once in an instance,
1 s to start). Prints for each shape of load the most instances, changes of their number and of its direction, scale-downs, the time until
no request waits longer than the target allows, and the cost in instance-seconds against an oracle that has exactly what the target
needs, at once. Exits with 1 where a bound isn't kept.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.fakes import load
from tests.fakes.load import Lens, Service, Shape, Trial

from twinhull.plan.scale import INTERVAL
from twinhull.spec.app import ScaleSpec, ScaleTarget

RPS = (ScaleTarget("rps", 50.0),)
CONCURRENCY = (ScaleTarget("concurrency", 2.0),)
LATENCY = (ScaleTarget("rps", 75.0), ScaleTarget("p95", 0.25))
QUICK = ScaleSpec(min=1, max=40, targets=RPS)
ZERO = ScaleSpec(min=0, max=40, targets=RPS)
WAIT = 0.2
"""Seconds in the queue that the p95 target of the scenarios leaves beyond the time in service."""


@dataclass(frozen=True)
class Scenario:
    """A load, and what is asked of the decision."""

    name: str
    spec: ScaleSpec
    shape: Shape
    seconds: float
    keeps: Callable[[Trial], dict[str, bool]]
    lens: Lens = load.truth
    dt: float = 0.1
    tick: float = INTERVAL
    change: float = 0.0
    """When the load changes, for the time until nobody waits."""


def scenarios(seed: int) -> list[Scenario]:
    """All, in the order of printing."""
    chance = random.Random(seed)
    both = ScaleSpec(min=1, max=40, targets=CONCURRENCY)
    step = load.step(10, 400, 60)
    stepped = _step_keeps(8)
    crowd = load.flash_crowd(10, 800, 60, 300)
    noise = load.noisy(0.15, chance)
    return [
        Scenario("step 10→400/s, rps", QUICK, step, 300, stepped, change=60),
        Scenario("step 10→400/s, concurrency", both, step, 300, _step_keeps(10), change=60),
        Scenario("step 10→400/s, p95", ScaleSpec(min=1, max=40, targets=LATENCY), step, 300, _latency_keeps, change=60),
        Scenario("step with noise", QUICK, step, 300, stepped, noise, change=60),
        Scenario("ramp 10→400/s in 5 min", QUICK, load.ramp(10, 400, 60, 360), 600, _step_keeps(8)),
        Scenario("spike ×10 for 5 s", QUICK, load.spike(40, 400, 60, 5), 300, _spike_keeps(QUICK)),
        Scenario("flash crowd ×80, long tail", QUICK, crowd, 1800, _crowd_keeps(QUICK), change=60),
        Scenario("steady with noise 15 %", QUICK, load.step(220, 220, 0), 1800, _steady_keeps, noise),
        Scenario("metrics missing for 3 min", QUICK, load.step(300, 300, 0), 600, _blind_keeps, load.missing(100, 280)),
        Scenario("day with night at zero", ZERO, load.day(600), 86_400, _day_keeps, dt=1.0, tick=5.0),
        Scenario("day with noise 10 %", ZERO, load.day(600), 86_400, _day_keeps, load.noisy(0.1, chance), 1.0, 5.0),
    ]


def _step_keeps(ideal: int) -> Callable[[Trial], dict[str, bool]]:
    return lambda trial: {
        "overshoot ≤ 30 %": trial.most <= math.ceil(ideal * 1.3),
        "enough in the end": trial.desired[-1][1] >= ideal * 0.9,
        "≤ 10 s to the target": settling(trial, 60) <= 10,
    }


def _latency_keeps(trial: Trial) -> dict[str, bool]:
    return {"overshoot ≤ 30 %": trial.most <= 8, "no flapping": trial.turns() <= 1}


def _spike_keeps(spec: ScaleSpec) -> Callable[[Trial], dict[str, bool]]:
    return lambda trial: {"no flapping": trial.turns() <= 1, "one down per delay": spaced(trial, spec.scale_down_delay)}


def _crowd_keeps(spec: ScaleSpec) -> Callable[[Trial], dict[str, bool]]:
    return lambda trial: {
        **_spike_keeps(spec)(trial),
        "overshoot ≤ 30 %": trial.most <= 21,
        "≤ 10 s to the target": settling(trial, 60) <= 10,
    }


def _steady_keeps(trial: Trial) -> dict[str, bool]:
    return {"no flapping": len(trial.desired) <= 4, "overshoot ≤ 30 %": trial.most <= 6}


def _blind_keeps(trial: Trial) -> dict[str, bool]:
    return {"never down": not trial.downs()}


def _day_keeps(trial: Trial) -> dict[str, bool]:
    return {"cost ≤ 115 %": trial.instance_seconds <= 1.15 * trial.ideal_seconds, "zero at night": trial.desired[0][1] == 0}


def settling(trial: Trial, change: float) -> float:
    """Seconds after the change until nobody waits longer than WAIT any more."""
    late = [at for at, wait in trial.waits if at >= change and wait > WAIT]
    return max(late) - change if late else 0.0


def spaced(trial: Trial, delay: float) -> bool:
    """Whether no two scale-downs are closer than the delay."""
    downs = trial.downs()
    return all(later - earlier >= delay - 1e-6 for earlier, later in itertools.pairwise(downs))


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    print(f"{'load':28} {'most':>4} {'changes':>7} {'turns':>5} {'downs':>5} {'settled s':>9} {'cost':>6}  kept")
    broken = False
    for each in scenarios(seed):
        trial = Service(each.spec, dt=each.dt, tick=each.tick).run(each.shape, each.seconds, each.lens)
        kept = each.keeps(trial)
        broken |= not all(kept.values())
        settled = f"{settling(trial, each.change):9.1f}" if each.change else f"{'':9}"
        cost = trial.instance_seconds / trial.ideal_seconds
        words = ", ".join(("" if good else "NOT ") + what for what, good in kept.items())
        counts = f"{trial.most:4} {len(trial.desired) - 1:7} {trial.turns():5} {len(trial.downs()):5}"
        print(f"{each.name:28} {counts} {settled} {cost:6.2f}  {words}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
