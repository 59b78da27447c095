"""A small application for tests: its compose file, its daemon, and a load on its gateway that counts every failure."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness import CommandError, Daemon, new_home
from tests.images.base import archive

from twinhull.client import Client
from twinhull.engine.apps.base import AppView, MemberView

PATIENCE = 180.0
"""Seconds for what an application does by itself, emulated guests on a crowded machine included."""
SERVER = """\
#!/bin/sh
# answers CODE with TEXT on port 8080 after WARM_UP seconds, each time after doing FIRST; ends at once when asked to; USR1: eats all memory
mkdir -p /www/cgi-bin
printf '#!/bin/sh\\n%s\\nprintf "Status: %s\\\\r\\\\n\\\\r\\\\n%s"\\n' "$FIRST" "$CODE" "$TEXT" > /www/cgi-bin/x
chmod 755 /www/cgi-bin/x
echo "serving $TEXT"
[ -z "$CRASH" ] || { echo "cannot go on: $CRASH" >&2; exit 3; }
sleep "${WARM_UP:-0}"
trap 'exit 0' TERM
eat() { x=0123456789; while :; do x=$x$x; done; }
trap eat USR1
[ -z "$EAT" ] || eat
httpd -f -p 8080 -h /www &
wait $!
"""
COMPOSE = """\
name: {name}
services:
  web:
    image: busybox
    runtime: {runtime}
    command: [sh, -c, "{command}"]
    environment:
      {{CODE: "${{CODE:-200}}", TEXT: "${{TEXT:-one}}", WARM_UP: "${{WARM_UP:-0}}",
        FIRST: "${{FIRST:-}}", CRASH: "${{CRASH:-}}", EAT: "${{EAT:-}}"}}
    stop_grace_period: 20s
    deploy: {{replicas: 2, resources: {{limits: {{memory: 96M}}}}, update_config: {{monitor: 2s}}}}
    x-twinhull: {{route: {{host: {name}.localhost, port: 8080}}{rollout}}}
{more}
"""


@contextlib.contextmanager
def prepared(configuration: str = "") -> Iterator[Daemon]:
    """A daemon that runs, with busybox. configuration: its config.toml, "" for the harness' own."""
    daemon = Daemon(new_home())
    if configuration:
        daemon.home.config.mkdir(parents=True)
        (daemon.home.config / "config.toml").write_text(configuration)
    try:
        daemon.start()
        daemon.cli("image", "load", "-i", str(archive("busybox")))
        yield daemon
    finally:
        daemon.close()


@dataclass
class App:
    """One application of one daemon."""

    daemon: Daemon
    folder: Path
    name: str = "demo"
    runtime: str = "container"
    more: str = ""
    rollout: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file = self.folder / f"{self.name}.yaml"
        self.write()

    def write(self) -> None:
        """Its compose file, as the fields say now."""
        (self.folder / "server.sh").write_text(SERVER)
        text = json.dumps(SERVER.replace("$", "$$"))[1:-1]
        rollout = f", rollout: {self.rollout}" if self.rollout else ""
        self.file.write_text(COMPOSE.format(name=self.name, runtime=self.runtime, command=text, more=self.more, rollout=rollout))

    def cli(self, verb: str, *words: str, check: bool = True, timeout: float = PATIENCE, **env: str) -> Any:
        """A command on it."""
        return self.daemon.cli(*verb.split(), "-f", str(self.file), *words, env=self.env | env, check=check, timeout=timeout)

    def up(self, **env: str) -> None:
        """Until all is ready."""
        self.env |= env
        self.cli("up", "--wait")

    def view(self) -> AppView:
        """As the daemon has it."""
        with Client(str(self.daemon.home.socket)) as client:
            return client.app(self.name)

    def until(self, what: str, condition: Callable[[AppView], bool], patience: float = PATIENCE) -> AppView:
        """Wait for it to become so."""
        deadline = time.monotonic() + patience
        while not condition(view := self.view()):
            if time.monotonic() > deadline:
                raise CommandError(f"{self.name} isn't {what} after {patience:g} s: {view}")
            time.sleep(0.1)
        return view

    def until_ready(self) -> AppView:
        """All services up, nothing left to do."""
        return self.until("ready", lambda view: view.settled and view.state == "up")

    def get(self, path: str = "/cgi-bin/x") -> str:
        """One answer through the gateway."""
        host = f"Host: {self.name}.localhost"
        return str(self.daemon.net.run("curl", "-sS", "-m", "30", "-H", host, f"http://127.0.0.1{path}").text)


@dataclass
class Counted:
    """What a load came to."""

    report: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return int(self.report["failed"])

    def __str__(self) -> str:
        told = {key: self.report[key] for key in ("requests", "answers", "failed", "failures", "bodies")}
        return f"{told} p50 {self.report['p50'] * 1000:.1f} ms p99 {self.report['p99'] * 1000:.1f} ms"


@contextlib.contextmanager
def load(
    app: App, rate: float, *, new: float = 0.3, samples: Path | None = None, path: str = "/cgi-bin/x", post: float = 0.0
) -> Iterator[Counted]:
    """Requests at a steady rate as long as the block takes; then the counts are there.

    samples: a file for every answer's time. post: the share of requests that nobody may repeat.
    """
    stop, counted = app.folder / "stop", Counted()
    stop.unlink(missing_ok=True)
    argv = [sys.executable, str(Path(__file__).parents[1] / "load.py"), "--port", "80", "--host", f"{app.name}.localhost"]
    argv += ["--post", str(post), "--post-path", path]
    argv += ["--path", path, "--rate", str(rate), "--new", str(new), "--bodies", "--until", str(stop)]
    argv += ["--samples", str(samples)] if samples else []
    process = app.daemon.net.popen(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield counted
        stop.touch()
        out, _ = process.communicate(timeout=PATIENCE)
        counted.report = json.loads(out)
        print(counted)
    finally:
        process.kill()
        process.wait()


def workload(app: App, member: MemberView) -> int:
    """The pid, outside, of an instance's hull or program."""
    folder = str(app.daemon.home.instance_run(member.id))
    for entry in sorted(Path("/proc").iterdir()):
        if entry.name.isdigit():
            words = command_line(entry) or [""]
            if member.runtime == "vm" and any(f"guest={folder}" in word for word in words):
                return int(entry.name)
            if member.runtime == "container" and words[0].rpartition("/")[2] == "conmon" and member.id in " ".join(words):
                return int((entry / "task" / entry.name / "children").read_text().split()[0])
    raise AssertionError(f"no process of {member.name}")


def command_line(process: Path) -> list[str]:
    """A process' words, none when it has gone."""
    try:
        return (process / "cmdline").read_text().split("\0")
    except OSError:
        return []
