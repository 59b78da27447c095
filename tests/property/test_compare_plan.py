"""A plan holds every turn once, round by round, and the same seed gives the same plan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhull.compare import model, plan, run
from twinhull.compare.measures import ALL
from twinhull.compare.model import Done, Record, Sample, Turn
from twinhull.compare.plan import Planned

_SUBJECTS = ("container", "sandbox", "vm")
_MEASURES = st.lists(
    st.builds(
        Planned,
        name=st.sampled_from(("start", "cpu", "disk", "network", "memory")),
        rounds=st.integers(1, 6),
        warm_up=st.booleans(),
        subjects=st.lists(st.sampled_from(_SUBJECTS), min_size=1, unique=True).map(tuple),
        guess=st.floats(0.1, 10),
        stage=st.integers(1, 2),
    ),
    unique_by=lambda planned: planned.name,
)


@given(_MEASURES, st.integers())
def test_every_turn_once_and_rounds_in_order(measures: list[Planned], seed: int) -> None:
    turns = plan.schedule(measures, seed)
    wanted = {Turn(m.name, s, r) for m in measures for s in m.subjects for r in range(0 if m.warm_up else 1, m.rounds + 1)}
    assert len(turns) == len(wanted)
    assert set(turns) == wanted
    stages = {measure.name: measure.stage for measure in measures}
    order = [(stages[turn.measure], turn.round) for turn in turns]
    assert order == sorted(order)
    assert turns == plan.schedule(measures, seed)


@given(_MEASURES, st.integers(), st.data())
def test_an_interrupted_run_that_goes_on_has_the_same_samples(measures: list[Planned], seed: int, data: st.DataObject) -> None:
    turns = plan.schedule(measures, seed)
    cut = data.draw(st.integers(0, len(turns)))

    def records(some: tuple[Turn, ...]) -> list[Record | Done]:
        return [
            record
            for turn in some
            for record in (
                Sample(f"{turn.measure}.x", turn.subject, turn.round, float(turn.round)),
                Done(turn.measure, turn.subject, turn.round, 1.0),
            )
        ]

    head = model.Run("r", "i", _SUBJECTS, "quick", seed, ())
    half_a_turn: list[Record | Done] = list(records(turns[cut : cut + 1])[:1])
    first = records(turns[:cut]) + half_a_turn
    done = model.gather(head, first, len(turns)).done
    rest = tuple(turn for turn in turns if turn not in done)
    whole = model.gather(head, records(turns), len(turns))
    assert rest == turns[cut:]
    resumed = model.gather(head, records(turns[:cut]) + records(rest), len(turns))
    assert (resumed.samples, resumed.complete) == (whole.samples, True)


@given(_MEASURES, st.integers())
def test_the_time_left_is_what_was_seen_or_guessed(measures: list[Planned], seed: int) -> None:
    turns = plan.schedule(measures, seed)
    guesses = {measure.name: measure.guess for measure in measures}
    assert plan.remaining(turns, [], guesses) >= 0
    assert plan.remaining(turns, [Done(turn.measure, turn.subject, turn.round, 2.0) for turn in turns], guesses) == 2.0 * len(turns)


@given(_MEASURES, st.floats(1, 2000))
def test_a_plan_fits_its_time_or_has_no_round_left_to_give(measures: list[Planned], seconds: float) -> None:
    fitted = plan.fit(measures, seconds, 5)
    spent = sum(map(plan.cost, fitted))
    assert [each.name for each in fitted] == [each.name for each in measures]
    assert all(min(before.rounds, 5) <= after.rounds <= before.rounds for before, after in zip(measures, fitted, strict=True))
    assert spent <= seconds or all(after.rounds <= 5 for after in fitted)
    assert plan.fit(fitted, seconds, 5) == fitted


@pytest.mark.parametrize(("profile", "limit"), [("quick", 180), ("full", 1800)])
def test_both_profiles_are_planned_to_end_in_time(profile: str, limit: float) -> None:
    """All measures, in a container and in a VM that is emulated on two cores."""
    planned = [Planned(m.name, m.rounds(profile), m.warm_up, ("container", "vm"), m.seconds(profile), m.stage) for m in ALL[1:]]
    fitted = plan.fit(planned, run.BUDGET[profile], 5)
    assert sum(map(plan.cost, fitted)) <= run.BUDGET[profile] < limit
    assert all(each.rounds >= min(5, before.rounds) for each, before in zip(fitted, planned, strict=True))
