"""What bench/traffic.py makes of a journal."""

from __future__ import annotations

from bench.traffic import KILL_INSTANCE, ROLLOUT, STEADY, Change, Request, count, percentile

CHANGES = (Change(ROLLOUT, "image", 10.0, 12.0), Change(KILL_INSTANCE, "kill", 20.0, 25.0, (20.0, 20.1)))


def request(at: float, took: float = 0.1, outcome: str = "200", method: str = "GET", connection: str = "kept") -> Request:
    return Request(at, took, connection, method, outcome)


def test_a_failure_is_forgiven_only_where_its_instance_was_killed_under_it() -> None:
    tally = count(
        [
            request(19.9, 0.2, "502", "POST"),  # under way
            request(22.0, 0.1, "502", "POST"),  # afterwards
            request(11.0, 0.1, "ConnectionResetError: "),
            request(5.0, 0.1, "503"),
            request(5.0, 0.1, "200", connection="new"),
        ],
        CHANGES,
    )
    assert [each.at for each in tally.in_flight] == [19.9]
    assert [name for name, _ in tally.planned_failed] == ["kill", "image", STEADY]
    assert (tally.requests, dict(tally.connections)) == (5, {"kept": 4, "new": 1})


def test_times_are_told_apart_by_what_went_on() -> None:
    tally = count([request(5.0, 0.1), request(9.5, 0.2), request(9.95, 0.3), request(24.0, 0.4), request(30.0, 0.5)], CHANGES)
    # the second is too near to a change to be steady, the third reaches into it
    assert tally.times == {STEADY: [0.1, 0.5], ROLLOUT: [0.3], KILL_INSTANCE: [0.4]}


def test_percentiles() -> None:
    values = [number / 1000 for number in range(1, 101)]
    assert (percentile(values), percentile(values, 0.5), percentile([])) == (100.0, 51.0, 0.0)
