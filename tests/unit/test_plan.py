"""What the planner decides in cases that people ask about, one by one. Its general laws are in tests/property/test_plan.py."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.machine import Machine, Nature

from twinhull.plan import actions as act
from twinhull.plan.actions import Phase
from twinhull.plan.draft import retry_delay
from twinhull.plan.healing import backoff
from twinhull.plan.lifecycle import State
from twinhull.plan.memory import Memory, Rollout, RolloutStatus, dump, load
from twinhull.plan.observed import Desired, Failure, HookState, Observed, Seen, Wish
from twinhull.plan.preview import preview
from twinhull.plan.reconcile import reconcile
from twinhull.plan.rollout import abort, pause, resume
from twinhull.spec.app import (
    AppNetwork,
    AppSpec,
    AppVolume,
    Condition,
    Dependency,
    Hook,
    RolloutSpec,
    RouteSpec,
    ScaleSpec,
    ServiceSpec,
    Strategy,
    UpdateOrder,
    UpdatePolicy,
)
from twinhull.spec.instance import HealthCheck, InstanceSpec, MountSpec, MountType, NetworkAttachment, RestartPolicy, RestartWhen

NOW = 1000.0
CHECKED = HealthCheck(("CMD", "true"))
ALWAYS = RestartPolicy(RestartWhen.ALWAYS)


def service(name: str = "web", template: dict[str, Any] | None = None, **values: Any) -> ServiceSpec:
    return ServiceSpec(name, InstanceSpec("image", **(template or {})), **values)


def app(*services: ServiceSpec, **values: Any) -> AppSpec:
    return AppSpec("shop", {each.name: each for each in services}, **values)


def desired(spec: AppSpec, revision: str = "r1", **values: Any) -> Desired:
    return Desired(spec, {name: Wish(each, revision, each.replicas) for name, each in spec.services.items()}, **values)


def one(plan_of: Desired, *seen: Seen, memory: dict[str, Memory] | None = None, now: float = NOW, **values: Any) -> act.Plan:
    return reconcile(plan_of, Observed(now, seen, **values), memory or {})


def up(number: int = 1, revision: str = "r1", name: str = "web", **values: Any) -> Seen:
    """A healthy instance that serves, for long."""
    defaults: dict[str, Any] = {"started_at": 10.0, "health": "healthy", "serving": True, "weight": 100, "serving_since": 12.0}
    return Seen(f"{name}{number}", name, number, revision, State.RUNNING, f"shop-{name}-{number}", **(defaults | values))


def ended(code: int, number: int = 1, **values: Any) -> Seen:
    defaults: dict[str, Any] = {"started_at": 10.0, "finished_at": 900.0, "exit_code": code}
    return Seen(f"web{number}", "web", number, "r1", State.EXITED, f"shop-web-{number}", **(defaults | values))


def kinds(plan: act.Plan) -> list[str]:
    return [f"{type(action).__name__} {action.key}" for action in plan.actions if not isinstance(action, act.Tell)]


def tells(plan: act.Plan) -> list[str]:
    return [action.reason for action in plan.actions if isinstance(action, act.Tell)]


def machine(spec: AppSpec, **natures: Nature) -> Machine:
    """One that has come up as r1."""
    found = Machine(desired(spec), random.Random(1), natures)
    assert found.run(3600)
    return found


# the way up


def test_networks_and_volumes_come_first_then_what_they_are_for() -> None:
    mounts = (MountSpec(MountType.VOLUME, "/data", "shop_data"),)
    spec = app(
        service("db", {"networks": (NetworkAttachment("shop_default"),), "mounts": mounts}),
        networks={"shop_default": AppNetwork("shop_default"), "shop_unused": AppNetwork("shop_unused")},
        volumes={"shop_data": AppVolume("shop_data")},
    )
    assert kinds(one(desired(spec))) == ["CreateNetwork network:shop_default", "CreateVolume volume:shop_data"]
    there = {"networks": frozenset({"shop_default"}), "volumes": frozenset({"shop_data"})}
    plan = one(desired(spec), **there)
    assert kinds(plan) == ["Create db/1"]
    assert plan.actions[0].reason == "db has 0 of 1"


def test_an_external_network_that_is_missing_is_named_with_what_to_do() -> None:
    spec = app(service(template={"networks": (NetworkAttachment("lan"),)}), networks={"lan": AppNetwork("lan", external=True)})
    standing = one(desired(spec)).standings["web"]
    assert (standing.phase, standing.settled) == (Phase.WAITING, True)
    assert standing.reason == "the external network lan does not exist: twinhull network create lan"


def test_a_dependant_waits_for_what_its_condition_says_and_says_so() -> None:
    spec = app(service("db", {"health": CHECKED}), service(depends_on=(Dependency("db", Condition.HEALTHY),)))
    starting = up(name="db", health="starting", serving=False)
    plan = one(desired(spec), starting)
    assert not kinds(plan)
    assert plan.standings["web"].reason == "waits for db to be healthy (0 of 1)"
    ill = one(desired(spec), up(name="db", health="unhealthy", health_since=NOW))
    assert ill.standings["web"].reason == "waits for db to be healthy (0 of 1): shop-db-1 is unhealthy"
    assert kinds(one(desired(spec), up(name="db"))) == ["Create web/1"]
    loose = app(service("db"), service(depends_on=(Dependency("db"),)))
    assert kinds(one(desired(loose), starting)) == ["Create web/1"]


def test_a_failed_dependency_is_named_with_its_exit_code_and_up_may_end() -> None:
    spec = app(service("migrate", job=True), service(depends_on=(Dependency("migrate", Condition.COMPLETED),)))
    failed = Seen("m", "migrate", 1, "r1", State.EXITED, "shop-migrate-1", started_at=10, finished_at=20, exit_code=3)
    plan = one(desired(spec), failed)
    assert not plan.actions
    web = plan.standings["web"]
    assert (web.phase, web.settled) == (Phase.WAITING, True)
    assert web.reason == "migrate, on which it depends, failed: shop-migrate-1 exited with code 3"
    assert plan.standings["migrate"].phase is Phase.FAILING
    optional = replace(spec.services["web"], depends_on=(Dependency("migrate", Condition.COMPLETED, required=False),))
    assert kinds(one(desired(app(spec.services["migrate"], optional)), failed)) == ["Create web/1"]


def test_healing_does_not_wait_for_dependencies() -> None:
    spec = app(service("db", {"health": CHECKED}), service(replicas=2, depends_on=(Dependency("db", Condition.HEALTHY),)))
    plan = one(desired(spec), up(name="db", health="unhealthy", health_since=NOW), up(1))
    assert kinds(plan) == ["Create web/2"]


def test_a_job_runs_once_for_a_revision_and_again_for_the_next() -> None:
    spec = app(service("migrate", job=True))
    done = Seen("m", "migrate", 1, "r1", State.EXITED, started_at=10, finished_at=20)
    plan = one(desired(spec), done)
    assert not plan.actions
    assert plan.standings["migrate"].phase is Phase.COMPLETED
    assert not one(desired(spec), memory=dict(plan.memory)).actions, "removed by hand: it has run nevertheless"
    assert kinds(one(desired(spec, "r2"), done, memory=dict(plan.memory))) == ["Remove migrate/1"]
    assert kinds(one(desired(spec, "r2"), memory=dict(plan.memory))) == ["Create migrate/1"]


def test_a_failed_job_runs_again_when_up_asks() -> None:
    spec = app(service("migrate", job=True))
    failed = Seen("m", "migrate", 1, "r1", State.EXITED, started_at=10, finished_at=20, exit_code=1)
    assert not one(desired(spec), failed).actions
    again = Desired(spec, {"migrate": Wish(spec.services["migrate"], "r1", asked_at=30.0)})
    assert kinds(one(again, failed)) == ["Remove migrate/1"]


def test_the_dry_run_is_what_the_machine_then_does() -> None:
    spec = app(service("db", {"health": CHECKED}), service(replicas=2, expose=(80,), depends_on=(Dependency("db", Condition.HEALTHY),)))
    found = machine(spec)
    wanted = desired(spec, "r2")
    on_paper = preview(wanted, found.observed(), found.memory)
    assert all(action.reason for action in on_paper)
    begin = len(found.log)
    found.desired = wanted
    assert found.run(3600)
    done = found.log[begin:]
    assert sorted((type(a).__name__, a.key) for a in on_paper) == sorted((type(a).__name__, a.key) for a in done)


# readiness and traffic


def test_ready_means_healthy_or_answering_or_running_for_a_second() -> None:
    spec = desired(app(service()))
    quiet: dict[str, Any] = {"serving": False, "health": "none", "serving_since": 0.0}
    assert one(spec, up(started_at=NOW - 0.5, **quiet)).wake_at == NOW + 0.5
    assert kinds(one(spec, up(started_at=NOW - 1, **quiet))) == ["Serve web/1"]
    silent = one(spec, up(started_at=NOW - 59, answering=False, **quiet))
    assert not silent.actions
    assert (silent.standings["web"].phase, silent.standings["web"].settled, silent.wake_at) == (Phase.STARTING, False, NOW + 1)
    mute = one(spec, up(started_at=NOW - 60, answering=False, **quiet)).standings["web"]
    assert (mute.phase, mute.settled) == (Phase.FAILING, True)
    assert mute.reason == "shop-web-1: not answering on its port within 60 s"
    assert kinds(one(spec, up(answering=True, **quiet))) == ["Serve web/1"]
    hooked = desired(app(service(post_start=(Hook(("true",)),))))
    assert kinds(one(hooked, up(serving=False))) == ["RunHook web/1"]
    assert kinds(one(hooked, up(serving=False, post_start=HookState.DONE))) == ["Serve web/1"]


def test_an_unhealthy_instance_leaves_the_balancers_only_where_another_is_ready() -> None:
    spec = desired(app(service(template={"health": CHECKED}, replicas=2)))
    ill = up(2, health="unhealthy", health_since=NOW - 1)
    assert kinds(one(spec, up(1), ill)) == ["Drain web/2"]
    assert not kinds(one(spec, up(1, health="unhealthy", health_since=NOW - 1), ill))


def test_a_draining_instance_gets_the_time_that_its_requests_may_take() -> None:
    spec = app(service(template={"stop_timeout": 10.0}, routes=(RouteSpec(timeout=60.0),)))
    empty = Desired(spec, {"web": Wish(spec.services["web"], "r1", 0)})
    drains: dict[str, Any] = {"serving": False, "draining_since": NOW - 20}
    assert not kinds(one(empty, up(sessions=3, **drains)))
    assert one(empty, up(sessions=3, **drains)).wake_at == NOW + 0.5
    assert kinds(one(empty, up(sessions=0, **drains))) == ["Stop web/1"]
    assert kinds(one(empty, up(sessions=-1, **drains))) == ["Stop web/1"]
    assert kinds(one(empty, up(sessions=3, **(drains | {"draining_since": NOW - 60})))) == ["Stop web/1"]
    assert kinds(one(empty, up())) == ["Drain web/1"]


def test_pre_stop_runs_between_the_last_request_and_the_signal() -> None:
    spec = app(service(pre_stop=(Hook(("true",)),)))
    empty = Desired(spec, {"web": Wish(spec.services["web"], "r1", 0)})
    drained: dict[str, Any] = {"serving": False, "draining_since": NOW - 5, "sessions": 0}
    plan = one(empty, up(**drained))
    assert [(type(a), a.hooks) for a in plan.actions if isinstance(a, act.RunHook)] == [(act.RunHook, act.Hooks.PRE_STOP)]
    assert not kinds(one(empty, up(pre_stop=HookState.RUNNING, **drained)))
    for outcome in (HookState.DONE, HookState.FAILED):
        assert kinds(one(empty, up(pre_stop=outcome, **drained))) == ["Stop web/1"]


def test_scale_down_takes_what_is_not_ready_then_the_highest_slots() -> None:
    spec = app(service(template={"health": CHECKED}, replicas=4))
    fewer = Desired(spec, {"web": Wish(spec.services["web"], "r1", 2)})
    plan = one(fewer, up(1, health="starting", serving=False), up(2), up(3), up(4))
    assert kinds(plan) == ["Stop web/1", "Drain web/4"]
    assert {action.reason for action in plan.actions} == {"scale web down to 2"}


# rollouts


def test_who_wakes_a_service_does_not_wait_for_those_that_were_told_to_end() -> None:
    ending = up(1, stopped=True, draining_since=NOW - 5, serving=False)
    busy = frozenset({"web/1"})
    scaled = one(desired(app(service(scale=ScaleSpec(0, 5)))), ending, busy=busy)
    assert [(each.slot, each.reason) for each in scaled.actions if isinstance(each, act.Create)] == [(2, "web has 0 of 1")]
    assert (scaled.standings["web"].ready, scaled.standings["web"].phase) == (0, Phase.STARTING)
    assert kinds(one(desired(app(service())), ending, busy=busy)) == []  # by hand: it is started again, with what it has written


def rolling(spec: ServiceSpec, status: RolloutStatus = RolloutStatus.RUNNING, **values: Any) -> tuple[Desired, dict[str, Memory]]:
    return desired(app(spec), "r2"), {spec.name: Memory("r1", rollout=Rollout("r2", "r1", status, **values))}


def test_an_old_instance_drains_after_the_new_one_has_taken_traffic_for_a_while() -> None:
    wanted, memory = rolling(service(template={"health": CHECKED}))
    assert kinds(one(wanted, up(1), memory=memory)) == ["Create web/2"]
    assert kinds(one(wanted, up(1), up(2, "r2", serving=False), memory=memory)) == ["Serve web/2"]
    fresh = one(wanted, up(1), up(2, "r2", serving_since=NOW - 0.4), memory=memory)
    assert not kinds(fresh)
    assert fresh.wake_at == pytest.approx(NOW + 0.6)
    assert kinds(one(wanted, up(1), up(2, "r2"), memory=memory)) == ["Drain web/1"]


def test_a_service_with_a_volume_is_replaced_in_place_even_if_the_file_says_start_first() -> None:
    spec = service(template={"mounts": (MountSpec(MountType.VOLUME, "/data", "data"),)})
    wanted, memory = rolling(spec)
    assert kinds(one(wanted, up(1), memory=memory)) == ["Drain web/1"]
    assert not kinds(one(wanted, up(1, serving=False, draining_since=NOW), memory=memory))
    stopped = Seen("web1", "web", 1, "r1", State.EXITED, stopped=True, finished_at=NOW)
    assert kinds(one(wanted, stopped, memory=memory)) == ["Remove web/1"]
    assert kinds(one(wanted, memory=memory)) == ["Create web/1"]


def test_the_switch_of_blue_and_green_is_one_change_and_can_be_undone_at_once() -> None:
    spec = service(template={"health": CHECKED}, replicas=2, rollout=RolloutSpec(Strategy.BLUE_GREEN, interval=30.0))
    wanted, memory = rolling(spec)
    green = [up(3, "r2", serving=False), up(4, "r2", serving=False)]
    assert kinds(one(wanted, up(1), up(2), green[0], memory=memory)) == ["Create web/4"]
    switch = one(wanted, up(1), up(2), *green, memory=memory)
    assert kinds(switch) == ["Serve web/3", "Serve web/4", "Drain web/1", "Drain web/2"]
    parked = [up(n, serving=False, draining_since=NOW, sessions=0) for n in (1, 2)]
    serving = [up(3, "r2", serving_since=NOW), up(4, "r2", serving_since=NOW)]
    wait = one(wanted, *parked, *serving, memory=dict(switch.memory), now=NOW + 10)
    assert not kinds(wait)
    back = one(wanted, *parked, serving[0], replace(serving[1], health="unhealthy"), memory=dict(wait.memory), now=NOW + 11)
    assert "Serve web/1" in kinds(back) and "Serve web/2" in kinds(back)
    assert "update to r2 failed: shop-web-4: unhealthy; returning to r1" in tells(back)
    after = one(wanted, *parked, *serving, memory=dict(wait.memory), now=NOW + 31)
    assert kinds(after) == ["Stop web/1", "Stop web/2"]


def test_a_canary_takes_its_percentage_whatever_the_numbers() -> None:
    spec = service(template={"health": CHECKED}, replicas=4, rollout=RolloutSpec(Strategy.CANARY, (10, 50), 30.0))
    wanted, memory = rolling(spec)
    old = [up(n) for n in range(1, 5)]
    plan = one(wanted, *old, up(5, "r2", serving=False), memory=memory)
    weights = {action.key: action.weight for action in plan.actions if isinstance(action, act.Serve)}
    assert weights["web/5"] / (weights["web/5"] + 4 * weights["web/1"]) == pytest.approx(0.10, abs=0.005)
    assert tells(plan) == ["10 % of traffic to r2"]
    held = [replace(each, weight=weights["web/1"]) for each in old]
    later = one(wanted, *held, up(5, "r2", weight=weights["web/5"]), memory=dict(plan.memory), now=NOW + 31)
    assert kinds(later) == ["Create web/6"], "half of the traffic needs two of four"


def test_the_share_of_a_canary_does_not_fall_after_its_last_step() -> None:
    spec = service(template={"health": CHECKED}, replicas=4, rollout=RolloutSpec(Strategy.CANARY, (75,), 30.0))
    wanted, memory = rolling(spec, step=1)
    for new in (3, 4):
        seen = [up(n) for n in range(1, 5)] + [up(4 + n, "r2", serving_since=NOW) for n in range(1, new + 1)]
        plan = one(wanted, *seen, memory=memory)
        weights = {action.slot: action.weight for action in plan.actions if isinstance(action, act.Serve)}
        theirs = sum(weights.get(4 + n, 100) for n in range(1, new + 1))
        assert theirs / (theirs + sum(weights.get(n, 100) for n in range(1, 5))) == pytest.approx(0.75, abs=0.005)
    gone = one(wanted, up(1), *(up(4 + n, "r2") for n in range(1, 5)), memory=memory)
    assert kinds(gone) == ["Drain web/1"], "four of five as equals are more than three quarters"


@pytest.mark.parametrize("strategy", [Strategy.BLUE_GREEN, Strategy.CANARY, Strategy.ROLLING])
def test_on_the_way_back_the_failed_revision_takes_nothing_once_the_other_is_enough(strategy: Strategy) -> None:
    spec = service(template={"health": CHECKED}, replicas=2, rollout=RolloutSpec(strategy))
    wanted, memory = rolling(spec, RolloutStatus.ROLLING_BACK, reason="12 of 20 requests failed")
    parked = [up(n, serving=False, draining_since=NOW) for n in (1, 2)]
    plan = one(wanted, *parked, up(3, "r2"), up(4, "r2"), memory=memory)
    assert kinds(plan) == ["Serve web/1", "Serve web/2", "Drain web/3", "Drain web/4"]
    short = one(wanted, parked[0], up(3, "r2"), up(4, "r2"), memory=memory)
    assert kinds(short) == ["Serve web/1"], "one alone isn't enough for all requests"


def test_a_broken_revision_says_why_and_whose_log_lines_matter() -> None:
    wanted, memory = rolling(service(template={"restart": ALWAYS}))
    crashed = Seen("new", "web", 2, "r2", State.RESTARTING, "shop-web-2", exit_code=3, restarts=1)
    plan = one(wanted, up(1, health="none"), crashed, memory=memory)
    tell = next(action for action in plan.actions if isinstance(action, act.Tell))
    assert tell.reason == "update to r2 failed: shop-web-2: exited with code 3; returning to r1"
    assert (tell.level, tell.instance) == ("error", "new")
    assert kinds(plan) == ["Stop web/2"]
    assert plan.memory["web"].rollout.status is RolloutStatus.ROLLING_BACK
    done = one(wanted, up(1, health="none"), memory=dict(plan.memory))
    assert done.memory["web"].rollout.status is RolloutStatus.ROLLED_BACK
    assert done.standings["web"].reason == "r2 failed: shop-web-2: exited with code 3"
    assert not one(wanted, up(1, health="none"), memory=dict(done.memory)).actions, "the failed revision isn't tried by itself"
    asked = replace(wanted, wishes={"web": replace(wanted.wishes["web"], asked_at=NOW + 1)})
    assert kinds(one(asked, up(1, health="none"), memory=dict(done.memory), now=NOW + 1)) == ["Create web/2"], "but when up asks"


def test_an_image_that_can_not_even_start_counts_as_failed() -> None:
    wanted, memory = rolling(service(), started_at=NOW - 10)
    plan = one(wanted, up(1, health="none"), memory=memory, failed={"web/2": Failure("no such program: /app", NOW - 1)})
    assert tells(plan)[0] == "update to r2 failed: web-2 does not start: no such program: /app; returning to r1"
    assert plan.memory["web"].rollout.status is RolloutStatus.ROLLED_BACK


def test_a_first_revision_that_fails_has_nothing_to_return_to_and_is_tried_less_and_less() -> None:
    found = Machine(desired(app(service(template={"health": CHECKED}))), random.Random(1), {"r1": Nature(sickens=1.0)})
    found.run(3600)
    assert found.last is not None
    assert found.last.standings["web"].phase is Phase.FAILING
    assert found.memory["web"].rollout is None
    made = sum(isinstance(action, act.Create) for action in found.log)
    assert 30 < made < 120


def test_what_was_failing_before_is_replaced_at_once_by_a_newer_revision() -> None:
    spec = app(service(template={"health": CHECKED}, replicas=2))
    found = Machine(desired(spec), random.Random(1), {"r1": Nature(sickens=1.0)})
    found.run(60)
    found.desired = desired(spec, "r2")
    assert found.run(3600)
    found.assert_as_wanted()


def test_a_newer_revision_takes_the_place_of_one_that_is_under_way() -> None:
    found = machine(app(service(template={"health": CHECKED}, replicas=3)))
    found.desired = desired(found.desired.app, "r2")
    found.run(4)
    found.desired = desired(found.desired.app, "r3")
    assert found.run(3600)
    found.assert_as_wanted()
    rollout = found.memory["web"].rollout
    assert rollout is not None
    assert (rollout.to, rollout.previous, rollout.status) == ("r3", "r1", RolloutStatus.DONE)


def test_pause_freezes_resume_goes_on_abort_returns() -> None:
    wanted, memory = rolling(service(template={"health": CHECKED}, replicas=2), started_at=1.0)
    seen = up(1), up(2), up(3, "r2")
    frozen = {"web": pause(memory["web"], "by hand")}
    assert not one(wanted, *seen, memory=frozen).actions
    assert one(wanted, *seen, memory=frozen).standings["web"].reason == "by hand"
    assert kinds(one(wanted, *seen, memory={"web": resume(frozen["web"], NOW)})) == ["Drain web/1", "Create web/4"]
    back = one(wanted, *seen, memory={"web": abort(frozen["web"], "by hand")})
    assert kinds(back) == ["Drain web/3"]
    assert back.actions[0].reason.startswith("return web to r1")
    assert pause(Memory(), "x") == resume(Memory(), NOW) == abort(Memory(), "x") == Memory()


def test_parallelism_delay_and_monitor_are_kept() -> None:
    policy = UpdatePolicy(parallelism=2, delay=30.0, monitor=20.0)
    wanted, memory = rolling(service(template={"health": CHECKED}, replicas=6, update=policy))
    old = [up(n) for n in range(1, 7)]
    first = one(wanted, *old, memory=memory)
    assert kinds(first) == ["Create web/7", "Create web/8"]
    second = one(wanted, *old, up(7, "r2"), up(8, "r2"), memory=dict(first.memory))
    assert kinds(second) == ["Drain web/1", "Drain web/2"]
    rest = old[2:]
    assert not kinds(one(wanted, *rest, up(7, "r2"), up(8, "r2"), memory=dict(second.memory), now=NOW + 29))
    third = one(wanted, *rest, up(7, "r2"), up(8, "r2"), memory=dict(second.memory), now=NOW + 30)
    assert kinds(third) == ["Create web/1", "Create web/2"]
    whole = [up(n, "r2") for n in range(1, 7)]
    last = one(wanted, *whole, memory=memory)
    assert last.wake_at == NOW + 20
    assert last.memory["web"].rollout.status is RolloutStatus.MONITORING
    assert tells(one(wanted, *whole, memory=dict(last.memory), now=NOW + 20)) == ["updated to r2"]


def test_stop_first_misses_no_more_than_parallelism() -> None:
    policy = UpdatePolicy(parallelism=2, order=UpdateOrder.STOP_FIRST)
    wanted, memory = rolling(service(replicas=3, update=policy))
    assert kinds(one(wanted, up(1), up(2), up(3), memory=memory)) == ["Drain web/1", "Drain web/2"]
    assert not kinds(one(wanted, up(1, serving=False, draining_since=NOW), up(2, serving=False, draining_since=NOW), up(3), memory=memory))


def test_restart_goes_in_place_one_after_another_and_follows_a_replaced_dependency() -> None:
    spec = app(service("db"), service(replicas=2, depends_on=(Dependency("db", restart=True),)))
    asked = desired(spec)
    asked = replace(asked, wishes={**asked.wishes, "web": replace(asked.wishes["web"], restart_at=500.0)})
    both = up(name="db", health="none"), up(1, health="none"), up(2, health="none")
    assert kinds(one(asked, *both)) == ["Drain web/1"]
    drained = up(1, health="none", serving=False, draining_since=NOW - 2)
    assert kinds(one(asked, both[0], drained, both[2])) == ["Restart web/1"]
    replaced = {"db": Memory("r1", rollout=Rollout("r1", "r0", RolloutStatus.DONE, ended_at=600.0))}
    assert kinds(one(desired(spec), *both, memory=replaced)) == ["Drain web/1"]


# healing


@pytest.mark.parametrize(
    ("policy", "seen", "expected"),
    [
        (RestartPolicy(), ended(0), []),
        (RestartPolicy(), ended(3), []),
        (RestartPolicy(), ended(0, lost=True), ["Remove web/1"]),
        (ALWAYS, ended(0), ["Remove web/1"]),
        (RestartPolicy(RestartWhen.ON_FAILURE), ended(0), []),
        (RestartPolicy(RestartWhen.ON_FAILURE), ended(1), ["Remove web/1"]),
        (RestartPolicy(RestartWhen.ON_FAILURE, 3), ended(1), []),
        (ALWAYS, ended(0, held=True), []),
        (ALWAYS, ended(0, stopped=True), ["Start web/1"]),
    ],
)
def test_what_follows_an_end_is_what_the_restart_policy_means(policy: RestartPolicy, seen: Seen, expected: list[str]) -> None:
    assert kinds(one(desired(app(service(template={"restart": policy}))), seen)) == expected


def test_a_routed_service_is_promised_and_heals_without_a_policy() -> None:
    assert kinds(one(desired(app(service(routes=(RouteSpec(),)))), ended(0))) == ["Remove web/1"]


def test_up_starts_again_what_had_ended_before_even_if_a_person_stopped_it() -> None:
    spec = app(service())
    again = Desired(spec, {"web": Wish(spec.services["web"], "r1", asked_at=950.0)})
    for seen in (ended(0), ended(3), ended(0, held=True)):
        assert kinds(one(again, seen)) == ["Start web/1"]


def test_out_of_memory_is_said_and_a_loop_backs_off() -> None:
    wanted = desired(app(service(template={"restart": RestartPolicy(RestartWhen.ON_FAILURE)})))
    first = one(wanted, ended(137, oom_killed=True))
    assert tells(first) == ["shop-web-1: out of memory (exit code 137); replacing it now"]
    second = one(wanted, replace(ended(137, oom_killed=True), id="next", started_at=890.0), memory=dict(first.memory))
    assert tells(second) == ["shop-web-1: out of memory (exit code 137), twice in a row; replacing it in 1 s"]
    assert not kinds(second)
    assert second.wake_at == NOW + 1
    assert not one(wanted, replace(ended(137), id="next", started_at=890.0), memory=dict(second.memory)).actions, "told once"
    assert [backoff(n) for n in (1, 2, 3, 4, 8, 9, 100)] == [0, 1, 2, 4, 60, 60, 60]
    assert [retry_delay(n) for n in (1, 2, 7, 100)] == [1, 2, 60, 60]


def test_an_instance_that_stays_unhealthy_is_replaced_before_it_goes() -> None:
    wanted = desired(app(service(template={"health": CHECKED}, replicas=2)))
    ill = up(2, health="unhealthy", health_since=NOW - 6, serving=False)
    plan = one(wanted, up(1), ill)
    assert kinds(plan) == ["Create web/3"]
    assert tells(plan) == ["shop-web-2: unhealthy; replacing it now"]
    assert kinds(one(wanted, up(1), ill, up(3), memory=dict(plan.memory))) == ["Stop web/2"]
    volume = service(template={"health": CHECKED, "mounts": (MountSpec(MountType.VOLUME, "/data", "data"),)})
    assert kinds(one(desired(app(volume)), replace(ill, slot=1, id="web1"))) == ["Restart web/1"]


def test_a_failed_hook_replaces_its_instance() -> None:
    wanted = desired(app(service(post_start=(Hook(("false",)),), replicas=1)))
    plan = one(wanted, up(serving=False, post_start=HookState.FAILED))
    assert tells(plan) == ["shop-web-1: post_start hook failed; replacing it now"]
    assert kinds(plan) == ["Create web/2"]


def test_what_is_busy_is_left_alone_and_what_failed_is_tried_later() -> None:
    wanted = desired(app(service(replicas=3)))
    plan = one(wanted, busy=frozenset({"web/1"}), failed={"web/2": Failure("no space left", NOW - 0.5)})
    assert kinds(plan) == ["Create web/3"]
    assert plan.wake_at == NOW + 0.5
    assert plan.standings["web"].reason == "web-2: no space left"


def test_what_can_not_start_can_be_removed_at_once() -> None:
    wanted = Desired(app(service()), {"web": Wish(service(), "r1", 0)})
    made = Seen("web1", "web", 1, "r1", State.CREATED)
    assert kinds(one(wanted, made, failed={"web/1": Failure("no such program", NOW, 9, "Start")})) == ["Remove web/1"]
    assert not kinds(one(wanted, made, failed={"web/1": Failure("device is busy", NOW, 9, "Remove")}))


# the way down


def test_down_goes_backwards_and_leaves_external_things_and_volumes() -> None:
    spec = app(
        service("db"),
        service("migrate", job=True, depends_on=(Dependency("db"),)),
        service(depends_on=(Dependency("migrate", Condition.COMPLETED),)),
        networks={"own": AppNetwork("own"), "lan": AppNetwork("lan", external=True)},
        volumes={"data": AppVolume("data")},
    )
    wanted = desired(spec, removed=True)
    there: dict[str, Any] = {"networks": frozenset({"own", "lan"}), "volumes": frozenset({"data"})}
    assert kinds(one(wanted, up(name="db"), up(), **there)) == ["Stop web/1"]
    assert kinds(one(wanted, up(name="db"), ended(0), **there)) == ["Stop db/1", "Remove web/1"]
    assert kinds(one(wanted, **there)) == ["RemoveNetwork network:own"]
    assert kinds(one(replace(wanted, remove_volumes=True), **there)) == ["RemoveNetwork network:own", "RemoveVolume volume:data"]


def test_stop_keeps_instances_and_waits_for_those_that_depend() -> None:
    spec = app(service("db"), service(depends_on=(Dependency("db"),)))
    wanted = desired(spec)
    wanted = replace(wanted, wishes={name: replace(wish, stopped=True) for name, wish in wanted.wishes.items()})
    assert kinds(one(wanted, up(name="db"), up())) == ["Stop web/1"]
    assert kinds(one(wanted, up(name="db"), ended(0))) == ["Stop db/1"]
    alone = replace(wanted, wishes={**wanted.wishes, "web": replace(wanted.wishes["web"], stopped=False)})
    assert kinds(one(alone, up(name="db"), up(health="none"))) == ["Stop db/1"], "only db was to stop"


def test_orphans_go_only_on_request() -> None:
    wanted = desired(app(service()))
    orphan = up(name="gone")
    assert not one(wanted, up(health="none"), orphan).actions
    asked = one(replace(wanted, remove_orphans=True), up(health="none"), orphan)
    assert kinds(asked) == ["Stop gone/1"]
    assert asked.actions[0].reason == "gone is not in the file"


def test_what_a_rollback_took_away_goes_once_the_others_are_as_they_should_be() -> None:
    wanted = replace(desired(app(service())), dropped=frozenset({"new"}))
    new, orphan = up(name="new"), up(name="gone")
    assert kinds(one(wanted, new, orphan)) == ["Create web/1"]
    asked = one(wanted, up(health="none"), new, orphan)
    assert kinds(asked) == ["Stop new/1"]
    assert asked.actions[0].reason == "new is not in the revision"


def test_services_without_a_wish_are_left_as_they_are() -> None:
    spec = app(service("db"), service())
    partial = Desired(spec, {"web": Wish(spec.services["web"], "r1")})
    assert kinds(one(partial, up(name="db", revision="r0"))) == ["Create web/1"]


# form


def test_the_memory_survives_as_json() -> None:
    found = machine(app(service(template={"health": CHECKED}, replicas=2)))
    found.desired = desired(found.desired.app, "r2")
    found.run(2)
    assert load(dump(found.memory)) == found.memory
    assert load(b"{}") == {}


def calls(function: Callable[[], object]) -> int:
    """How many calls of Python functions it takes: a measure of work that no other load of the machine disturbs."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def crowd(kind: str, size: int) -> list[Seen]:
    ill: dict[str, Any] = {"health": "unhealthy", "health_since": NOW - 60}
    match kind:
        case "crashed":
            return [ended(1, n) for n in range(1, size + 1)]
        case "ill":
            return [up(n, **ill) for n in range(1, size + 1)]
        case "old":
            return [up(n, "r0") for n in range(1, size + 1)]
        case "half":
            return [up(n, "r0" if n % 2 else "r1") for n in range(1, size + 1)]
        case "well":
            return [up(n) for n in range(1, size + 1)]
    return []


@pytest.mark.parametrize("kind", ["nothing", "well", "old", "half", "crashed", "ill"])
def test_the_work_of_a_plan_grows_with_the_number_of_instances_and_not_with_its_square(kind: str) -> None:
    work = []
    for size in (250, 1000):
        spec = service(template={"health": CHECKED, "restart": ALWAYS}, replicas=size)
        wanted, observed = desired(app(spec)), Observed(NOW, tuple(crowd(kind, size)))
        work.append(calls(functools.partial(reconcile, wanted, observed, {})))
    assert work[1] < 5.5 * work[0], work
