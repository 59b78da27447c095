"""plan/lifecycle.py and plan/health.py: the decisions after an exit and after a probe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhull.plan import health
from twinhull.plan.lifecycle import Ended, Event, State, after, diagram, is_up, restart_after, starts_with_daemon
from twinhull.spec.instance import HealthCheck, RestartPolicy, RestartWhen

CHECK = HealthCheck(("CMD", "true"), interval=10, retries=3, start_period=5, start_interval=1)


def _ended(code: int = 1, ran: float = 1.0, restarts: int = 0, asked: bool = False) -> Ended:
    return Ended(code, ran, restarts, asked)


@pytest.mark.parametrize(
    ("when", "code", "again"),
    [
        (RestartWhen.NO, 1, False),
        (RestartWhen.ON_FAILURE, 0, False),
        (RestartWhen.ON_FAILURE, 1, True),
        (RestartWhen.ALWAYS, 0, True),
        (RestartWhen.UNLESS_STOPPED, 0, True),
    ],
)
def test_policy_decides(when: RestartWhen, code: int, again: bool) -> None:
    assert (restart_after(RestartPolicy(when), _ended(code)) is not None) is again


@given(st.sampled_from(RestartWhen), st.integers(0, 255), st.integers(0, 50))
def test_nothing_restarts_what_was_ended_on_purpose(when: RestartWhen, code: int, restarts: int) -> None:
    assert restart_after(RestartPolicy(when), _ended(code, restarts=restarts, asked=True)) is None


def test_on_failure_gives_up_after_its_retries() -> None:
    policy = RestartPolicy(RestartWhen.ON_FAILURE, 3)
    assert [restart_after(policy, _ended(restarts=n)) is not None for n in range(5)] == [True, True, True, False, False]


@given(st.integers(0, 10_000))
def test_delay_doubles_up_to_a_minute(restarts: int) -> None:
    now = restart_after(RestartPolicy(RestartWhen.ALWAYS), _ended(restarts=restarts))
    following = restart_after(RestartPolicy(RestartWhen.ALWAYS), _ended(restarts=restarts + 1))
    assert now is not None and following is not None
    assert following.delay == min(60.0, now.delay * 2)
    assert following.restarts == now.restarts + 1


def test_a_steady_run_begins_back_off_anew() -> None:
    again = restart_after(RestartPolicy(RestartWhen.ALWAYS), _ended(ran=3600, restarts=9))
    assert again is not None
    assert (again.delay, again.restarts) == (0.1, 1)


def test_only_up_states_can_exit() -> None:
    assert {state for state in State if after(state, Event.EXIT) is not None} == {state for state in State if is_up(state)}


def test_a_running_instance_cannot_be_started_again() -> None:
    assert after(State.RUNNING, Event.START) is None
    assert after(State.PAUSED, Event.START) is None


def test_diagram_names_every_state() -> None:
    text = diagram()
    assert all(state in text for state in State if state is not State.DEAD)


@pytest.mark.parametrize(
    ("when", "purposely", "starts"),
    [
        (RestartWhen.ALWAYS, True, True),
        (RestartWhen.UNLESS_STOPPED, True, False),
        (RestartWhen.UNLESS_STOPPED, False, True),
        (RestartWhen.ON_FAILURE, False, False),
        (RestartWhen.NO, False, False),
    ],
)
def test_start_with_the_daemon(when: RestartWhen, purposely: bool, starts: bool) -> None:
    assert starts_with_daemon(RestartPolicy(when), stopped_on_purpose=purposely) is starts


def _fold(codes: list[int], age: float) -> health.Health:
    state = health.begin(CHECK)
    for code in codes:
        state = health.after(state, health.Probe(0, 0, code), CHECK, age)
    return state


@pytest.mark.parametrize(
    ("codes", "age", "status"),
    [
        ([], 0, "starting"),
        ([0], 0, "healthy"),
        ([1, 1], 9, "starting"),
        ([1, 1, 1], 9, "unhealthy"),
        ([1, 1, 1, 1], 2, "starting"),
        ([0, 1, 1, 1], 2, "unhealthy"),
        ([1, 1, 1, 0], 9, "healthy"),
        ([1, 1, 0, 1, 1], 9, "healthy"),
    ],
)
def test_health_folds(codes: list[int], age: float, status: str) -> None:
    assert _fold(codes, age).status == status


@given(st.lists(st.integers(0, 2), max_size=30))
def test_health_keeps_five_probes_and_counts_the_last_failures(codes: list[int]) -> None:
    state = _fold(codes, 60)
    assert len(state.log) == min(5, len(codes))
    trailing = next((n for n, code in enumerate(reversed(codes)) if code == 0), len(codes))
    assert state.failing_streak == trailing


def test_no_check_no_health() -> None:
    assert health.begin(None).status == "none"
    assert health.begin(HealthCheck(("NONE",))).status == "none"
    assert health.command(HealthCheck(("CMD-SHELL", "a | b"))) == ("/bin/sh", "-c", "a | b")


def test_probes_come_faster_within_the_start_period() -> None:
    assert health.delay(health.begin(CHECK), CHECK, 0) == 1
    assert health.delay(health.begin(CHECK), CHECK, 6) == 10
    assert health.delay(health.Health("healthy"), CHECK, 0) == 10
