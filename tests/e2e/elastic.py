"""A service that scales by itself, and one that calls it by name; for tests and bench/waking.py."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.e2e.apps import App
from tests.e2e.shop import Answer, inside

from twinhull.client import Client
from twinhull.engine.apps.base import ScaleView, ServiceView

WAKE = "X-Twinhull-Wake"
"""On the answer to a request that was held: how many milliseconds."""
RATE = 10
"""Requests a second that one instance is to have."""
COMPOSE = """\
name: {name}
services:
  web:
    image: busybox
    runtime: {runtime}
    command: [sh, -c, "mkdir /www; hostname > /www/index.html; echo one > /www/x; exec httpd -f -p 8080 -h /www"]
    stop_signal: KILL
    deploy: {{resources: {{limits: {{memory: 96M}}}}}}
    x-twinhull:
      route: {{host: {name}.localhost, port: 8080}}
      {snapshot}
      scale: {{{scale}}}
  caller:
    image: busybox
    command: [sleep, "100000"]
    stop_signal: KILL
"""
SCALE = f"min: 0, max: 3, target: {{rps: {RATE}}}, window: 4s, panic_window: 2s, scale_down_delay: 2s"


@dataclass
class Elastic(App):
    """`scale`: what stands in x-twinhull.scale. snapshot: start VMs from the warmed application."""

    name: str = "elastic"
    scale: str = field(default=SCALE)
    snapshot: bool = False

    def __post_init__(self) -> None:
        self.file = self.folder / f"{self.name}.yaml"
        snapshot = "snapshot: app" if self.snapshot else ""
        self.file.write_text(COMPOSE.format(name=self.name, runtime=self.runtime, scale=self.scale, snapshot=snapshot))

    def web(self) -> ServiceView:
        """The service that scales."""
        return next(service for service in self.view().services if service.name == "web")

    def explain(self) -> ScaleView:
        """Why it has as many as it has."""
        with Client(str(self.daemon.home.socket)) as client:
            return client.app_scale_explain(self.name, "web")

    def until_web(self, least: int, patience: float = 60.0) -> None:
        """So many instances are ready; 0: none is there any more."""

        def holds() -> bool:
            web = self.web()
            return web.ready >= least if least else not web.members and not web.desired

        deadline = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < deadline, f"not {least} after {patience:g} s: {self.explain()}\n{self.web()}"
            time.sleep(0.05)

    def ask(self, *, patience: float = 60.0) -> Answer:
        """One request through the gateway, on a connection of its own."""
        connection = self.connect(patience=patience)
        try:
            return self.ask_on(connection)
        finally:
            connection.close()

    def connect(self, *, patience: float = 60.0) -> http.client.HTTPConnection:
        """To the gateway. Isn't opened again by itself."""
        made = http.client.HTTPConnection("127.0.0.1", 80, timeout=patience)
        with contextlib.suppress(OSError):
            inside(self.daemon.net, made.connect)
        made.auto_open = 0
        return made

    def ask_on(self, connection: http.client.HTTPConnection, method: str = "GET") -> Answer:
        """One request. Status 0: the connection was closed, or none was accepted."""
        try:
            connection.request(method, "/x", headers={"Host": f"{self.name}.localhost"})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read().decode())
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, http.client.HTTPMessage(), f"{type(error).__name__}: {error}")

    def crowd(self, count: int) -> Sequence[Answer]:
        """So many at once."""
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.ask(), range(count)))
