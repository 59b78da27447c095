"""The autoscaler's decision: windows, panic, bounds in their order, missing and lying metrics, schedules, the machine's budget."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from bench.elastic import QUICK, RPS, ZERO, Scenario, scenarios, spaced
from tests.fakes import load
from tests.fakes.load import Service

from twinhull.errors import UserError
from twinhull.plan import schedule
from twinhull.plan.budget import Claim, Eviction, Room, Use, admit, evict
from twinhull.plan.demand import STALE, Sample, Traffic, concurrency, read
from twinhull.plan.scale import Load, ScaleMemory, decide
from twinhull.spec.app import ScaleSpec, ScaleTarget, Schedule

NOW = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC, a Friday."""


def steadily(value: float, seconds: float = 60.0, until: float = NOW) -> list[Sample]:
    return [Sample(until - seconds + each, value) for each in range(int(seconds) + 1)]


def rps(values: Sequence[Sample], current: int, **changes: float) -> Load:
    return Load(NOW, current, int(changes.get("ready", current)), {"rps": values}, changes.get("last_used", NOW))


@pytest.mark.parametrize("scenario", scenarios(1), ids=lambda scenario: scenario.name)
def test_each_shape_of_load_keeps_its_bounds(scenario: Scenario) -> None:
    trial = Service(scenario.spec, dt=scenario.dt, tick=scenario.tick).run(scenario.shape, scenario.seconds, scenario.lens)
    broken = [what for what, kept in scenario.keeps(trial).items() if not kept]
    assert not broken, (broken, trial.desired)


def test_the_most_demanding_target_wins_and_is_named() -> None:
    spec = ScaleSpec(1, 20, (ScaleTarget("rps", 50.0), ScaleTarget("cpu", 50.0)))
    metrics = {"rps": steadily(100.0), "cpu": steadily(90.0)}
    decision = decide(spec, Load(NOW, 4, 4, metrics), ScaleMemory())
    assert decision.desired == 8
    assert decision.decided_by == "target cpu"
    assert [wish.instances for wish in decision.wishes] == [2, 8]
    assert "90 on average, target 50" in decision.wishes[1].note


def test_within_the_tolerance_nothing_changes() -> None:
    for total in (184.0, 216.0):
        assert decide(QUICK, rps(steadily(total), 4), ScaleMemory()).desired == 4
    assert decide(QUICK, rps(steadily(224.0), 4), ScaleMemory()).desired == 5


def test_panic_looks_at_the_short_window_and_never_scales_down() -> None:
    values = [*steadily(40.0, 60.0, NOW - 3), *steadily(400.0, 2.0)]
    decision = decide(QUICK, rps(values, 1), ScaleMemory())
    assert decision.panic
    assert decision.desired == 8
    quiet = decide(QUICK, replace(rps(steadily(10.0, until=NOW + 30), 8), now=NOW + 30), decision.memory)
    assert quiet.panic
    assert quiet.desired == 8
    assert quiet.decided_by == "panic"
    calm = decide(QUICK, replace(rps(steadily(10.0, until=NOW + 100), 8), now=NOW + 100), quiet.memory)
    assert not calm.panic


def test_one_value_alone_is_no_panic() -> None:
    values = [*steadily(40.0, 60.0, NOW - 1), Sample(NOW, 40_000.0)]
    decision = decide(ScaleSpec(1, 1000, RPS, window=60.0, panic_window=6.0), rps(values, 1), ScaleMemory())
    assert decision.desired < 200, "an accident isn't multiplied by the short window's average alone"


@pytest.mark.parametrize("values", [[], steadily(10.0, until=NOW - STALE - 1), [Sample(NOW - 1, float("nan"))], [Sample(NOW - 1, -5.0)]])
def test_a_missing_stale_or_impossible_metric_never_scales_down_and_is_named(values: list[Sample]) -> None:
    decision = decide(QUICK, rps(values, 7), ScaleMemory())
    assert decision.desired == 7
    assert "rps is" in decision.wishes[0].note


def test_one_missing_metric_does_not_keep_another_from_scaling_up() -> None:
    spec = ScaleSpec(1, 20, (ScaleTarget("rps", 50.0), ScaleTarget("query", 10.0, "http://prometheus/q")))
    up = decide(spec, Load(NOW, 2, 2, {"rps": steadily(500.0)}), ScaleMemory())
    assert up.desired == 10
    down = decide(spec, Load(NOW, 8, 8, {"rps": steadily(50.0)}), ScaleMemory())
    assert (down.desired, down.decided_by) == (8, "missing metric")


def test_a_lying_metric_is_bounded_by_max_and_rate() -> None:
    lie = lambda metric, at, value: 1e12 if 60 <= at < 62 else value  # noqa: E731
    trial = Service(ScaleSpec(1, 12, RPS)).run(load.step(100, 100, 0), 300, lie)
    assert trial.most <= 12
    assert trial.turns() <= 1
    limited = Service(ScaleSpec(1, 1000, RPS, rate_up=2.0)).run(load.step(100, 100, 0), 100, lie, current=2)
    assert limited.most <= 4


def test_down_only_after_the_delay_to_the_most_of_it_and_once_in_it() -> None:
    spec = replace(QUICK, scale_down_delay=120.0)
    trial = Service(spec).run(load.flash_crowd(10, 800, 30, 120), 1200)
    assert spaced(trial, 120.0)
    assert trial.turns() <= 1
    assert trial.desired[-1][1] < trial.most


def test_rates_limit_the_change_within_a_minute() -> None:
    up = Service(replace(QUICK, rate_up=2.0)).run(load.step(40, 1000, 10), 60)
    assert up.most == 2
    down = Service(replace(QUICK, rate_down=2.0, scale_down_delay=5.0)).run(load.spike(10, 800, 5, 60), 200)
    for (before, many), (after, few) in zip(down.desired, down.desired[1:], strict=False):
        assert few >= many // 2 or after - before >= 60


def test_zero_only_when_nothing_was_open_for_a_window_and_back_by_what_waits() -> None:
    idle = decide(ZERO, rps(steadily(0.0), 1, last_used=NOW - 30), ScaleMemory(wishes=((NOW - 1, 0),)))
    assert (idle.desired, idle.decided_by) == (1, "in use")
    assert idle.wake_at == NOW + 30
    asleep = decide(ZERO, rps(steadily(0.0), 1, last_used=NOW - 61), ScaleMemory(wishes=((NOW - 1, 0),)))
    assert asleep.desired == 0
    spec = ScaleSpec(0, 40, (ScaleTarget("concurrency", 20.0),))
    woken = decide(spec, Load(NOW, 0, 0, {"concurrency": [*steadily(0.0), Sample(NOW, 200.0)]}, NOW), ScaleMemory())
    assert woken.desired == 10, "200 at once on a sleeping service: one start per needed instance"


def test_cpu_alone_never_goes_to_zero() -> None:
    spec = ScaleSpec(0, 10, (ScaleTarget("cpu", 50.0),))
    assert decide(spec, Load(NOW, 1, 1, {"cpu": steadily(0.0)}), ScaleMemory(wishes=((NOW, 0),))).desired == 1


def test_cpu_beside_a_target_that_tells_of_work_lets_an_unused_service_sleep() -> None:
    spec = ScaleSpec(0, 10, (*RPS, ScaleTarget("cpu", 50.0)))
    idle = Load(NOW, 1, 1, {"rps": steadily(0.0), "cpu": steadily(0.0)}, last_used=NOW - spec.window)
    memory = ScaleMemory(wishes=((NOW, 0),))
    assert decide(spec, idle, memory).desired == 0
    assert decide(spec, replace(idle, last_used=NOW - 1), memory).desired == 1
    assert decide(spec, replace(idle, metrics={"rps": steadily(0.0)}), memory).desired == 1, "a missing metric never lowers"


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0, 2.0])
def test_a_delay_as_short_as_a_tick_holds_no_longer_than_it_says(delay: float) -> None:
    spec = replace(QUICK, scale_down_delay=delay)
    memory, current = ScaleMemory(), 5
    for tick in range(10):
        load = replace(rps(steadily(10.0, until=NOW + tick), current), now=NOW + tick)
        decision = decide(spec, load, memory)
        memory, current = decision.memory, decision.desired
    assert current == 1


def test_budget_and_max_have_the_last_word_over_min_and_schedule() -> None:
    spec = ScaleSpec(4, 6, RPS, schedules=(Schedule("0 8 * * *", 9, 3600.0),))
    assert decide(spec, rps(steadily(10.0), 4), ScaleMemory()).desired == 6
    decision = decide(spec, replace(rps(steadily(10.0), 4), granted=3), ScaleMemory())
    assert (decision.desired, decision.decided_by) == (3, "budget")
    assert [bound.name for bound in decision.bounds] == ["target rps", "scale_down_delay", "schedule", "max", "budget"]


def test_a_schedule_holds_in_its_time_zone_from_its_time_on_and_says_when_it_ends() -> None:
    morning = Schedule("0 9 * * 1-5", 5, 3600.0, "Europe/Berlin")
    assert schedule.floor([morning], NOW) == (5, "schedule 0 9 * * 1-5 Europe/Berlin", NOW + 3600.0)
    assert schedule.floor([morning], NOW - 1) == (0, "", NOW)
    assert schedule.floor([morning], NOW + 3599.0)[0] == 5
    assert schedule.floor([morning], NOW + 3600.0)[0] == 0
    assert schedule.floor([morning], NOW + 3600.0)[2] == NOW + 3 * 86_400.0, "then Monday"
    both = [morning, Schedule("55 8 * * *", 2, 7200.0, "Europe/Berlin")]
    assert schedule.floor(both, NOW)[0] == 5
    assert schedule.floor(both, NOW + 4000.0)[0] == 2


@pytest.mark.parametrize(
    "bad", [Schedule("every day", 1, 60.0), Schedule("61 * * * *", 1, 60.0), Schedule("0 8 * * *", 1, 60.0, "Mars/Base")]
)
def test_a_bad_schedule_says_what_is_wrong(bad: Schedule) -> None:
    with pytest.raises(UserError):
        schedule.check(bad)


def test_readings_leave_out_what_can_not_be() -> None:
    reading = read([Sample(NOW - 5, 4.0), Sample(NOW - 1, float("inf")), Sample(NOW + 5, 1.0)], NOW, 60, 6)
    assert (reading.stable, reading.latest, reading.age, reading.panic) == (4.0, 4.0, 5.0, None)


def test_a_queue_counts_as_what_it_takes_to_drain_it() -> None:
    steady = Traffic(80.0, 80.0, 4.0, 0.0)
    assert concurrency([steady], 30.0) == 4.0
    overload = Traffic(400.0, 80.0, 4.0, 600.0)
    assert concurrency([steady, overload], 30.0) == pytest.approx(20 + 600 * 0.05 / 30)
    assert concurrency([Traffic(200.0, 0.0, 0.0, 200.0)], 30.0) == 200.0
    assert concurrency([Traffic(0.0, 0.0, 50.0, 0.0)], 30.0) == 50.0, "open WebSockets"


def test_the_budget_gives_everybody_its_min_then_by_priority_then_round() -> None:
    claims = [Claim("a", 0, 1, 6, 0, 1.0), Claim("b", 10, 1, 4, 0, 1.0), Claim("c", 0, 1, 6, 0, 1.0)]
    grants = admit(Room(cpus=8.0), claims)
    assert {name: grant.instances for name, grant in grants.items()} == {"a": 2, "b": 4, "c": 2}
    assert grants["a"].reason == "the machine's budget has room for 2 of 6; b has precedence"
    assert not grants["b"].reason
    assert all(grant.instances == claim.wanted for claim in claims for grant in [admit(Room(), claims)[claim.service]])


def test_the_budget_does_not_move_instances_between_equals() -> None:
    claims = [Claim("a", 0, 0, 4, 0, memory=100), Claim("b", 0, 0, 4, 3, memory=100)]
    assert {name: grant.instances for name, grant in admit(Room(memory=450), claims).items()} == {"a": 1, "b": 3}


def test_a_budget_is_never_exceeded_whatever_is_claimed() -> None:
    chance = random.Random(4)
    for _ in range(300):
        room = Room(chance.choice([0.0, 2.0, 7.5]), chance.choice([0, 1000, 5000]))
        claims = [
            Claim(f"s{n}", chance.randint(0, 3), chance.randint(0, 3), chance.randint(0, 9), chance.randint(0, 9), chance.random(), 300)
            for n in range(6)
        ]
        grants = admit(room, claims)
        assert all(0 <= grants[claim.service].instances <= claim.wanted for claim in claims)
        assert all(bool(grants[c.service].reason) == (grants[c.service].instances < c.wanted) for c in claims)
        assert not room.cpus or sum(grants[c.service].instances * c.cpus for c in claims) <= room.cpus + 1e-6
        assert not room.memory or sum(grants[c.service].instances * c.memory for c in claims) <= room.memory


def test_short_memory_takes_from_the_lowest_priority_beyond_its_min_first() -> None:
    uses = [Use("low", 0, 1, 3, 300), Use("high", 5, 1, 3, 300)]
    assert evict(600, uses) == ()
    assert [(e.service, e.instances) for e in evict(450, uses)] == [("low", 2)]
    assert [(e.service, e.instances) for e in evict(350, uses)] == [("low", 2), ("high", 1)]
    assert [(e.service, e.instances) for e in evict(150, uses)] == [("low", 3), ("high", 2)]
    assert isinstance(evict(0, uses)[0], Eviction)
