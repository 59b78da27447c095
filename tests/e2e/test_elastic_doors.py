"""A service that sleeps behind two doors, HTTP and TCP; and a daemon that is killed while such a service has just begun to grow."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests import leaks
from tests.e2e.apps import load
from tests.e2e.elastic import RATE, WAKE, Elastic
from tests.e2e.shop import inside
from tests.harness import Daemon

from twinhull.client import Client
from twinhull.engine.apps.base import ServiceView

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs root"),
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("elastic"),
]
TCP = 7070
"""Published; inside it is 7000, and answers a second before the web server does."""
COMPOSE = """\
name: doors
services:
  web:
    image: busybox
    runtime: {runtime}
    command: [sh, -c, "nc -ll -p 7000 -e echo two & mkdir /www; echo one > /www/x; sleep 1; exec httpd -f -p 8080 -h /www"]
    stop_signal: KILL
    ports: ["{tcp}:7000"]
    deploy: {{resources: {{limits: {{memory: 96M}}}}}}
    x-twinhull:
      route: {{host: doors.localhost, port: 8080}}
      scale: {{min: 0, max: 3, target: {{rps: {rate}}}, window: 2s, panic_window: 1s, scale_down_delay: 1s}}
"""


@dataclass
class Doors(Elastic):
    """One service, two ports."""

    name: str = "doors"

    def __post_init__(self) -> None:
        self.file = self.folder / f"{self.name}.yaml"
        self.file.write_text(COMPOSE.format(runtime=self.runtime, tcp=TCP, rate=RATE))

    def call(self) -> str:
        """What the published port says."""
        connection = inside(self.daemon.net, socket.create_connection, ("127.0.0.1", TCP), 60)
        with connection, connection.makefile() as said:
            return said.read()

    def until_led_to(self, patience: float = 60.0) -> None:
        """One serves, and nobody is held any more."""
        deadline = time.monotonic() + patience
        while WAKE in (answer := self.ask()).headers or answer.status != 200:
            assert time.monotonic() < deadline, f"{self.explain()}\n{answer}"

    def until_half_grown(self, patience: float = 60.0) -> ServiceView:
        """One serves, and another that the autoscaler has begun isn't ready."""
        deadline = time.monotonic() + patience
        while True:
            web = self.web()
            if web.ready and web.desired > web.ready and any(not member.serving for member in web.members):
                return web
            assert time.monotonic() < deadline, f"{self.explain()}\n{web}"
            time.sleep(0.005)


@pytest.fixture(scope="module")
def app(machine: Daemon, runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Up, and asleep."""
    found = Doors(machine, tmp_path_factory.mktemp(runtime), runtime=runtime)
    found.up()
    found.until_web(0)
    yield found
    machine.cli("down", "-p", found.name, "-v", check=False, timeout=240)


def test_either_door_wakes_it(app: Doors) -> None:
    """Then both lead to it."""
    assert app.call() == "two\n"
    assert app.ask().status == 200
    app.until_web(0)
    woken = app.ask()
    assert (woken.status, woken.body) == (200, "one\n")
    assert WAKE in woken.headers
    assert app.call() == "two\n"


def test_a_daemon_killed_while_a_service_grows(app: Doors) -> None:
    """kill -9 when an instance was begun and isn't ready: no failed request, and exactly as many as wanted in the end."""
    before = leaks.snapshot(app.daemon.home)
    app.until_led_to()
    with load(app, 3 * RATE, path="/x") as counted:
        half = app.until_half_grown()
        app.daemon.kill()
        app.daemon.start()
        app.until_web(3)
        web = app.web()
    assert counted.failed == 0, f"{counted}\n{half}"
    assert {member.id for member in half.members if member.serving} <= {member.id for member in web.members}, "who served goes on"
    assert sorted(member.slot for member in web.members) == [1, 2, 3], web
    with Client(str(app.daemon.home.socket)) as client:
        assert {each.id for each in client.list(all=True)} == {member.id for member in web.members}, "nobody that isn't known"
    app.until_web(0)
    leaks.assert_clean(app.daemon.home, before, timeout=20, ignore=is_daemon)


def is_daemon(leak: leaks.Leak) -> bool:
    """The next one, which has a pid and a socket of its own."""
    return leak.detail.endswith("twinhull daemon") or "/twinhull.sock" in leak.name
