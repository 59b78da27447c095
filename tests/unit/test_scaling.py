"""The engine's autoscaler: what it measures, what it leaves alone, how it wakes a service, and that it remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.scaling import BEGIN, UNBOUNDED, Lab

from twinhull.activator.base import Entrance
from twinhull.engine.apps.balance import Balance
from twinhull.engine.apps.sleeping import may_sleep, sleeper
from twinhull.engine.live import Live
from twinhull.errors import ConflictError, NotFoundError
from twinhull.plan.budget import Room
from twinhull.plan.health import Health
from twinhull.plan.lifecycle import State
from twinhull.plan.memory import Memory, Rollout
from twinhull.spec.app import ScaleSpec, ScaleTarget, Schedule
from twinhull.spec.instance import InstanceSpec, PortMapping, Resources
from twinhull.spec.network import NetworkRecord
from twinhull.spec.service import ServiceRecord, ServiceSide
from twinhull.store.apps import Member, MemberState
from twinhull.store.db import EndpointRecord, InstanceRecord

RPS = (ScaleTarget("rps", 10.0),)
SPEC = ScaleSpec(min=0, max=5, targets=RPS, window=10.0, panic_window=3.0, scale_down_delay=5.0)


def lab(test: Callable[[Lab], Awaitable[None]], folder: Path, room: Room = UNBOUNDED) -> None:
    async def body() -> None:
        made = Lab(folder, room)
        try:
            await test(made)
        finally:
            await made.close()

    asyncio.run(body())


def test_follows_the_load_up_and_down_to_zero_and_says_why(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.add("shop", SPEC)
        assert (await lab.run(15, {"shop": 32}))[-1] == 4
        assert "32 in all, target 10 each" in lab.reasons()[-1]
        after = await lab.run(40)
        assert after[-1] == 0
        assert min(after[:8]) > 0, "not before its window without a request is over"
        assert [each for each in lab.told if each["action"] == "autoscale"][-1]["after"] == "0"
        assert lab.apps["shop"].happened[-1].action == "scale"

    lab(body, tmp_path)


@pytest.mark.parametrize("kind", ["gateway", "session", "flow", "held"])
def test_what_is_open_or_unknown_keeps_it_awake(tmp_path: Path, kind: str) -> None:
    async def body(lab: Lab) -> None:
        lab.add("shop", SPEC, routed=kind != "flow")
        await lab.run(5, {"shop": 5})
        if kind == "gateway":
            lab.traffic.totals = None
        elif kind == "session":
            lab.traffic.sessions["shop/web"] = 1
        elif kind == "flow":
            lab.traffic.led = 1
        else:
            lab.activator.held["shop/web"] = 1
        assert set(await lab.run(60)) == {1}

    lab(body, tmp_path)


def test_leaves_alone_what_is_stopped_inactive_or_removed(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        app = lab.add("shop", SPEC)
        for values in ({"stopped": ("web",)}, {"active": (), "stopped": ()}, {"active": ("web",), "removed": True}):
            lab.change("shop", **values)
            lab.activator.held["shop/web"] = 9
            lab.scaler.wake("shop/web")
            assert set(await lab.run(30)) == {1}
            with pytest.raises(NotFoundError):
                lab.scaler.explain(app, "web")

    lab(body, tmp_path)


def test_nothing_is_lowered_while_a_rollout_is_under_way(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        app = lab.add("shop", SPEC)
        await lab.run(15, {"shop": 40})
        app.memory["web"] = Memory(rollout=Rollout("new", "old"))
        assert set(await lab.run(60)) == {4}
        assert lab.scaler.explain(app, "web").decided_by == "rollout"
        app.memory["web"] = Memory()
        assert (await lab.run(60))[-1] == 0

    lab(body, tmp_path)


def test_wake_begins_at_once_with_as_many_as_those_who_wait_need(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.add("shop", replace(SPEC, targets=(ScaleTarget("concurrency", 40.0),), max=20))
        await lab.run(40)
        assert lab.count("shop") == 0
        lab.activator.held["shop/web"] = 200
        lab.scaler.wake("shop/web")
        assert lab.count("shop") == 5, "before any tick"
        assert lab.reasons()[-1] == "wake: 200 waiting"
        lab.activator.held.clear()
        assert set(await lab.run(4)) == {5}, "kept for scale_down_delay"
        assert (await lab.run(40))[-1] == 0

    lab(body, tmp_path)


def test_a_wake_that_was_missed_comes_with_the_next_tick(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.add("shop", SPEC)
        await lab.run(40)
        lab.activator.held["shop/web"] = 1
        assert (await lab.run(1)) == [1]

    lab(body, tmp_path)


def test_a_number_set_by_hand_holds_for_the_delay(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        app = lab.add("shop", SPEC)
        await lab.run(15, {"shop": 8})
        lab.scaler.set_by_hand(app, {"web": 3})
        lab.change("shop", autoscaled={"web": 3})
        assert set(await lab.run(4, {"shop": 8})) == {3}
        assert (await lab.run(30, {"shop": 8}))[-1] == 1

    lab(body, tmp_path)


def test_the_budget_goes_by_priority_and_is_said_once(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        each = Resources(memory=1 << 20)
        lab.add("low", replace(SPEC, priority=1), resources=each)
        await lab.run(15, {"low": 40})
        assert lab.count("low") == 4
        lab.add("high", replace(SPEC, priority=9), resources=each)
        await lab.run(15, {"low": 40, "high": 30})
        assert (lab.count("low"), lab.count("high")) == (1, 3)
        assert any("high/web has precedence" in reason for reason in lab.reasons("budget"))
        assert len(lab.reasons("budget")) == len(set(lab.reasons("budget")))
        view = lab.scaler.explain(lab.apps["low"], "web")
        assert (view.granted, view.decided_by) == (1, "budget")
        assert "precedence" in view.budget

    lab(body, tmp_path, Room(memory=4 << 20))


def test_no_room_no_wake(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.add("big", replace(SPEC, min=4, max=4), resources=Resources(memory=1 << 20))
        lab.add("late", SPEC, resources=Resources(memory=1 << 20))
        await lab.run(40)
        assert lab.count("late") == 0
        lab.activator.held["late/web"] = 1
        lab.scaler.wake("late/web")
        assert lab.count("late") == 0
        assert lab.reasons("budget")

    lab(body, tmp_path, Room(memory=4 << 20))


def test_what_was_evicted_stays_away_for_a_while(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.add("shop", SPEC)
        await lab.run(15, {"shop": 40})
        lab.scaler.allowance.caps["shop/web"] = (lab.now + 60, 2)
        assert set(await lab.run(50, {"shop": 40})) == {2}
        assert (await lab.run(30, {"shop": 40}))[-1] == 4

    lab(body, tmp_path)


def test_a_queue_is_read_beside_and_one_that_cant_be_read_never_lowers(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        app = lab.add("jobs", replace(SPEC, targets=(ScaleTarget("queue", 5.0, "nats://n/s/c"),)), routed=False)
        lab.unread["nats://n/s/c"] = 19.0
        for _ in range(10):
            await lab.run(1)
            await asyncio.sleep(0)  # the reading is a task of its own
        assert lab.count("jobs") == 4
        lab.unread.clear()
        assert set(await lab.run(60)) == {4}
        view = lab.scaler.explain(app, "web")
        assert view.targets[0].wish is None
        assert "nats://n/s/c" in view.targets[0].note

    lab(body, tmp_path)


def test_a_queue_wakes_whom_it_needs_and_keeps_them_until_it_is_empty(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.add("jobs", replace(SPEC, targets=(ScaleTarget("queue", 5.0, "nats://n/s/c"),), window=60.0), routed=False)

        async def pass_by(seconds: int, depth: float) -> list[int]:
            lab.unread["nats://n/s/c"] = depth
            seen = []
            for _ in range(seconds):
                seen += await lab.run(1)
                await asyncio.sleep(0)
            return seen

        assert (await pass_by(90, 0.0))[-1] == 0
        assert set((await pass_by(60, 19.0))[2:]) == {4}, "though most of the window was asleep"
        assert (await pass_by(150, 0.0))[-1] == 0

    lab(body, tmp_path)


def test_a_schedule_wakes_it_and_lets_it_sleep_again(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        spec = replace(SPEC, schedules=(Schedule("* * * * *", 2, 20.0),))
        lab.add("shop", spec)
        seen = await lab.run(180)
        assert {0, 2} <= set(seen[60:])
        assert any("schedule" in reason for reason in lab.reasons())

    lab(body, tmp_path)


def test_the_next_daemon_goes_on_where_this_one_was_killed(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.add("shop", SPEC)
        await lab.run(15, {"shop": 40})
        remembered = dict(lab.apps["shop"].scaling)
        lab.reload()
        assert lab.count("shop") == 4
        assert lab.apps["shop"].scaling["web"].desired[-1][1] == remembered["web"].desired[-1][1]
        after = await lab.run(9)
        assert min(after) > 0, "it counts as used when the daemon began"
        assert (await lab.run(40))[-1] == 0
        lab.reload()
        assert lab.count("shop") == 0, "asleep it stays asleep"
        lab.activator.held["shop/web"] = 1
        assert (await lab.run(1)) == [1]

    lab(body, tmp_path)


def test_explains_only_what_is_scaled(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        app = lab.add("shop", SPEC)
        view = lab.scaler.explain(app, "web")
        assert (view.desired, view.min, view.max) == (1, 0, 5)
        service = app.revisions[0].spec.services["web"]
        app.revisions[0].spec.services["web"] = replace(service, scale=None)
        with pytest.raises(ConflictError):
            lab.scaler.explain(app, "web")

    lab(body, tmp_path)


@pytest.mark.parametrize(
    ("member", "health", "state", "reached"),
    [
        (MemberState(serving=True), "none", State.RUNNING, True),
        (MemberState(), "none", State.RUNNING, True),
        (MemberState(), "starting", State.RUNNING, False),
        (MemberState(draining_since=9.0), "none", State.RUNNING, False),
        (MemberState(), "none", State.CREATED, False),
        (MemberState(serving=True), "healthy", State.RUNNING, True),
    ],
)
def test_who_waits_reaches_a_new_instance_before_it_is_known_to_listen(
    tmp_path: Path, member: MemberState, health: str, state: State, reached: bool
) -> None:
    async def body(lab: Lab) -> None:
        app = lab.add("shop", SPEC)
        record = InstanceRecord("a" * 64, "shop-web-1", InstanceSpec("img"), "i", {}, 0, BEGIN, "running", state)
        one = Live(record, (EndpointRecord(record.id, "n", 0, 1, "10.1.0.9", "02:00:00:00:00:01"),), health=Health(health))
        app.members[one.id] = Member(one.id, "shop", "web", 1, "f", member)
        anything = cast("Any", None)
        balance = Balance(lab.table, anything, anything, {}, {one.id: one}, lab.apps, lab.activator)
        balance.tell_activator(app)
        assert lab.activator.serving["shop/web"] == (("10.1.0.9",) if reached else ())

    lab(body, tmp_path)


class _Told:
    """A gateway or an activator that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    async def apply(self, what: Iterable[Any]) -> None:
        self.told.append(tuple(what))


def test_a_daemon_without_applications_tells_so_once(tmp_path: Path) -> None:
    """Its predecessor may have been killed before it told that the last one is gone."""

    async def body(lab: Lab) -> None:
        gateway, activator = _Told(), _Told()
        balance = Balance(lab.table, cast("Any", None), cast("Any", gateway), {}, {}, {}, cast("Any", activator))
        await balance.begin()
        await balance.begin()
        assert gateway.told == activator.told == [()]

    lab(body, tmp_path)


def test_only_what_may_sleep_has_somebody_who_stands_in(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        app = lab.add("shop", SPEC)
        spec = app.spec.services["web"]
        assert may_sleep(app, spec)
        assert not may_sleep(app, replace(spec, scale=replace(SPEC, min=1)))
        assert not may_sleep(app, replace(spec, scale=None))
        network = NetworkRecord("n", "shop_default", 1, "10.1.0.0/24", "10.1.0.1")
        side = ServiceSide("n", "10.1.0.77", ("web",))
        ports = (PortMapping(80, 8080), PortMapping(53, 5353, protocol="udp"))
        found = sleeper(app, spec, ServiceRecord("shop.web", (side,), ports), {"n": network})
        assert found.http_ports == (80,)
        assert found.tcp == (Entrance("10.1.0.77", peers=("10.1.0.0/24",)), Entrance("", 8080, 80))
        assert found.deadline == 59.0, "a second before the gateway gives up"
        lab.change("shop", stopped=("web",))
        assert not may_sleep(app, spec)

    lab(body, tmp_path)
