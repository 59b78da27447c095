"""How many instances a service needs: the decision of the autoscaler, in the terms of Kubernetes' HPA and Knative's KPA.

Each target makes a wish from its metric's average over `window`; the most demanding wins. When the average over `panic_window` asks for
twice of what is ready, the service is in panic: the short window counts too, and nothing is scaled down until a whole window has passed
without. A metric that is missing or stale never scales down. Then come the bounds, in this order: scale_down_delay, rates, schedule,
min, use, max, budget. Nothing here knows a clock: time comes in, memory comes in and goes out. `Decision` has all that
`twinhull scale explain` shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from twinhull.plan import schedule
from twinhull.plan.demand import Reading, Sample, read
from twinhull.spec.app import ScaleSpec, ScaleTarget
from twinhull.spec.source import shown

TOLERANCE = 0.1
"""Deviation from the target within which nothing changes (HPA's figure)."""
PANIC = 2.0
"""How many times of what is ready the short window has to ask for (KPA's panic-threshold-percentage)."""
INTERVAL = 1.0
"""Seconds between two measurements, each with a decision; at zero the activator decides when the first request comes."""
LATENCY_STEP = 1.3
"""By which factor a latency may raise the number at once."""
_MINUTE = 60.0
_GAP = 5.0
"""Seconds without a decision after which nothing is known of the time before."""
_SHARED = frozenset({"concurrency", "rps", "queue", "query"})
"""Totals, shared by the instances; the others (cpu, memory, p95) are averages over the instances."""


@dataclass(frozen=True, slots=True)
class ScaleMemory:
    """What one decision leaves for the next; the engine keeps it as it is.

    wishes: (time, number) of the last `scale_down_delay` seconds; desired: (time, number from then on) of the last minute, for the rates.
    """

    panic_since: float = 0.0
    panic_until: float = 0.0
    panic_peak: int = 0
    wishes: tuple[tuple[float, int], ...] = ()
    desired: tuple[tuple[float, int], ...] = ()
    lowered_at: float = 0.0


_adapter: TypeAdapter[dict[str, ScaleMemory]] = TypeAdapter(dict[str, ScaleMemory])


def dump(memories: Mapping[str, ScaleMemory]) -> bytes:
    """JSON of the memories of an app's services."""
    return _adapter.dump_json(dict(memories))


def restore(text: bytes | str) -> dict[str, ScaleMemory]:
    """The opposite of `dump`."""
    return _adapter.validate_json(text)


@dataclass(frozen=True, slots=True)
class Load:
    """What is known of a service. current: instances wanted so far; ready: of them ready.

    metrics: samples by `key(target)`, by time, at least as long as the window. last_used: when a request, connection or WebSocket
    was last open (now, if one is): without it nothing goes to zero. granted: what the machine's budget allows, -1 no bound.
    """

    now: float
    current: int
    ready: int
    metrics: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    last_used: float = 0.0
    granted: int = -1


@dataclass(frozen=True, slots=True)
class Wish:
    """What one target asks for. instances None: it can't say, and why is in `note`."""

    target: ScaleTarget
    reading: Reading
    instances: int | None
    panic: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bound:
    """One step of the decision that changed the number."""

    name: str
    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """desired: instances from now on. decided_by: the target or bound that had the last word.

    wake_at: decide again then, even without new metrics; 0: no need.
    """

    desired: int
    decided_by: str
    wishes: tuple[Wish, ...]
    bounds: tuple[Bound, ...]
    panic: bool
    memory: ScaleMemory
    wake_at: float = 0.0

    @property
    def reason(self) -> str:
        """For `top` and metrics: why it is this number."""
        return f"{self.decided_by}: {self.bounds[-1].reason}" if self.bounds else ""


def key(target: ScaleTarget) -> str:
    """Under which name a target's samples are kept, and it is shown: "rps", "queue:nats://…", without a password."""
    return f"{target.kind}:{shown(target.source)}" if target.source else target.kind


def decide(spec: ScaleSpec, load: Load, memory: ScaleMemory) -> Decision:
    """How many instances there should be."""
    wishes = tuple(_wish(target, spec, load, memory) for target in spec.targets)
    known = [wish for wish in wishes if wish.instances is not None]
    blind = [wish for wish in wishes if wish.instances is None]
    memory, panic = _panic(known, spec, load, memory)
    chain = _Chain(load.current)
    if known:
        most = max(known, key=lambda wish: wish.instances or 0)
        chain.set(_name(most.target), most.instances or 0, most.note)
    if panic and memory.panic_peak > chain.value:
        chain.set("panic", memory.panic_peak, f"the last {spec.panic_window:g} s ask for {PANIC:g} times of what is ready, or more")
    if not wishes:
        chain.set("min", spec.min, "there is no target")
    if blind and chain.value < load.current:
        chain.set("missing metric", load.current, "; ".join(wish.note for wish in blind))
    memory = _hold(chain, spec, load, memory)
    _limit_rates(chain, spec, load, memory)
    wake_at = _bound(chain, spec, load)
    memory = _remember(chain.value, load, memory)
    return Decision(chain.value, chain.decided_by, wishes, tuple(chain.bounds), panic, memory, wake_at)


class _Chain:
    """The number on its way through the bounds."""

    def __init__(self, current: int) -> None:
        self.value = current
        self.decided_by = "nothing"
        self.bounds: list[Bound] = []

    def set(self, name: str, value: int, reason: str) -> None:
        if value != self.value or not self.bounds:
            self.bounds.append(Bound(name, self.value, value, reason))
            self.decided_by = name
        self.value = value


def _name(target: ScaleTarget) -> str:
    return f"target {key(target)}"


def _wish(target: ScaleTarget, spec: ScaleSpec, load: Load, memory: ScaleMemory) -> Wish:
    reading = read(load.metrics.get(key(target), ()), load.now, spec.window, spec.panic_window)
    if reading.age is None:
        return Wish(target, reading, None, note=f"{key(target)} is missing")
    if not reading.fresh or reading.stable is None:
        return Wish(target, reading, None, note=f"{key(target)} is stale: {reading.age:.0f} s old")
    if target.kind in _SHARED:
        return _shared(target, reading, load)
    unused = not spec.min and load.now >= load.last_used + spec.window
    if unused and any(each.kind in _SHARED for each in spec.targets):  # whose wish says whether there is work
        return Wish(target, reading, 0, None, f"{reading.stable:.4g}, but nobody has used it within {spec.window:g} s")
    if load.ready == 0:
        return Wish(target, reading, None, note=f"{key(target)}: no instance is ready")
    return _latency(target, reading, spec, load, memory) if target.kind == "p95" else _average(target, reading, load)


def _shared(target: ScaleTarget, reading: Reading, load: Load) -> Wish:
    """A total, of which each instance is to have `value`."""
    assert reading.stable is not None and reading.latest is not None
    if load.current == 0:
        # Asleep: the averages are full of nothing, the last value is what has come.
        wish = _up(reading.latest / target.value)
        return Wish(target, reading, wish, wish, f"{reading.latest:.4g} now, asleep, target {target.value:g} each")
    stable = _tolerant(reading.stable, target.value, load.current)
    panic = _up(reading.panic / target.value) if reading.panic is not None else None
    return Wish(target, reading, stable, panic, f"{reading.stable:.4g} in all, target {target.value:g} each")


def _average(target: ScaleTarget, reading: Reading, load: Load) -> Wish:
    """An average over the instances, which is to be `value`: as many as would bring it there, if it fell with their number.

    Not zero: what an idle instance uses doesn't say that nobody needs it.
    """
    assert reading.stable is not None
    stable = max(1, _tolerant(reading.stable * load.ready, target.value, load.current))
    panic = _up(reading.panic * load.ready / target.value) if reading.panic is not None else None
    return Wish(target, reading, stable, panic, f"{reading.stable:.4g} on average, target {target.value:g}")


def _latency(target: ScaleTarget, reading: Reading, spec: ScaleSpec, load: Load, memory: ScaleMemory) -> Wish:
    """Up by steps, each judged by what came after it; down by one.

    Under overload a latency grows without bound, and says little of how many are missing; at ease it says nothing of how many are too many.
    """
    assert reading.stable is not None
    changed = memory.desired[-1][0] if memory.desired else 0.0
    since = read([each for each in load.metrics[key(target)] if each.at > changed], load.now, spec.window, spec.panic_window)
    note = f"{reading.stable:.4g} s, target {target.value:g} s"
    waiting = load.ready < load.current or since.stable is None or load.now - changed < spec.panic_window
    if since.stable is not None and since.stable > target.value * (1 + TOLERANCE):
        return Wish(target, reading, load.current if waiting else _up(load.current * LATENCY_STEP), None, note)
    low = reading.stable < target.value * (1 - TOLERANCE) / 2 and load.now - changed >= spec.window
    return Wish(target, reading, max(1, load.current - 1) if low else load.current, None, note)


def _up(number: float) -> int:
    """Rounded up, but for what the floating point adds."""
    return math.ceil(number - 1e-9)


def _tolerant(total: float, value: float, current: int) -> int:
    if current and abs(total / (value * current) - 1) <= TOLERANCE:
        return current
    return _up(total / value)


def _panic(known: Sequence[Wish], spec: ScaleSpec, load: Load, memory: ScaleMemory) -> tuple[ScaleMemory, bool]:
    wanted = max((wish.panic for wish in known if wish.panic is not None), default=0)
    if wanted >= PANIC * max(1, load.ready) and wanted > 1:
        since = memory.panic_since if load.now < memory.panic_until else load.now
        peak = max(wanted, memory.panic_peak) if load.now < memory.panic_until else wanted
        return replace(memory, panic_since=since, panic_until=load.now + spec.window, panic_peak=peak), True
    if load.now < memory.panic_until:
        return replace(memory, panic_peak=max(memory.panic_peak, wanted)), True
    return replace(memory, panic_since=0.0, panic_until=0.0, panic_peak=0), False


def _hold(chain: _Chain, spec: ScaleSpec, load: Load, memory: ScaleMemory) -> ScaleMemory:
    """Down only to the most that was wished within `scale_down_delay`, and not twice within it."""
    since = load.now - spec.scale_down_delay
    kept = tuple(each for each in memory.wishes if each[0] > since)
    if not memory.wishes or memory.wishes[-1][0] <= load.now - max(spec.scale_down_delay, _GAP):
        kept = ((load.now, load.current),)  # nobody has looked for a while: as if what there is had just been asked for
    memory = replace(memory, wishes=(*kept, (load.now, chain.value)))
    if chain.value >= load.current:
        return memory
    if memory.lowered_at > since:
        chain.set("scale_down_delay", load.current, f"scaled down {load.now - memory.lowered_at:.0f} s ago")
        return memory
    most = min(load.current, max(number for _, number in memory.wishes))
    if most > chain.value:
        chain.set("scale_down_delay", most, f"the most that was asked for within {spec.scale_down_delay:g} s")
    return memory


def _limit_rates(chain: _Chain, spec: ScaleSpec, load: Load, memory: ScaleMemory) -> None:
    """`rate_up`, `rate_down`: by which factor it may change within a minute; zero counts as one."""
    recent = [load.current, *(number for _, number in memory.desired)]
    most = max(load.current, math.ceil(spec.rate_up * max(1, min(recent))))
    if spec.rate_up and chain.value > most:
        chain.set("rate_up", most, f"at most {spec.rate_up:g} times within a minute")
    least = min(load.current, math.floor(max(recent) / spec.rate_down)) if spec.rate_down else 0
    if chain.value < least:
        chain.set("rate_down", least, f"not below 1/{spec.rate_down:g} within a minute")


def _bound(chain: _Chain, spec: ScaleSpec, load: Load) -> float:
    """Schedule, use, min, max and the machine's budget. When a schedule begins or ends."""
    least, reason, wake_at = schedule.floor(spec.schedules, load.now)
    if chain.value < least:
        chain.set("schedule", least, reason)
    if chain.value < spec.min:
        chain.set("min", spec.min, f"min is {spec.min}")
    if chain.value == 0 and load.current and load.now < load.last_used + spec.window:
        chain.set("in use", 1, f"used within the last {spec.window:g} s")
        wake_at = min(wake_at or math.inf, load.last_used + spec.window)
    if chain.value > spec.max:
        chain.set("max", spec.max, f"max is {spec.max}")
    if 0 <= load.granted < chain.value:
        chain.set("budget", load.granted, "the machine's budget is used up by services of the same or a higher priority")
    return wake_at


def _remember(desired: int, load: Load, memory: ScaleMemory) -> ScaleMemory:
    """What was in force at the beginning of the last minute is part of it."""
    before = [each for each in memory.desired if each[0] <= load.now - _MINUTE][-1:]
    history = [*before, *(each for each in memory.desired if each[0] > load.now - _MINUTE)] or [(load.now - _MINUTE, load.current)]
    if desired != history[-1][1]:
        history.append((load.now, desired))
    lowered = load.now if desired < load.current else memory.lowered_at
    return replace(memory, desired=tuple(history), lowered_at=lowered)
