"""`top` of services, and what `load` refuses, against the real API over a fake engine."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.server import Server, serving

from twinhull import home
from twinhull.cli import main
from twinhull.cli.verbs import top
from twinhull.client import Client
from twinhull.engine.apps.base import UpOptions
from twinhull.gateway.base import BackendStats
from twinhull.spec.app import AppSpec, ScaleSpec, ScaleTarget, ServiceSpec
from twinhull.spec.instance import InstanceSpec

Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """An application of two services, one of them scaled and led to by the gateway: (exit code, stdout, stderr)."""
    monkeypatch.setenv("TWINHULL_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    place = home.at(tmp_path)
    place.run.mkdir(parents=True, exist_ok=True)

    def call(line: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main.dispatch(line.split())
        sys.stdout.flush()
        return code, *capfd.readouterr()

    with serving(place) as server:
        _fill(server)
        yield call


def _fill(server: Server) -> None:
    server.engine.backends = (BackendStats("shop/web", 120.0, 7, 2, 1000, 3, 0.25, ()),)
    web = ServiceSpec("web", InstanceSpec("busybox"), scale=ScaleSpec(0, 5, (ScaleTarget("rps", 50),)))
    with Client(str(server.home.socket)) as client:
        client.app_up(AppSpec("shop", {"web": web, "db": ServiceSpec("db", InstanceSpec("busybox"))}), UpOptions())


def test_a_table_of_services(run: Run) -> None:
    code, out, _ = run("top --no-stream")
    head, web, db = out.splitlines()
    assert code == 0
    assert head.split() == "APP SERVICE RUNTIME STATE READY MIN-MAX REQ/S P95 OPEN WAITING TARGET REASON".split()
    assert web.split()[:2] == ["shop", "web"]
    assert web.split()[5:12] == ["0-5", "120", "250ms", "7", "2", "rps", "120/50"]
    assert web.endswith("120 in all, target 50 each")
    assert db.split()[5:11] == ["-"] * 6


def test_the_same_for_programs_and_by_a_template(run: Run) -> None:
    web, db = json.loads(run("top --no-stream --json")[1])
    assert (web["app"], web["service"], web["max"], web["decided_by"], web["rate"]) == ("shop", "web", 5, "target rps", 120)
    assert web["targets"][0]["wish"] == 3
    assert (db["max"], db["rate"], db["targets"]) == (None, None, None)
    assert run("top --no-stream --format {{.Service}}={{.Target}}")[1] == "web=rps 120/50\ndb=-\n"


def test_a_live_table_is_drawn_again_and_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[float] = []

    def sleep(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(top, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        run("top")
    assert rounds == [1, 1, 1]


def test_a_metric_that_is_missing_is_said() -> None:
    item = {"targets": [{"target": "queue:nats://q/A/b", "stable": None, "value": 5.0}], "queue": None, "waiting": 3}
    assert top.targets(item) == "queue ?/5"
    assert top.waiting(item) == "3"


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("load web -p shop", 2, "has no HTTP route and publishes no port"),
        ("load nothing -p shop", 1, "application shop has no service nothing"),
        ("load http://example.org/", 2, "leads to no service on this machine"),
        ("load ftp://example.org/", 2, "is no URL of a service"),
        ("load web -p shop --rate 2001", 2, "--rate 2001: use more than 0, at most 2000"),
        ("load web -p shop --for 2h", 2, "--for 7200: use more than 0, at most 3600"),
        ("load web -p shop --shape square", 2, "steady"),
        ("top web --no-stream", 2, "--no-stream is for the table of services"),
    ],
)
def test_refused(run: Run, line: str, code: int, text: str) -> None:
    status, out, err = run(line)
    assert (status, out) == (code, "")
    assert text in err


def test_load_without_a_service_reads_images(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"no archive")))
    status, out, _ = run("load")
    assert (status, out) == (0, run("image load")[1])
