"""Every kind of planned change under a steady load through the gateway, again and again, until enough requests were counted.

    .venv/bin/python -m bench.changes [--requests 100000] [--rate 500] [--runtime container]

Requests are due at a fixed rate, three of ten on new connections, without a retry (tests/load.py). The changes: configuration, scale up and
down, isolate to the other hull and back (with --isolate; both hulls must bear the rate), rollback, another application with a route of its
own (a reload of the gateway), kill -9 of the daemon. Prints how many requests failed, and the 99th percentile of the answers' times while
nothing changed and while something did. A daemon of its own, in a network namespace of its own. Exit code 1 if a request failed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.e2e.apps import App, load
from tests.harness import Daemon, new_home
from tests.images.base import archive

OTHER = {"container": "vm", "vm": "container"}
_QUIET = 5.0
"""Seconds without a change between two rounds, for comparison."""


def changes(app: App, other: App, *, isolate: bool) -> list[tuple[str, Callable[[], object]]]:
    """One round."""

    def neighbour() -> None:
        other.up()
        other.cli("down", "-v")

    def accident() -> None:
        app.daemon.kill()
        app.daemon.start()
        app.until_ready()

    moves: list[tuple[str, Callable[[], object]]] = [
        (f"isolate {runtime}", lambda runtime=runtime: app.cli("isolate", "web", runtime)) for runtime in (OTHER[app.runtime], app.runtime)
    ]
    return [
        ("configuration", lambda: app.up(TEXT="two" if app.env.get("TEXT") == "one" else "one")),
        ("scale up", lambda: app.cli("scale", "web=4")),
        ("scale down", lambda: app.cli("scale", "web=2")),
        *(moves if isolate else []),
        ("rollback", lambda: app.cli("rollback")),
        ("gateway reload", neighbour),
        ("kill -9 of the daemon", accident),
    ]


def percentile(values: Iterable[float]) -> float:
    """The 99th, in milliseconds."""
    found = sorted(values)
    return found[int(len(found) * 0.99)] * 1000 if found else 0.0


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--runtime", choices=sorted(OTHER), default="container")
    parser.add_argument("--isolate", action="store_true")
    options = parser.parse_args()
    daemon = Daemon(new_home())
    with tempfile.TemporaryDirectory(prefix="th-changes-") as folder:
        try:
            daemon.start()
            daemon.cli("image", "load", "-i", str(archive("busybox")))
            return _run(daemon, Path(folder), options)
        finally:
            daemon.close()


def _run(daemon: Daemon, folder: Path, options: argparse.Namespace) -> int:
    app = App(daemon, folder, runtime=options.runtime, env={"TEXT": "one"})
    other = App(daemon, folder, name="other")
    app.up()
    spans: list[tuple[str, float, float]] = []
    samples = folder / "samples"
    with load(app, options.rate, samples=samples) as counted:
        begin = time.monotonic()
        while (time.monotonic() - begin) * options.rate < options.requests:
            for name, change in changes(app, other, isolate=options.isolate):
                started = time.monotonic() - begin
                change()
                spans.append((name, started, time.monotonic() - begin))
                print(f"{spans[-1][2]:7.1f} s  {name}: {spans[-1][2] - started:.1f} s", file=sys.stderr, flush=True)
            time.sleep(_QUIET)
    app.cli("down", "-v")
    rows = [tuple(map(float, line.split())) for line in samples.read_text().splitlines()]
    busy = [took for at, took in rows if any(first <= at <= last for _, first, last in spans)]
    quiet = [took for at, took in rows if not any(first - 1 <= at <= last + 1 for _, first, last in spans)]
    print(f"{counted.report['requests']} requests, {counted.failed} failed, {len(spans)} changes {counted.report['failures'] or ''}")
    print(
        f"p99 {percentile(quiet):.1f} ms while nothing changed (n={len(quiet)}), {percentile(busy):.1f} ms during changes (n={len(busy)})"
    )
    if quiet and busy:
        print(f"medians {statistics.median(quiet) * 1000:.1f} and {statistics.median(busy) * 1000:.1f} ms")
    return 1 if counted.failed else 0


if __name__ == "__main__":
    sys.exit(main())
