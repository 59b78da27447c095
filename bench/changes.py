"""Every kind of change under a steady load through the gateway, again and again, until enough requests were counted.

    .venv/bin/python -m bench.changes [--runtime container|vm|mixed] [--requests 100000] [--rate 400] [--slow-rate 20] [--out build/bench]

An application of two services, `web` and `api`: of one hull, or (mixed) web a container and api a VM. Requests are due at a fixed
rate (api: the slow rate), three of ten on new connections, one of twenty a POST, without a retry (tests/load.py); a third stream asks
web over TLS. Rollouts: another image, another configuration, `isolate` of api to the other hull and back, `rollback`. Other planned
changes: scale up and down, another application with a route of its own (the gateway reloads), renewal of the certificate (by ACME, from
Pebble). Accidents: kill -9 of an instance of each service, of the daemon. Prints how many requests failed, apart for planned changes (the
daemon's death is counted there) and for those that were under way on a killed instance, and the 99th percentile of the answers' times by
what went on. Writes the raw samples as JSON lines.

A daemon of its own, in a network namespace of its own. Exit code 1 if a request failed that wasn't under way on a killed instance.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests import pebble
from tests.e2e.apps import App, workload
from tests.harness import Daemon, new_home
from tests.images.base import archive

from bench import traffic
from bench.traffic import KILL_DAEMON, KILL_INSTANCE, KINDS, PLANNED, ROLLOUT, STEADY, Change, Stream, Tally, percentile
from twinhull.compare import tools
from twinhull.engine.apps.base import AppView

HULLS = {"container": ("container", "container"), "vm": ("vm", "vm"), "mixed": ("container", "vm")}
"""Of web and of api."""
OTHER = {"container": "vm", "vm": "container"}
RATES = {"container": (400.0, 20.0), "vm": (150.0, 15.0), "mixed": (400.0, 20.0)}
"""Requests a second, of web and of the others, that two instances bear also where VMs are emulated and a third is being made."""
IMAGE = tools.IMAGE
NEXT = "localhost/changes:next"
_QUIET = 4.0
"""Seconds without a change between two rounds, for comparison."""
_VALIDITY = 12
"""Seconds that a certificate is good for: from eight on it is due."""
_PATIENCE = 60.0
_AT_ONCE = 8
"""Requests that an instance gets at once, others wait in the gateway."""
SERVER = """\
page="$TEXT $(cat /version 2>/dev/null || echo first) $(uname -r)"
cat >/tmp/nginx.conf <<END
events {}
http {
    access_log off;
    keepalive_requests 1000000000;
    server { listen 8080; location / { return 200 '$page'; } }
}
END
exec nginx -c /tmp/nginx.conf -g "daemon off;"
"""


def compose(hulls: tuple[str, str]) -> str:
    """The application's file; JSON is YAML."""

    def service(runtime: str, *routes: Mapping[str, object]) -> dict[str, object]:
        return {
            "image": f"${{IMAGE:-{IMAGE}}}",
            "runtime": runtime,
            "command": ["sh", "-c", SERVER.replace("$", "$$")],
            "environment": {"TEXT": "${TEXT:-zero}"},
            "stop_signal": "SIGQUIT",
            "stop_grace_period": "20s",
            "deploy": {"replicas": 2, "resources": {"limits": {"memory": "96M"}}, "update_config": {"monitor": "2s"}},
            "x-twinhull": {"route": [{"port": 8080, "max_concurrency": _AT_ONCE, **route} for route in routes]},
        }

    web, api = hulls
    services = {
        "web": service(web, {"host": "web.test"}, {"host": "secure.test", "tls": "acme"}),
        "api": service(api, {"host": "api.test"}),
    }
    return json.dumps({"name": "changes", "services": services})


@dataclass
class Scenario:
    """The changes, and when each was made."""

    app: App
    other: App
    hulls: tuple[str, str]
    made: list[Change] = field(default_factory=list)
    rounds: int = 0

    def round(self) -> None:
        """Every change once."""
        self.rounds += 1
        before = str(json.loads(self.app.cli("revisions", "--json").text)[0]["number"])
        home = self.hulls[1]
        self._do(ROLLOUT, "image", lambda: self.app.up(IMAGE=NEXT))
        self._do(ROLLOUT, "configuration", lambda: self.app.up(TEXT=f"round-{self.rounds}"))
        self._do(PLANNED, "scale up", lambda: self.app.cli("scale", "web=4", "api=3"))
        self._do(PLANNED, "scale down", lambda: self.app.cli("scale", "web=2", "api=2"))
        for runtime in (OTHER[home], home):
            self._do(ROLLOUT, f"isolate api {runtime}", lambda runtime=runtime: self.app.cli("isolate", "api", runtime))
        self._do(ROLLOUT, "rollback", lambda: self.app.cli("rollback", before))
        self._do(PLANNED, "gateway reload", self._neighbour)
        self._do(PLANNED, "certificate renewal", self._renewal)
        for service in ("web", "api"):
            self._kill(service)
        self._do(KILL_DAEMON, KILL_DAEMON, self._daemon)

    def _do(self, kind: str, name: str, change: Callable[[], object]) -> None:
        begin = time.monotonic()
        change()
        self._note(Change(kind, name, begin, time.monotonic()))

    def _note(self, change: Change) -> None:
        self.made.append(change)
        print(f"  {change.name}: {change.end - change.begin:.1f} s", file=sys.stderr, flush=True)

    def _neighbour(self) -> None:
        self.other.up()
        self.other.cli("down", "-v")

    def _renewal(self) -> None:
        """Whatever changes in the gateway makes it look for certificates that are due."""
        pem = self.app.daemon.home.state / "gateway/acme/secure.test.pem"
        before = pem.stat().st_mtime_ns
        deadline = time.monotonic() + _PATIENCE
        while pem.stat().st_mtime_ns == before:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the certificate isn't renewed:\n{self.app.daemon.log_tail()}")
            for count in (3, 2):
                self.app.cli("scale", f"web={count}")

    def _kill(self, service: str) -> None:
        found = next(each for each in self.app.view().services if each.name == service)
        victim = next(member for member in found.members if member.serving)
        pid = workload(self.app, victim)
        begin = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        killed = (begin, time.monotonic())
        self.app.until("without it", lambda view: (victim.id, victim.started_at) not in _starts(view))
        self.app.until_ready()
        self._note(Change(KILL_INSTANCE, f"kill -9 of {service}", begin, time.monotonic(), killed))

    def _daemon(self) -> None:
        self.app.daemon.kill()
        self.app.daemon.start()
        self.app.until_ready()


def _starts(view: AppView) -> set[tuple[str, float]]:
    return {(member.id, member.started_at) for service in view.services for member in service.members}


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=0.0, help="of web; the defaults depend on the hull")
    parser.add_argument("--slow-rate", type=float, default=0.0, help="of api, and of web over TLS")
    parser.add_argument("--runtime", choices=sorted(HULLS), default="container")
    parser.add_argument("--out", default="build/bench", help="folder of the raw samples")
    options = parser.parse_args()
    fast, slow = RATES[options.runtime]
    options.rate, options.slow_rate = options.rate or fast, options.slow_rate or slow
    daemon = Daemon(new_home())
    with tempfile.TemporaryDirectory(prefix="th-changes-") as folder, contextlib.ExitStack() as last:
        last.callback(daemon.close)
        last.enter_context(_authority(daemon, Path(folder)))
        daemon.start()
        for name in ("busybox", "compare-tools"):
            daemon.cli("image", "load", "-i", str(archive(name)))
        daemon.cli("run", "--name", "maker", IMAGE, "sh", "-c", "echo next > /version")
        daemon.cli("commit", "maker", NEXT)
        daemon.cli("rm", "maker")
        return _run(daemon, Path(folder), options)


@contextlib.contextmanager
def _authority(daemon: Daemon, folder: Path) -> Iterator[None]:
    """Pebble beside the gateway, which the daemon is told of."""
    commands, directory, root = pebble.commands(folder, _VALIDITY)
    daemon.home.config.mkdir(parents=True, exist_ok=True)
    lines = ["[vm]", "parked = 0", "[gateway]", f'acme_directory = "{directory}"', f'acme_ca = "{root}"', ""]
    (daemon.home.config / "config.toml").write_text("\n".join(lines))
    with (folder / "pebble.log").open("wb") as log:
        running = [daemon.net.popen(*argv, env=pebble.ENVIRONMENT, stdout=log, stderr=log) for argv in commands]
        try:
            yield
        finally:
            for one in running:
                one.kill()
                one.wait()


def _run(daemon: Daemon, folder: Path, options: argparse.Namespace) -> int:
    app = App(daemon, folder, name="changes")
    app.file.write_text(compose(HULLS[options.runtime]))
    other = App(daemon, folder, name="other")
    app.up()
    _until_served(daemon)
    scenario = Scenario(app, other, HULLS[options.runtime])
    hosts = [("web.test", options.rate, False), ("api.test", options.slow_rate, False), ("secure.test", options.slow_rate, True)]
    streams = [Stream(daemon, folder, host, rate, tls=tls) for host, rate, tls in hosts]
    try:
        goal = time.monotonic() + options.requests / sum(stream.rate for stream in streams)
        while not scenario.rounds or time.monotonic() < goal:
            time.sleep(_QUIET)
            scenario.round()
        time.sleep(_QUIET)
        ended = {stream.host: stream.end() for stream in streams}
    finally:
        for stream in streams:
            stream.close()
    app.cli("down", "-v")
    _write(Path(options.out) / f"changes_{options.runtime}.jsonl", ended, scenario.made)
    _errors(daemon.home.state / "gateway/access.log")
    return _report({host: traffic.count(requests, scenario.made) for host, (requests, _) in ended.items()}, scenario, _hulls(ended))


def _write(path: Path, ended: Mapping[str, tuple[Sequence[traffic.Request], object]], made: Sequence[Change]) -> None:
    """The raw samples: every change, then every request with its host."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, object]] = [{"change": asdict(change)} for change in made]
    lines += [{"host": host, **asdict(request)} for host, (requests, _) in ended.items() for request in requests]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _until_served(daemon: Daemon) -> None:
    """Until the first certificate is there."""
    deadline = time.monotonic() + _PATIENCE
    ask = ("curl", "-sSk", "-m", "5", "--resolve", "secure.test:443:127.0.0.1", "https://secure.test/x")
    while daemon.net.run(*ask, check=False).code:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no certificate for secure.test:\n{daemon.log_tail()}")
        time.sleep(0.2)


def _errors(log: Path) -> None:
    """What the gateway says of answers that were its own or an instance's errors."""
    found = [line for line in log.read_text().splitlines() if line.startswith("{") and json.loads(line).get("status", 0) >= 500]
    for line in found[:10]:
        print(f"  gateway: {line}", file=sys.stderr)


def _hulls(ended: Mapping[str, tuple[object, Mapping[str, int]]]) -> dict[str, Counter[str]]:
    """Good answers by hull: a page tells the kernel that made it, as its last word."""
    found = {}
    for host, (_, bodies) in ended.items():
        found[host] = Counter[str]()
        for body, number in bodies.items():
            found[host]["container" if body.split()[-1:] == [os.uname().release] else "vm"] += number
    return found


def _report(tallies: Mapping[str, Tally], scenario: Scenario, hulls: Mapping[str, Counter[str]]) -> int:
    kinds = Counter(change.kind for change in scenario.made)
    print(f"{scenario.rounds} rounds: " + ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS))
    for host, tally in tallies.items():
        kept, new = tally.connections["kept"], tally.connections["new"]
        print(f"{host}: {tally.requests} requests ({kept} on kept connections, {new} on new ones), answered by {dict(hulls[host])}")
        _latencies(tally)
    planned = [(host, *each) for host, tally in tallies.items() for each in tally.planned_failed]
    flight = [each for tally in tallies.values() for each in tally.in_flight]
    idempotent = sum(each.method != "POST" for each in flight)
    total = sum(tally.requests for tally in tallies.values())
    print(f"{total} requests: planned failed {len(planned)}, in-flight failed {len(flight)} ({idempotent} of them idempotent)")
    _failures(planned)
    return 1 if planned else 0


def _latencies(tally: Tally) -> None:
    steady = percentile(tally.times.get(STEADY, ()))
    for name in (STEADY, *KINDS):
        if values := tally.times.get(name):
            ratio = f" = {percentile(values) / steady:.2f} x steady" if steady and name != STEADY else ""
            print(f"  {name}: p50 {percentile(values, 0.5):.1f} ms, p99 {percentile(values):.1f} ms{ratio} (n={len(values)})")


def _failures(planned: Sequence[tuple[str, str, traffic.Request]]) -> None:
    alike = Counter((r.outcome, r.connection, r.method, host, name) for host, name, r in planned)
    for (outcome, connection, method, host, name), number in alike.most_common(20):
        print(f"  failed: {number} x {outcome} for {method} on a {connection} connection at {host} during {name}")


if __name__ == "__main__":
    sys.exit(main())
