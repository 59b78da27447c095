"""How many guests should wait: by demand, limit and budget."""

from __future__ import annotations

from twinhull.plan.parking import WINDOW, Bounds, wanted


def test_as_many_as_were_started_lately_within_the_limit() -> None:
    bounds = Bounds(limit=2, budget=1000, cost=10)
    assert wanted({"a": [1.0], "b": [1.0, 2.0, 3.0], "c": []}, 4.0, bounds) == {"b": 2, "a": 1}


def test_old_demand_counts_no_more() -> None:
    assert wanted({"a": [0.0, 10.0]}, WINDOW + 5.0, Bounds(5, 1000, 10)) == {"a": 1}
    assert wanted({"a": [0.0]}, WINDOW, Bounds(5, 1000, 10)) == {}


def test_the_budget_goes_to_what_was_asked_for_last() -> None:
    assert wanted({"old": [1.0, 1.0], "new": [2.0, 2.0]}, 3.0, Bounds(2, 30, 10)) == {"new": 2, "old": 1}
    assert wanted({"a": [1.0]}, 2.0, Bounds(2, 9, 10)) == {}
    assert wanted({"a": [1.0]}, 2.0, Bounds(0, 100, 10)) == {}
