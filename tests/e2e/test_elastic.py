"""A service that sleeps: woken by a crowd, by a neighbour, under load, and while its daemon is killed; nothing is lost, nothing is left."""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Iterator

import pytest
from tests import leaks
from tests.e2e.apps import load
from tests.e2e.elastic import RATE, WAKE, Elastic
from tests.harness import Daemon

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs root"),
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("elastic"),
]
CROWD = 40
NO_POST = 501
"""What busybox's web server says to a POST."""


@pytest.fixture(scope="module")
def app(machine: Daemon, runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elastic]:
    """Up, and asleep."""
    found = Elastic(machine, tmp_path_factory.mktemp(runtime), runtime=runtime)
    found.up()
    found.until_web(0)
    yield found
    machine.cli("down", "-p", found.name, "-v", check=False, timeout=240)


def test_capacity_follows_the_load(app: Elastic) -> None:
    """Down to zero and back: for a crowd, for a neighbour, for a load that one instance isn't enough for."""
    before = leaks.snapshot(app.daemon.home)

    crowd = app.crowd(CROWD)
    assert [answer.status for answer in crowd] == [200] * CROWD, crowd
    waits = [float(answer.headers[WAKE]) for answer in crowd if WAKE in answer.headers]
    assert waits
    assert all(0 < wait < 60_000 for wait in waits)
    assert {answer.body.strip() for answer in crowd} == {"one"}
    assert len(app.web().members) <= 3
    deadline = time.monotonic() + 20
    while WAKE in app.ask().headers:  # who was held reached it as soon as it listened; the gateway leads to it when it serves
        assert time.monotonic() < deadline, app.explain()

    app.until_web(0)
    assert neighbour(app) == "one"

    with load(app, 3 * RATE, path="/x") as counted:
        app.until_web(3)
    assert counted.failed == 0, counted
    app.until_web(0)
    leaks.assert_clean(app.daemon.home, before, timeout=20)


def neighbour(app: Elastic) -> str:
    """What a service of the same application gets that calls it by name. (busybox asks: a static glibc resolves nothing.)"""
    lines = app.cli("compose exec", "-T", "caller", "nslookup", "web.elastic.internal", check=False).lines
    address = next(line.split()[1] for line in lines if line.startswith("Address") and ":53" not in line)
    ask = ("timeout", "60", "wget", "-q", "-O", "-", f"http://{address}:8080/x")
    return str(app.cli("compose exec", "-T", "caller", *ask).text)


def test_a_killed_daemon_loses_no_service(app: Elastic) -> None:
    """kill -9 while requests are held and the instance for them is on its way: an answer, or 503 and when to ask again; then it is well."""
    kept = app.connect()  # a POST that isn't the first request of its connection isn't repeated by any client
    assert app.ask_on(kept).status == 200
    app.until_web(0)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        held = [*(pool.submit(app.ask) for _ in range(5)), pool.submit(app.ask_on, kept, "POST")]
        while not app.web().desired and not all(each.done() for each in held):
            time.sleep(0.005)
        app.daemon.kill()
        answers = [each.result() for each in held]
    kept.close()
    app.daemon.start()
    for answer in answers:
        assert answer.status in (200, NO_POST) or (answer.status == 503 and answer.headers["Retry-After"]), answers
    assert app.ask().status == 200
    app.until_web(0)
    assert app.ask().status == 200
