"""A load against a real service through the real gateway, and what `top` and Prometheus see of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.apps import App
from tests.harness import PROGRAM, Daemon

from twinhull.client import Client, http, target

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs root"), pytest.mark.timeout(600)]


@pytest.fixture
def app(daemon: Daemon, tmp_path: Path) -> Iterator[App]:
    found = App(daemon, tmp_path, name="loaded")
    found.up()
    yield found
    daemon.cli("down", "-p", found.name, "-v", check=False, timeout=240)


def load(app: App, *words: str) -> subprocess.Popen[bytes]:
    """Where the gateway listens."""
    argv = (PROGRAM, "load", "-f", str(app.file), *words)
    return app.daemon.net.popen(*argv, env=app.daemon.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes], code: int) -> str:
    """What it wrote to stdout."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, (out, err)
    return out.decode()


def metrics(daemon: Daemon) -> dict[tuple[str, str, str], float]:
    """Samples with a service, by name, service and instance; Prometheus' own tool has nothing against the text."""
    with http.Connection(target.Target(socket=str(daemon.home.socket))).exchange("GET", "/v1/metrics", None) as answer:
        text = answer.read()
    lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, b"", b"")
    families = list(text_string_to_metric_families(text.decode()))
    samples = [each for family in families for each in family.samples if each.labels.get("app") == "loaded"]
    return {(each.name, each.labels.get("service", ""), each.labels.get("instance", "")): each.value for each in samples}


def test_load_top_and_metrics(app: App, daemon: Daemon) -> None:
    options = ("--path", "/cgi-bin/x", "--rate", "20", "--shape", "ramp", "--for", "3s", "--json")
    report = json.loads(ended(load(app, "web", *options), 0))
    assert (report["failed"], report["unfinished"], report["answered"]) == (0, 0, report["requests"])
    assert report["url"] == "http://loaded.localhost/cgi-bin/x"
    assert report["statuses"] == {"200": report["requests"]}
    assert report["requests"] in (29, 30)
    assert 0 < report["p50"] <= report["p95"] <= report["p99"] <= report["max"]
    assert {line["ready"] for line in report["timeline"]} == {2}

    assert "× status 404" in ended(load(app, "http://loaded.localhost/nothing-here", "--rate", "10", "--for", "1s"), 1)

    web = next(row for row in json.loads(daemon.cli("top", "--no-stream", "--json").text) if row["app"] == "loaded")
    assert (web["service"], web["ready"], web["desired"], web["state"], web["max"]) == ("web", 2, 2, "up", None)
    assert web["sessions"] == 0

    found = metrics(daemon)
    assert found["twinhull_service_ready_instances", "web", ""] == 2
    assert found["twinhull_gateway_requests_total", "web", ""] >= report["requests"]
    members = {member.name for member in app.view().services[0].members}
    for name in ("twinhull_instance_memory_bytes", "twinhull_instance_cpu_seconds_total", "twinhull_instance_received_bytes_total"):
        assert {instance for key, _, instance in found if key == name} == members
    assert all(found["twinhull_instance_memory_bytes", "web", member] > 0 for member in members)


def test_an_interrupted_load_says_what_there_is(app: App, daemon: Daemon) -> None:
    process = load(app, "web", "--path", "/cgi-bin/x", "--rate", "10", "--for", "1h")
    with Client(str(daemon.home.socket)) as client:
        while not any(each.name == "loaded/web" and each.requests > 3 for each in client.traffic()):
            assert process.poll() is None, ended(process, 0)
    process.send_signal(signal.SIGINT)
    assert "answered, 0 failed" in ended(process, 130)
