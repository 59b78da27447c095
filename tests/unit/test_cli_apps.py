"""What `up` and its kin say and do about services that fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twinhull.cli.apps import Trouble, narrowed, ready, started
from twinhull.engine.apps.base import AppView, ServiceView


def view(state: str) -> AppView:
    reason = "shop-db-1: exited with code 3" if state == "failing" else ""
    return AppView("shop", state, 1, 0.0, 0.0, services=(ServiceView("db", state, "container", "i", "0", "f", 1, 0, reason),))


def names(trouble: Trouble, state: str, now: float) -> list[str]:
    return [each.name for each in trouble.lasting(view(state), now)]


def test_a_service_that_fails_is_told_once_and_given_up_after_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    trouble = Trouble()
    assert names(trouble, "starting", 0) == []
    assert names(trouble, "failing", 10) == []
    assert capsys.readouterr().err == ""
    assert names(trouble, "failing", 14) == []
    assert "waiting: service db is failing: shop-db-1: exited with code 3" in capsys.readouterr().err
    assert names(trouble, "starting", 40) == []  # restarted, to fail again
    assert names(trouble, "failing", 69) == []
    assert capsys.readouterr().err == ""
    assert names(trouble, "failing", 70) == ["db"]


def test_one_that_recovers_begins_anew() -> None:
    trouble = Trouble()
    names(trouble, "failing", 0)
    names(trouble, "up", 30)
    assert names(trouble, "failing", 61) == []
    assert names(trouble, "failing", 121) == ["db"]


@pytest.mark.parametrize(("web", "done"), [("up", True), ("completed", True), ("starting", False), ("updating", False), ("failing", False)])
def test_who_names_services_waits_for_no_other(web: str, done: bool) -> None:
    whole = view("failing")
    whole = replace(whole, services=(*whole.services, replace(whole.services[0], name="web", state=web)))
    about = narrowed(whole, {"web"})
    assert [each.name for each in about.services] == ["web"]
    assert (ready(about), started(about)) == (done, done)
    assert not ready(whole)
    assert Trouble().lasting(narrowed(whole, {"db"}), 0) == []
