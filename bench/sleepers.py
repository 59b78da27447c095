"""Applications whose services scale by themselves, for bench/waking.py: put to sleep, woken, loaded, and watched."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.peers import Docker
from bench.world import Daemon
from twinhull.compare import tools
from twinhull.engine.apps.base import ServiceView

PAGE = "/x"
PATIENCE = 120.0
HULLS: dict[str, Mapping[str, str]] = {"container": {"web": "container"}, "vm": {"web": "vm"}, "mixed": {"web": "container", "api": "vm"}}
"""Services and their runtimes."""
LIGHT, NGINX = "busybox", "nginx"
"""Web servers: one starts soonest, but forks for each connection; with the other an emulated guest bears hundreds of requests a second."""
SLOW = 1.0
"""Seconds until a server that is to be caught while it starts listens."""
_CONFIG = "events {} http { access_log off; keepalive_requests 1000000000; server { listen 8080; location / { return 200 one; } } }"
_SERVERS = {
    LIGHT: ("busybox", "mkdir /www; echo one > /www/x; exec httpd -f -p 8080 -h /www"),
    NGINX: (tools.IMAGE, f"echo '{_CONFIG}' > /tmp/nginx.conf; exec nginx -c /tmp/nginx.conf -g 'daemon off;'"),
}
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


def request(host: str) -> Response:
    """One through the gateway, on a connection of its own."""
    connection, start = http.client.HTTPConnection("127.0.0.1", 80, timeout=PATIENCE), time.perf_counter()
    with contextlib.closing(connection):
        try:
            connection.request("GET", PAGE, headers={"Host": host})
            answer = connection.getresponse()
            seconds = time.perf_counter() - start
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            return Response(0, time.perf_counter() - start, trouble=repr(error))
    return Response(answer.status, seconds, float(answer.headers["X-Twinhull-Wake"] or 0), answer.headers["Retry-After"] or "")


@dataclass
class Sleeper:
    """One application of one service, or of two that are asked in turns.

    scale: what stands in x-twinhull.scale of each. server: a key of _SERVERS. slow: whether servers listen `SLOW` seconds late.
    curve: (seconds, instances wanted by service) while `watched`.
    """

    daemon: Daemon
    folder: Path
    name: str
    hull: str
    scale: str
    snapshot: bool = False
    server: str = LIGHT
    slow: bool = False
    curve: list[tuple[float, dict[str, int]]] = field(default_factory=list)

    @property
    def hosts(self) -> list[str]:
        """Of its services."""
        return [self._host(service) for service in HULLS[self.hull]]

    def _host(self, service: str) -> str:
        return f"{service}.{self.name}.localhost"

    def up(self) -> None:
        """Until it answers."""
        file = self.folder / f"{self.name}.yaml"
        services = {service: self._described(service, runtime) for service, runtime in HULLS[self.hull].items()}
        file.write_text(json.dumps({"name": self.name, "services": services}))
        self.daemon.run("up", "--wait", "-f", str(file))
        for host in self.hosts:
            self._until(lambda host=host: request(host).status == 200, "answers")  # type: ignore[misc]

    def _described(self, service: str, runtime: str) -> dict[str, Any]:
        image, program = _SERVERS[self.server]
        extension = {"route": {"host": self._host(service), "port": 8080}, "scale": yaml.safe_load(f"{{{self.scale}}}")}
        return {
            "image": image,
            "runtime": runtime,
            "command": ["sh", "-c", f"sleep {SLOW:g}; {program}" if self.slow else program],
            "stop_signal": "KILL",
            "deploy": {"resources": {"limits": {"memory": "96M"}}},
            "x-twinhull": {**extension, **({"snapshot": "app"} if self.snapshot else {})},
        }

    def down(self) -> None:
        """Nothing is left of it."""
        self.daemon.run("down", "-v", "-p", self.name)

    def request(self) -> Response:
        """One to each of its services at once; the last answer, or the first that isn't good."""
        with concurrent.futures.ThreadPoolExecutor(len(self.hosts)) as pool:
            return worst(list(pool.map(request, self.hosts)))

    def crowd(self, count: int) -> list[concurrent.futures.Future[Response]]:
        """So many at once, in turns to its services."""
        pool = concurrent.futures.ThreadPoolExecutor(count)
        found = [pool.submit(request, host) for host in itertools.islice(itertools.cycle(self.hosts), count)]
        pool.shutdown(wait=False)
        return found

    def views(self) -> tuple[ServiceView, ...]:
        """Its services."""
        with self.daemon.client() as client:
            return client.app(self.name).services

    def instances(self) -> set[str]:
        """Ids of all that the daemon has of it, known to a service or not."""
        with self.daemon.client() as client:
            return {each.id for each in client.list(all=True) if each.name.startswith(f"{self.name}-")}

    def send_to_sleep(self) -> None:
        """By hand; returns when nothing is there any more, and what is to wait for it waits."""
        with self.daemon.client() as client:
            client.app_scale(self.name, dict.fromkeys(HULLS[self.hull], 0))
        self.until_asleep()

    def until_asleep(self) -> None:
        """It has no instance."""
        self._until(lambda: not any(view.desired or view.members for view in self.views()), "asleep")
        if self.snapshot:
            self._until(self._is_parked, "parked")

    def until_ready(self, count: int) -> None:
        """Each service has so many, and no other."""
        self._until(lambda: all(view.ready == view.desired == len(view.members) == count for view in self.views()), f"{count} ready")

    def until_led_to(self) -> None:
        """Each service has somebody, and nobody is held any more."""
        for host in self.hosts:
            self._until(lambda host=host: (answer := request(host)).status == 200 and not answer.wake, "awake")  # type: ignore[misc]

    def until_half_grown(self) -> list[str]:
        """A service has some, and others that were begun and aren't ready: the states of these."""
        found: list[str] = []

        def half() -> bool:
            views = [view for view in self.views() if 0 < view.ready < view.desired]
            found[:] = [member.state for view in views for member in view.members if not member.serving]
            return bool(found)

        self._until(half, "half grown", 0.005)
        return found

    def _is_parked(self) -> bool:
        with self.daemon.client() as client:
            pool = client.info()["vm_parked"]
        return int(pool["waiting"]) >= 1 and int(pool["missing"]) == 0

    def keep(self) -> None:
        """A snapshot of the warmed instance."""
        with self.daemon.client() as client:
            client.snapshot_create(self.views()[0].members[0].name)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """`curve` is written meanwhile."""
        self.curve.clear()
        over, begin = threading.Event(), time.monotonic()

        def look() -> None:
            while not over.is_set():
                self.curve.append((time.monotonic() - begin, {view.name: view.desired for view in self.views()}))
                over.wait(_PAUSE * 4)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def most(self) -> int:
        """Instances of its largest service that were wanted while `watched`."""
        return max(count for _, wanted in self.curve for count in wanted.values())

    def load(self, rate: float, seconds: float) -> tuple[int, list[tuple[float, float]]]:
        """tests/load.py, in equal parts to its services: requests that failed; begin and duration of each answer."""
        return self.finish(self.begin_load(rate, seconds=seconds))

    def begin_load(self, rate: float, *, seconds: float = 0.0, until: Path | None = None) -> list[Loading]:
        """As long, or until the file is there."""
        end = ["--until", str(until)] if until else ["--seconds", str(seconds)]
        found = []
        for host in self.hosts:
            samples = self.folder / f"{host}.samples"
            argv = [sys.executable, str(_LOAD), "--host", host, "--path", PAGE, "--rate", str(rate / len(self.hosts)), *end]
            process = subprocess.Popen([*argv, "--samples", str(samples)], stdout=subprocess.PIPE, text=True)
            found.append(Loading(process, samples))
        return found

    @staticmethod
    def finish(loads: list[Loading]) -> tuple[int, list[tuple[float, float]]]:
        """Wait for their ends; what failed is told."""
        failed, rows = 0, list[tuple[float, float]]()
        for load in loads:
            out, _ = load.process.communicate(timeout=PATIENCE * 2)
            found = json.loads(out)
            failed += int(found["failed"])
            if found["failed"]:
                print(found["failures"], file=sys.stderr)
            rows += [(float(at), float(took)) for at, took in (line.split() for line in load.samples.read_text().splitlines())]
        return failed, rows

    def restart_daemon(self) -> None:
        """After `kill_daemon`."""
        self.daemon.run("daemon", "--detach")

    def kill_daemon(self) -> None:
        """SIGKILL."""
        os.kill(self.daemon.pid, signal.SIGKILL)

    def _until(self, holds: Callable[[], bool], what: str, pause: float = _PAUSE) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} isn't {what} within {PATIENCE:g} s: {self.views()}")
            time.sleep(pause)


@dataclass(frozen=True, slots=True)
class Loading:
    """One that goes on."""

    process: subprocess.Popen[str]
    samples: Path


def worst(answers: list[Response]) -> Response:
    """The first that isn't good, else the last to come."""
    bad = [answer for answer in answers if answer.status != 200]
    return bad[0] if bad else max(answers, key=lambda answer: answer.seconds)


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
