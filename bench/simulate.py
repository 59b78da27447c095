"""How long one plan takes, on paper machines of growing size.

    .venv/bin/python -m bench.simulate [--sizes 100,1000,10000] [--services 10] [--rounds 7] [--seed 1]

For each size: an app of that many instances in so many services comes up, is updated (start-first, ten at a time), and rests. Prints the
median and the longest plan of each phase in CPU time, which a busy machine doesn't lengthen, and the number of plans. Nothing is
executed: the machine is tests/fakes/machine.py, and everything goes well on it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from tests.fakes.machine import Machine

from twinhull.plan.observed import Desired, Wish
from twinhull.plan.reconcile import reconcile
from twinhull.spec.app import AppSpec, Dependency, ServiceSpec, UpdatePolicy
from twinhull.spec.instance import InstanceSpec


def main() -> int:
    """The program."""
    options = _options()
    print(f"{'instances':>9} {'phase':8} {'plans':>6} {'median ms':>10} {'longest ms':>11}")
    for size in (int(text) for text in options.sizes.split(",")):
        machine = Machine(_desired(size, options.services, "r1"), random.Random(options.seed), strict=False)
        _report(size, "up", _timed(machine, 600.0))
        machine.desired = _desired(size, options.services, "r2")
        _report(size, "update", _timed(machine, 60.0))
        _report(size, "rest", [_once(machine) for _ in range(options.rounds)])
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--services", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _desired(size: int, count: int, revision: str) -> Desired:
    services: dict[str, ServiceSpec] = {}
    for number in range(count):
        needs = (Dependency(f"service{number - 1}"),) if number else ()
        policy = UpdatePolicy(parallelism=10)
        services[f"service{number}"] = ServiceSpec(
            f"service{number}", InstanceSpec("image"), replicas=size // count, depends_on=needs, update=policy
        )
    return Desired(AppSpec("app", services), {name: Wish(spec, revision, spec.replicas) for name, spec in services.items()})


def _timed(machine: Machine, seconds: float) -> list[float]:
    """Milliseconds of each plan while the machine runs; events of half a second are dealt with by one plan, as a busy engine would."""
    taken: list[float] = []
    end = machine.now + seconds
    while machine.now < end:
        taken.append(_once(machine))
        plan = machine.step()
        if not plan.actions and not machine.queue and not plan.wake_at:
            break
        machine.pass_time(0.5)
    return taken


def _once(machine: Machine) -> float:
    observed = machine.observed()
    begin = time.process_time()
    reconcile(machine.desired, observed, machine.memory)
    return (time.process_time() - begin) * 1000


def _report(size: int, phase: str, taken: list[float]) -> None:
    print(f"{size:9} {phase:8} {len(taken):6} {statistics.median(taken):10.1f} {max(taken):11.1f}")


if __name__ == "__main__":
    raise SystemExit(main())
