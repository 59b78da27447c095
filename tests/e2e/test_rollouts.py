"""Rollouts under load: a canary by its weight, blue and green, pause, resume and abort, revisions that fail in traffic; and instances that
are killed for lack of memory. One application in each hull goes through all of it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.e2e.apps import PATIENCE, App, load
from tests.harness import Daemon

from twinhull.engine.apps.base import AppView, RolloutView, ServiceView

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs root"),
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("rollouts"),
]
RATE = {"container": 100.0, "vm": 15.0}
"""Requests a second; each starts a program."""
SAMPLE = {"container": 150, "vm": 60}
"""Requests from which a share is told."""
STEP = 3.0
"""Seconds of a canary's step; time enough for a person to pause it."""
CANARY = f"{{strategy: canary, steps: [25, 50], interval: {STEP:g}s}}"
BLUE_GREEN = "{strategy: blue-green, interval: 2s}"


@pytest.fixture(scope="module")
def shared(machine: Daemon, runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    made = App(machine, tmp_path_factory.mktemp("rollouts"), runtime=runtime)
    made.up(TEXT="first")
    yield made
    machine.cli("down", "-p", made.name, "-v", timeout=240)


@pytest.fixture
def app(shared: App) -> App:
    shared.until_ready()
    return shared


def test_a_canary_takes_its_share_and_stands_still_while_it_is_paused(app: App) -> None:
    before = _web(app.view())
    with load(app, RATE[app.runtime]) as counted, _up(app, rollout=CANARY, TEXT="canary") as update:
        for percent, wait in ((25, STEP + 0.5), (50, 0.0)):
            app.until(f"at {percent} %", lambda view, wanted=percent: _rollout(view).share == wanted)  # type: ignore[misc]
            app.cli("rollout", "pause")
            _stands_still(app, requests := Requests(app), wait)
            new = {member.name for member in _web(app.view()).members} - {member.name for member in before.members}
            _follows(requests.counts(), new, percent / 100)
            app.cli("rollout", "resume")
        assert update.result().code == 0, update.result()
    after = _web(app.view())
    assert counted.failed == 0, counted
    assert (len(after.members), _rollout(app.view()).status) == (2, "done")
    assert {member.fingerprint for member in after.members} == {after.fingerprint} != {before.fingerprint}
    assert app.get() == "canary"
    refused = app.cli("rollout", "resume", check=False)
    assert (refused.code, "no rollout of web to resume" in refused.err.decode()) == (1, True), refused


FAULTS = {"errors": ({"CODE": "500"}, "requests failed"), "crashes": ({"FIRST": "killall -9 httpd"}, "exited with code 137")}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_canary_that_fails_in_traffic_goes_back_by_itself(app: App, fault: str) -> None:
    """Only what the canary itself answered has failed: what nobody may repeat, here a fifth of the requests where it answers errors."""
    env, reason = FAULTS[fault]
    good, before, requests = app.get(), _web(app.view()), Requests(app)
    with load(app, RATE[app.runtime], post=0.2 if fault == "errors" else 0.0) as counted:
        with _up(app, rollout=CANARY.replace(f"{STEP:g}s", "5m"), TEXT=fault, **env) as update:
            assert update.result().code == 1
        view = app.until("back", lambda view: _rollout(view).status == "rolled-back" and view.settled)
    assert reason in _rollout(view).reason
    assert _ids(view) == {member.id for member in before.members}, "the old instances were never touched"
    _failed_on_others_than(before, counted.report, requests, bearable={"errors": "status 500"}.get(fault, "none"))
    assert set(counted.report["bodies"]) == {good}


def test_blue_turns_to_green_at_once(app: App) -> None:
    old, before = app.get(), _web(app.view())
    with load(app, RATE[app.runtime]) as counted, _up(app, rollout=BLUE_GREEN, TEXT="green") as update:
        view = app.until("green", lambda view: _one_colour(view) and _rollout(view).share == 100)
        assert {member.id for member in before.members} < _ids(view), "blue stays for a while, so that it can come back"
        assert update.result().code == 0, update.result()
    view = app.view()
    assert counted.failed == 0, counted
    assert set(counted.report["bodies"]) == {old, "green"}
    assert len(_ids(view)) == 2
    assert _ids(view).isdisjoint(member.id for member in before.members)


def test_blue_comes_back_when_green_answers_errors(app: App) -> None:
    good, before, requests = app.get(), _web(app.view()), Requests(app)
    with load(app, RATE[app.runtime]) as counted:
        with _up(app, rollout=BLUE_GREEN.replace("2s", "5m"), TEXT="sick", CODE="500") as update:
            app.until("back", lambda view: _one_colour(view) and _rollout(view).status == "rolled-back")
            assert update.result().code == 1
        view = app.until_ready()
    assert "requests failed" in _rollout(view).reason
    assert _ids(view) == {member.id for member in before.members}
    _failed_on_others_than(before, counted.report, requests, bearable="status 500")
    assert set(counted.report["bodies"]) == {good}


def test_a_paused_update_replaces_nobody_and_abort_returns(app: App) -> None:
    old, before = app.get(), _web(app.view())
    with load(app, RATE[app.runtime]) as counted, _up(app, TEXT="aborted") as update:
        app.until("begun", lambda view: _rollout(view).status == "running" and _rollout(view).updated > 0)
        app.cli("rollout", "pause", "web")
        app.until("calm", lambda view: all(member.serving for member in _web(view).members))
        _stands_still(app, Requests(app), 3.0)
        assert "paused by hand" in app.cli("rollout", "status").text
        app.cli("rollout", "abort", "web")
        assert update.result().code == 1
        view = app.until("back", lambda view: _rollout(view).status == "rolled-back" and view.settled)
    assert counted.failed == 0, counted
    assert {member.fingerprint for member in _web(view).members} == {member.fingerprint for member in before.members}
    assert set(counted.report["bodies"]) == {old, "aborted"}
    assert app.get() == old


HUNGRY = """
  hungry:
    image: busybox
    runtime: {runtime}
    command: [sh, -c, "x=0123456789; while :; do x=$$x$$x; done"]
    deploy: {{resources: {{limits: {{memory: 96M}}}}, restart_policy: {{condition: none}}}}
"""


def test_out_of_memory_is_said_and_healed(app: App) -> None:
    """An instance that eats too much is replaced, a revision that does goes back, and what isn't restarted says why it has gone."""
    begun, (victim, other) = time.time(), _web(app.view()).members
    with load(app, RATE[app.runtime]) as counted:
        app.daemon.cli("kill", "-s", "USR1", victim.name)
        view = app.until("healed", lambda view: victim.id not in _ids(view) and view.settled and view.state == "up")
    assert counted.failed <= 2, counted  # what was under way to it
    assert other in _web(view).members, "the other one was not disturbed"
    assert len(_ids(view)) == 2
    assert any("out of memory (exit code 137)" in each.reason and victim.name in each.reason for each in view.log)
    lines = app.daemon.cli("events", "--json", "--no-follow", "--since", f"{begun:.3f}", "--until", f"{time.time():.3f}").lines
    assert (victim.id, "oom") in {(event["id"], event["action"]) for event in map(json.loads, lines)}

    with load(app, RATE[app.runtime]) as counted, _up(app, TEXT="eats", EAT="all") as update:
        assert "out of memory (exit code 137)" in update.result().err.decode()
        view = app.until("back", lambda view: _rollout(view).status == "rolled-back" and view.settled)
    assert counted.failed == 0, counted
    assert "out of memory (exit code 137)" in app.cli("rollout", "status").text
    app.cli("up", "--wait")  # not blamed for what the one before it was taken back for

    app.more = HUNGRY.format(runtime=app.runtime)
    app.write()
    app.cli("up", "--wait", check=False)  # ready for a moment, or out of memory before that
    app.until("out of memory", lambda view: any(member.exit_code == 137 for member in _service(view, "hungry").members))
    (line,) = [line for line in app.cli("compose ps").lines if "hungry" in line]
    assert "Exited (137)" in line
    assert "out of memory" in line


@dataclass
class _Update:
    """An `up --wait` that goes on."""

    ended: Future[Any] = field(default_factory=Future)

    def result(self) -> Any:
        """How it ended."""
        return self.ended.result(PATIENCE)


class _Updating:
    def __init__(self, app: App, env: dict[str, str]) -> None:
        self.app, self.env, self.pool = app, env, ThreadPoolExecutor(1)

    def __enter__(self) -> _Update:
        return _Update(self.pool.submit(self.app.cli, "up", "--wait", check=False, **self.env))

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True)


def _up(app: App, rollout: str = "", **env: str) -> _Updating:
    """In the background, within the block; the environment and the strategy are for this time."""
    app.rollout = rollout
    app.write()
    return _Updating(app, env)


class Requests:
    """What the gateway has written of requests since this was made."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.path = app.daemon.home.state / "gateway" / "access.log"
        self.begin = self.path.stat().st_size

    def entries(self) -> list[dict[str, Any]]:
        """One for each, by the time of their end."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            return [json.loads(line) for line in file.read().rpartition(b"\n")[0].splitlines()]

    def counts(self) -> Counter[str]:
        """By the instance that answered."""
        return Counter(entry["instance"] for entry in self.entries())


def _service(view: AppView, name: str) -> ServiceView:
    return next(each for each in view.services if each.name == name)


def _web(view: AppView) -> ServiceView:
    return _service(view, "web")


def _rollout(view: AppView) -> RolloutView:
    return _web(view).rollout or RolloutView("none")


def _ids(view: AppView) -> set[str]:
    return {member.id for member in _web(view).members}


def _one_colour(view: AppView) -> bool:
    """True; and that traffic never went to both."""
    assert len({member.fingerprint for member in _web(view).members if member.serving}) == 1, view
    return True


def _stands_still(app: App, requests: Requests, seconds: float) -> None:
    """While a sample of requests is answered, and for so long at least, nothing is done to the application."""
    view, begun = app.view(), time.monotonic()
    assert _rollout(view).status == "paused"
    _eventually(lambda: len(requests.entries()) >= SAMPLE[app.runtime] and time.monotonic() - begun >= seconds)
    now = app.view()
    assert now.log == view.log
    assert _web(now).members == _web(view).members


def _follows(counts: Counter[str], new: set[str], share: float) -> None:
    """Within three standard deviations of as many independent choices."""
    total, theirs = sum(counts.values()), sum(counts[name] for name in new)
    assert abs(theirs / total - share) <= 3 * math.sqrt(share * (1 - share) / total), (counts, new, share)


def _failed_on_others_than(good: ServiceView, report: dict[str, Any], requests: Requests, bearable: str) -> None:
    """Every failure is an answer of the new revision, and of the bearable kind."""
    names = {member.name for member in good.members}
    bad = [entry for entry in requests.entries() if not 200 <= entry["status"] < 400]
    assert report["failed"] == len(bad), report
    assert {text for _, text in report["failures"]} <= {bearable}, report
    assert names.isdisjoint(entry["instance"] for entry in bad), bad


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
