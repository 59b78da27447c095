"""A service under load, on paper: requests come at a rate that changes, wait in a queue, are served by as many instances as are ready.

A fluid model: rates and queues are real numbers, time goes in steps. The autoscaler under test sees what the engine would measure, with
noise, gaps and lies where a scenario says so. Used by the tests of plan/scale.py and by bench/elastic.py.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from twinhull.plan import demand
from twinhull.plan.demand import Sample, Traffic
from twinhull.plan.scale import INTERVAL, Decision, Load, ScaleMemory, decide, key
from twinhull.spec.app import ScaleSpec

Shape = Callable[[float], float]
"""Requests per second at a time (seconds since the beginning)."""
Lens = Callable[[str, float, float], float | None]
"""What is measured instead of the truth, by metric, time and value; None: nothing."""
START = 1_800_000_000.0


def step(low: float, high: float, at: float) -> Shape:
    """From one rate to another at once."""
    return lambda t: high if t >= at else low


def ramp(low: float, high: float, begin: float, end: float) -> Shape:
    """From one rate to another steadily."""
    return lambda t: low + (high - low) * min(1.0, max(0.0, (t - begin) / (end - begin)))


def spike(low: float, high: float, at: float, seconds: float) -> Shape:
    """Once up, and down again."""
    return lambda t: high if at <= t < at + seconds else low


def day(most: float, night: float = 6 * 3600.0) -> Shape:
    """A day: nothing for the first hours, then half a sine up and down."""
    length = 86_400.0 - night
    return lambda t: most * math.sin(math.pi * (t % 86_400.0 - night) / length) if t % 86_400.0 >= night else 0.0


def flash_crowd(low: float, high: float, at: float, decay: float) -> Shape:
    """Up within seconds, then a long tail."""
    return lambda t: low if t < at else low + (high - low) * math.exp(-(t - at) / decay)


def truth(metric: str, at: float, value: float) -> float | None:
    """An honest instrument."""
    return value


def noisy(deviation: float, chance: random.Random) -> Lens:
    """Relative noise."""
    return lambda metric, at, value: max(0.0, value * chance.gauss(1.0, deviation))


def missing(begin: float, end: float, inner: Lens = truth) -> Lens:
    """No values for a while."""
    return lambda metric, at, value: None if begin <= at < end else inner(metric, at, value)


@dataclass
class Trial:
    """What happened. Times in seconds since the beginning; desired: (time, number) at each change."""

    desired: list[tuple[float, int]] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    instance_seconds: float = 0.0
    ideal_seconds: float = 0.0
    left_waiting: float = 0.0

    @property
    def most(self) -> int:
        """The largest number that was wanted."""
        return max(number for _, number in self.desired)

    def downs(self) -> list[float]:
        """Times of scale-downs."""
        return [at for (_, before), (at, after) in itertools.pairwise(self.desired) if after < before]

    def turns(self) -> int:
        """How often the direction changed: 1 for up and down again."""
        signs = [after > before for (_, before), (_, after) in itertools.pairwise(self.desired)]
        return sum(one != other for one, other in itertools.pairwise(signs))

    def worst_wait(self, begin: float, end: float) -> float:
        """The longest wait in the queue between two times."""
        return max((wait for at, wait in self.waits if begin <= at < end), default=0.0)


@dataclass
class Service:
    """time: seconds in service of a request; slots: requests at once in an instance; starts: seconds until a new instance is ready."""

    spec: ScaleSpec
    time: float = 0.05
    slots: int = 4
    starts: float = 1.0
    tick: float = INTERVAL
    """Seconds between two measurements, each with a decision."""
    dt: float = 0.1

    def run(self, shape: Shape, seconds: float, lens: Lens = truth, current: int = -1) -> Trial:
        """The trial."""
        trial = Trial()
        desired = self.spec.min if current < 0 else current
        ready = [0.0] * desired
        memory, queue, last_used, passed, following = ScaleMemory(), 0.0, -math.inf, 0.0, 0.0
        history: dict[str, deque[Sample]] = {key(target): deque() for target in self.spec.targets}
        trial.desired.append((0.0, desired))
        came = done = 0.0
        looks: deque[Traffic] = deque(maxlen=max(1, round(self.spec.panic_window / self.tick)))
        while passed < seconds:
            up = sum(when <= passed for when in ready)
            arriving = shape(passed) * self.dt
            served = min(queue + arriving, up * self.slots / self.time * self.dt)
            queue = queue + arriving - served
            came, done = came + arriving, done + served
            if arriving or queue > 1e-9:
                last_used = passed
            trial.waits.append((passed, queue * self.time / (up * self.slots) if up else (math.inf if queue else 0.0)))
            trial.instance_seconds += len(ready) * self.dt
            trial.ideal_seconds += self._ideal(shape(passed)) * self.dt
            if passed >= following:
                following += self.tick
                span = min(self.tick, passed) or self.dt
                looks.append(Traffic(came / span, done / span, served / self.dt * self.time, queue))
                self._record(history, lens, passed, self._metrics(looks, up))
                came = done = 0.0
                decision = decide(
                    self.spec, Load(START + passed, desired, up, {k: list(v) for k, v in history.items()}, START + last_used), memory
                )
                memory = decision.memory
                trial.decisions.append(decision)
                if decision.desired != desired:
                    trial.desired.append((passed, decision.desired))
                    ready = ready[: decision.desired] + [passed + self.starts] * (decision.desired - desired)
                    desired = decision.desired
            passed += self.dt
        trial.left_waiting = queue
        return trial

    def _metrics(self, looks: deque[Traffic], up: int) -> dict[str, float]:
        now = looks[-1]
        return {
            "rps": now.arrivals,
            "concurrency": demand.concurrency(tuple(looks), self.spec.window / 2),
            "cpu": 100.0 * now.in_service / (up * self.slots) if up else 0.0,
            "p95": self.time + (now.queued * self.time / (up * self.slots) if up else 0.0),
            "queue": now.queued,
        }

    def _record(self, history: dict[str, deque[Sample]], lens: Lens, passed: float, values: dict[str, float]) -> None:
        for name, samples in history.items():
            seen = lens(name, passed, values[name.partition(":")[0]])
            if seen is not None:
                samples.append(Sample(START + passed, seen))
            while samples and samples[0].at <= START + passed - self.spec.window - self.tick:
                samples.popleft()

    def _ideal(self, rate: float) -> int:
        """Instances that the first target, if it is rps or concurrency, needs at that rate."""
        target = self.spec.targets[0]
        total = rate if target.kind == "rps" else rate * self.time
        return min(self.spec.max, max(self.spec.min, math.ceil(total / target.value - 1e-9)))
