"""Applications of one service that scales by itself, for bench/waking.py: put to sleep, woken, loaded, and watched."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.elastic import COMPOSE

from bench.peers import Docker
from bench.world import Daemon
from twinhull.engine.apps.base import ServiceView

PAGE = "/x"
PATIENCE = 120.0
_LOAD = Path(__file__).parents[1] / "tests" / "load.py"
_PAUSE = 0.05
"""Seconds between two looks at an application."""


@dataclass(frozen=True, slots=True)
class Response:
    """status 0: none came, or not all of it (`trouble`). seconds: from the request to the first byte of the answer.

    wake: the header's milliseconds, 0 without.
    """

    status: int
    seconds: float
    wake: float = 0.0
    retry_after: str = ""
    trouble: str = ""


def request(name: str) -> Response:
    """One through the gateway, on a connection of its own."""
    connection, start = http.client.HTTPConnection("127.0.0.1", 80, timeout=PATIENCE), time.perf_counter()
    with contextlib.closing(connection):
        try:
            connection.request("GET", PAGE, headers={"Host": f"{name}.localhost"})
            answer = connection.getresponse()
            seconds = time.perf_counter() - start
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            return Response(0, time.perf_counter() - start, trouble=repr(error))
    return Response(answer.status, seconds, float(answer.headers["X-Twinhull-Wake"] or 0), answer.headers["Retry-After"] or "")


@dataclass
class Sleeper:
    """One application. curve: (seconds, wanted, ready) while `watched`."""

    daemon: Daemon
    folder: Path
    name: str
    runtime: str
    scale: str
    snapshot: bool = False
    curve: list[tuple[float, int, int]] = field(default_factory=list)

    def up(self) -> None:
        """Until it answers."""
        file = self.folder / f"{self.name}.yaml"
        snapshot = "snapshot: app" if self.snapshot else ""
        file.write_text(COMPOSE.format(name=self.name, runtime=self.runtime, scale=self.scale, snapshot=snapshot))
        self.daemon.run("up", "--wait", "-f", str(file))
        self._until(lambda: request(self.name).status == 200, "answers")

    def down(self) -> None:
        """Nothing is left of it."""
        self.daemon.run("down", "-v", "-p", self.name)

    def view(self) -> ServiceView:
        """The service."""
        with self.daemon.client() as client:
            return next(service for service in client.app(self.name).services if service.name == "web")

    def send_to_sleep(self) -> None:
        """By hand; returns when nothing is there any more, and what is to wait for it waits."""
        with self.daemon.client() as client:
            client.app_scale(self.name, {"web": 0})
        self.until_asleep()

    def until_asleep(self) -> None:
        """It has no instance."""
        self._until(lambda: not (view := self.view()).desired and not view.members, "asleep")
        if self.snapshot:
            self._until(self._is_parked, "parked")

    def _is_parked(self) -> bool:
        with self.daemon.client() as client:
            pool = client.info()["vm_parked"]
        return int(pool["waiting"]) >= 1 and int(pool["missing"]) == 0

    def keep(self) -> None:
        """A snapshot of the warmed instance."""
        with self.daemon.client() as client:
            client.snapshot_create(self.view().members[0].name)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """`curve` is written meanwhile."""
        self.curve.clear()
        over, begin = threading.Event(), time.monotonic()

        def look() -> None:
            while not over.is_set():
                view = self.view()
                self.curve.append((time.monotonic() - begin, view.desired, view.ready))
                over.wait(_PAUSE * 4)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def load(self, rate: float, seconds: float, samples: Path) -> dict[str, Any]:
        """tests/load.py's report; begin and duration of each answer are lines of `samples`."""
        argv = [sys.executable, str(_LOAD), "--host", f"{self.name}.localhost", "--path", PAGE, "--rate", str(rate)]
        done = subprocess.run([*argv, "--seconds", str(seconds), "--samples", str(samples)], capture_output=True, check=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def restart_daemon(self) -> None:
        """After `kill_daemon`."""
        self.daemon.run("daemon", "--detach")

    def kill_daemon(self) -> None:
        """SIGKILL."""
        os.kill(self.daemon.pid, signal.SIGKILL)

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} isn't {what} within {PATIENCE:g} s: {self.view()}")
            time.sleep(_PAUSE)


class DockerStart(Docker):
    """One container that was made before, with the same image and program: `docker start` to its first page."""

    name = "docker start"
    page = PAGE

    def prepare(self, port: int) -> None:
        """Make it; it doesn't run."""
        program = "mkdir -p /www; echo one > /www/x; exec httpd -f -p 8080 -h /www"
        image = "localhost/busybox:latest"
        argv = self._argv("create", "--name", f"b{port}", "-p", f"{port}:8080", image, "sh", "-c", program)
        subprocess.run(argv, check=True, capture_output=True)

    def begin(self, port: int) -> None:
        subprocess.run(self._argv("start", f"b{port}"), check=True, capture_output=True)

    def end(self, port: int) -> None:
        subprocess.run(self._argv("kill", f"b{port}"), check=True, capture_output=True)
        subprocess.run(self._argv("wait", f"b{port}"), check=True, capture_output=True)
