"""Sizes that follow use, guests that wait, and what the budget counts: the autoscaler's hands, without a machine."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.fakes.scaling import BEGIN, Lab

from twinhull.engine.apps.allowance import Allowance
from twinhull.engine.apps.meters import Meter, Subject
from twinhull.engine.apps.sizing import Sizing
from twinhull.engine.base import Event
from twinhull.engine.live import Live
from twinhull.plan.budget import Room
from twinhull.plan.lifecycle import State
from twinhull.plan.resize import WINDOW, Use
from twinhull.spec.app import APP_LABEL, ONE_OFF_LABEL, SERVICE_LABEL, ScaleSpec
from twinhull.spec.instance import InstanceSpec, Resources, Runtime
from twinhull.store.db import InstanceRecord

MIB = 1 << 20
AUTO = ScaleSpec(auto_resources=True)
FILE = Resources(cpus=2.0, memory=512 * MIB)


class Hull:
    """Takes limits."""

    def __init__(self) -> None:
        self.limits: list[Resources] = []

    async def update(self, resources: Resources) -> None:
        """Remembered."""
        self.limits.append(resources)


def live(resources: Resources, runtime: Runtime = Runtime.CONTAINER, **labels: str) -> Live:
    spec = InstanceSpec("img", runtime=runtime, resources=resources, labels=labels)
    record = InstanceRecord("a" * 64, "shop-web-1", spec, "i", {}, 0, BEGIN, "running", State.RUNNING)
    return Live(record, instance=cast("Any", Hull()))


def sizing(lab: Lab, *lives: Live) -> Sizing:
    saved = SimpleNamespace(save_instance=lambda record: None)
    return Sizing(cast("Any", SimpleNamespace(lives={each.id: each for each in lives}, database=saved, events=lab.events)))


def used(memory: int, cpus: float = 0.1) -> dict[str, Meter]:
    meter = Meter(BEGIN, uses=deque(Use(BEGIN + at, cpus, memory) for at in range(int(WINDOW) + 1)))
    return {"shop/web": meter}


@pytest.mark.parametrize("hull", [Runtime.CONTAINER, Runtime.VM])
def test_a_size_follows_use_within_what_the_file_says(tmp_path: Path, hull: Runtime) -> None:
    async def body() -> None:
        lab, one = Lab(tmp_path), live(FILE, hull)
        app = lab.add("shop", AUTO, resources=FILE)
        service = app.spec.services["web"]
        service = replace(service, template=replace(service.template, runtime=hull))
        subject = Subject(app, service, (one,))
        hands = sizing(lab, one)
        await hands.look([subject], used(180 * MIB), BEGIN + WINDOW)
        size = app.wanted.sizes["web"]
        assert 180 * MIB < size.memory < 256 * MIB
        assert size.cpus == (0.5 if hull is Runtime.VM else 0.15), "a guest's kernel needs some too"
        changed = cast("Hull", one.instance).limits
        assert [each.memory for each in changed] == ([] if hull is Runtime.VM else [size.memory]), "a VM at its next replacement"
        assert "180 MiB" in lab.reasons("resize")[0]
        await hands.look([subject], used(900 * MIB), BEGIN + WINDOW)
        assert app.wanted.sizes["web"].memory == 512 * MIB, "never more than the file says"
        await lab.close()

    asyncio.run(body())


def test_who_ran_out_of_memory_gets_more(tmp_path: Path) -> None:
    async def body() -> None:
        lab, one = Lab(tmp_path), live(FILE, **{APP_LABEL: "shop", SERVICE_LABEL: "web"})
        app = lab.add("shop", AUTO, resources=FILE)
        subject, hands = Subject(app, app.spec.services["web"], (one,)), sizing(lab, one)
        await hands.look([subject], used(100 * MIB), BEGIN + WINDOW)
        before = app.wanted.sizes["web"].memory
        hands.happened(Event(BEGIN, "instance", "oom", one.id, "shop-web-1", {}))
        await hands.look([subject], used(100 * MIB), BEGIN + WINDOW)
        assert app.wanted.sizes["web"].memory > before
        await lab.close()

    asyncio.run(body())


def test_nobody_follows_who_was_evicted_before_it_is_missed(tmp_path: Path) -> None:
    async def body() -> None:
        lab = Lab(tmp_path)
        app = lab.add("low", ScaleSpec(min=0, max=9))
        lab.change("low", autoscaled={"web": 2})
        both = Subject(app, app.spec.services["web"], (live(FILE), live(FILE)))
        meter = Meter(BEGIN, memory=200 * MIB, inside_at=BEGIN)
        allowance = Allowance(Room(), lab.apps, {}, lambda: 50 * MIB)
        assert [left for _, left, _ in allowance.evictions([both], {"low/web": meter}, BEGIN + 1)] == [1]
        one = replace(both, lives=both.lives[:1])
        assert allowance.evictions([one], {"low/web": meter}, BEGIN + 3) == [], "what it uses was measured before"
        meter.inside_at, meter.memory = BEGIN + 4, 100 * MIB
        assert [left for _, left, _ in allowance.evictions([one], {"low/web": meter}, BEGIN + 4)] == [0], "memory is short still"
        await lab.close()

    asyncio.run(body())


@pytest.mark.parametrize("saved", [True, False])
def test_guests_wait_for_a_vm_that_sleeps_also_after_a_restart(tmp_path: Path, saved: bool) -> None:
    async def body() -> None:
        lab = Lab(tmp_path)
        app = lab.add("shop", ScaleSpec(min=0, keep_warm=2))
        lab.change("shop", snapshots={"web": "k" * 32})
        service = app.spec.services["web"]
        service = replace(service, template=replace(service.template, runtime=Runtime.VM, snapshot="app"))
        expected: list[Any] = []
        store = SimpleNamespace(has=lambda key: saved)
        launcher = SimpleNamespace(pool=SimpleNamespace(expect=expected.append), captures=SimpleNamespace(store=store))
        hands = Sizing(cast("Any", SimpleNamespace(launcher=launcher)))
        await hands.look([Subject(app, service, ())], {}, BEGIN)
        assert [wish.snapshot for wish in expected] == ["k" * 32 if saved else ""] * 2
        await hands.look([Subject(app, service, ())], {}, BEGIN + 1)
        assert len(expected) == 2, "reminded now and then, not every second"
        await lab.close()

    asyncio.run(body())


def test_the_budget_counts_what_isnt_scaled_first(tmp_path: Path) -> None:
    async def body() -> None:
        lab = Lab(tmp_path)
        app = lab.add("shop", ScaleSpec(max=9), resources=Resources(memory=100 * MIB))
        alone = live(Resources(memory=150 * MIB), **{APP_LABEL: "shop", ONE_OFF_LABEL: "True"})
        vm = live(Resources(), Runtime.VM)  # has a size in any case: 256 MiB
        lives = {"one": alone, "two": vm}
        allowance = Allowance(Room(memory=700 * MIB), lab.apps, lives)
        subject = Subject(app, app.spec.services["web"], ())
        assert allowance.admit([subject], {"shop/web": 9}, BEGIN)["shop/web"].instances == 2
        assert Allowance(Room(), lab.apps, lives).admit([subject], {"shop/web": 9}, BEGIN) == {}
        await lab.close()

    asyncio.run(body())


def test_short_memory_takes_from_the_lowest_priority_and_keeps_it_down(tmp_path: Path) -> None:
    async def body() -> None:
        lab = Lab(tmp_path)
        subjects, meters = [], {}
        for name, priority in (("low", 1), ("high", 9)):
            app = lab.add(name, ScaleSpec(min=0, max=9, priority=priority))
            lab.change(name, autoscaled={"web": 2})
            subjects.append(Subject(app, app.spec.services["web"], (live(FILE), live(FILE))))
            meters[f"{name}/web"] = Meter(BEGIN, memory=200 * MIB)
        allowance = Allowance(Room(), lab.apps, {}, lambda: 120 * MIB)
        gone = allowance.evictions(subjects, meters, BEGIN)
        assert [(subject.name, left) for subject, left, _ in gone] == [("low/web", 0)]
        assert allowance.evictions(subjects, meters, BEGIN + 1) == [], "they are still there: nobody else goes for them"
        gone = allowance.evictions(subjects, meters, BEGIN + 11)
        assert [subject.name for subject, _, _ in gone] == ["low/web"], "they should have gone by now"
        allowance.caps["low/web"] = (BEGIN + 60, 0)
        grants = allowance.admit(subjects, {"low/web": 2, "high/web": 2}, BEGIN + 1)
        assert (grants["low/web"].instances, grants["high/web"].instances) == (0, 2)
        assert allowance.admit(subjects, {}, BEGIN + 61) == {}
        await lab.close()

    asyncio.run(body())
