"""engine/apps/loop.py: what an application is looked at for though nothing happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinhull.engine.apps.loop import looks
from twinhull.engine.apps.state import App
from twinhull.plan.memory import Memory, Rollout, RolloutStatus
from twinhull.spec.app import AppSpec, RouteSpec, ServiceSpec
from twinhull.spec.instance import InstanceSpec
from twinhull.store.apps import AppRow, AppTable, Member, MemberState, Revision, Wanted
from twinhull.store.db import Database


@pytest.fixture
def app(tmp_path: Path) -> App:
    spec = AppSpec("shop", {"web": ServiceSpec("web", InstanceSpec("image"), routes=(RouteSpec(port=80),))})
    row = AppRow("shop", 1.0, 1, Wanted(active=("web",)))
    return App(AppTable(Database(tmp_path / "db")), row, [Revision("shop", 1, 1.0, "up", spec, {})])


@pytest.mark.parametrize("status", RolloutStatus)
def test_a_new_revision_in_traffic_is_watched_though_its_step_may_take_long(app: App, status: RolloutStatus) -> None:
    app.memory["web"] = Memory(rollout=Rollout("new", "old", status))
    watched = status in (RolloutStatus.RUNNING, RolloutStatus.MONITORING)
    assert [*looks(app, 100.0)] == ([100.5] if watched else [])


def test_connections_that_end_and_what_is_in_the_way_are_asked_for(app: App) -> None:
    assert [*looks(app, 100.0)] == []
    app.members["x"] = Member("x", "shop", "web", 1, "old", MemberState(draining_since=99.0))
    app.trouble = "port 80 is another's"
    assert [*looks(app, 100.0)] == [100.25, 102.0]
