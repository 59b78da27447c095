"""How the rate goes over the time of a load, and when its requests are due. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

Shape = Callable[[float], float]
"""Requests per second at a time (seconds since the beginning)."""
SHAPES = ("steady", "step", "ramp", "spike", "sine", "day")
_LOW = 0.1
"""What goes before a step and around a spike, of the whole rate."""
_SPIKE = 5.0
_WAVES = 4
_NIGHT = 0.25
"""Share of a day without a request."""
_STEP = 0.01
"""Seconds in which a rate counts as constant."""


def shape(name: str, rate: float, seconds: float) -> Shape:
    """One of SHAPES with `rate` as its highest, over `seconds`."""
    shapes: dict[str, Shape] = {
        "steady": lambda t: rate,
        "step": lambda t: rate if seconds / 4 <= t < seconds * 3 / 4 else rate * _LOW,
        "ramp": lambda t: rate * t / seconds,
        "spike": lambda t: rate if abs(t - seconds / 2) < min(_SPIKE, seconds / 4) / 2 else rate * _LOW,
        "sine": lambda t: rate * (1 - math.cos(2 * math.pi * _WAVES * t / seconds)) / 2,
        "day": lambda t: rate * max(0.0, math.sin(math.pi * (t / seconds - _NIGHT) / (1 - _NIGHT))),
    }
    return shapes[name]


def due(rate: Shape, seconds: float) -> Iterator[float]:
    """Times at which requests are due, rising: one whenever the area below the rate has grown by one."""
    now, missing = 0.0, 1.0
    while now < seconds:
        current = rate(now)
        step = min(_STEP, missing / current) if current > 0 else _STEP
        missing -= current * step
        now += step
        if missing <= 1e-9 and now < seconds:
            yield now
            missing = 1.0
