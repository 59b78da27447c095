"""Start latency: from the request to what a user waits for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from twinhull.compare.bench import SHELL
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.model import Metric
from twinhull.compare.subjects.base import MIB, NotMeasuredError, Wanted, first_page
from twinhull.compare.subjects.hull import Hull
from twinhull.spec.instance import Runtime

_SHELL_COMMAND = (SHELL, "-c", "echo twinhull")
_COLD_MEMORY = 97 * MIB
"""An odd size, so that no template of its shape is there; it grows by two MiB with each round."""


_PARKED_WITHIN = 10.0
"""Seconds in which a clone that was used is replaced."""


class Start(Measure):
    """Warm: the image has been used before, and a VM goes on from a template where one could be made."""

    name = "start"
    quick, full, guess = 6, 30, 2.5
    metrics = (
        Metric(
            "start.ready", "Start, warm: request → it runs", "s", "POST /v1/instances?start=true → its answer; peers: `run -d` → its exit"
        ),
        Metric("start.output", "Start, warm: request → first output", "s", f"API run → first byte of `{SHELL} -c 'echo twinhull'`"),
        Metric(
            "start.http",
            "Start, warm: request → first HTTP 200",
            "s",
            "POST /v1/instances?start=true (peers: `run -d`) → first 200, asked every 2 ms",
        ),
        Metric("start.cli", "Start by command line: spawn → exit", "s", f"spawn → exit of `run --rm IMAGE {SHELL} -c 'echo twinhull'`"),
    )

    def take(self, turn: Recorder) -> None:
        image = turn.bench.run.image
        with turn.attempt("start.ready"):
            _ready(turn, Wanted(image) if isinstance(turn.subject, Hull) else turn.bench.lasting())
        with turn.attempt("start.output"):
            _needs_shell(turn)
            seconds, code, _ = turn.subject.first_output(Wanted(image, _SHELL_COMMAND))
            if code:
                raise NotMeasuredError(f"{SHELL} ended with exit code {code}")
            turn.sample("start.output", seconds)
        with turn.attempt("start.http"):
            wanted, port, page = turn.bench.server()
            begin = time.perf_counter()
            with turn.subject.running(wanted) as place:
                turn.sample("start.http", first_page(place.address, port, page, begin), image=wanted.image)
        with turn.attempt("start.cli"):
            _needs_shell(turn)
            turn.sample("start.cli", turn.subject.command_line(Wanted(image, _SHELL_COMMAND)))


class Cold(Measure):
    """What a first start costs, and the ways around it: templates, parked clones, snapshots of the app."""

    name = "cold"
    quick, full, guess, warm_up, hulls_only = 1, 5, 6.0, False, True
    metrics = (
        Metric(
            "cold.boot", "Start, cold: nothing prepared for this size", "s", "API run → first byte; VM: a memory size without a template"
        ),
        Metric("cold.parked", "Start from a parked clone", "s", "POST /v1/instances?start=true → its answer"),
        Metric("cold.snapshot", "Start from a snapshot of the warm server", "s", "POST /v1/instances?start=true → first HTTP 200"),
    )

    def take(self, turn: Recorder) -> None:
        with turn.attempt("cold.boot"):
            memory = _COLD_MEMORY + (2 * turn.round + turn.bench.run.seed % 40 * 16) * MIB
            wanted = Wanted(turn.bench.run.tools, ("echo", "twinhull"), memory)
            turn.sample("cold.boot", turn.subject.first_output(wanted)[0], memory=memory)
        with turn.attempt("cold.parked"):
            turn.sample("cold.parked", _parked(turn))
        with turn.attempt("cold.snapshot"):
            turn.sample("cold.snapshot", _snapshot(turn))


def _parked(turn: Recorder) -> float:
    """Seconds of a start that the daemon's count says was one of a parked clone's."""
    if turn.subject.name != Runtime.VM:
        raise NotMeasuredError("only a VM can be parked")
    begin = time.monotonic()
    while not (before := _pool(turn)).get("waiting"):
        if not before or time.monotonic() - begin > _PARKED_WITHIN:
            raise NotMeasuredError("no parked clone waits: the daemon's configuration says how many may")
        time.sleep(0.2)
    with turn.subject.running(Wanted(turn.bench.run.image)) as place:
        if _pool(turn).get("claimed") == before.get("claimed"):
            raise NotMeasuredError("parked clones wait, but none was fit for this instance")
        return place.seconds


def _snapshot(turn: Recorder) -> float:
    """Seconds of a start that goes on from a server which has answered before."""
    if turn.subject.name != Runtime.VM:
        raise NotMeasuredError("only a VM's memory can be kept")
    server, port, page = turn.bench.server()
    wanted = replace(server, snapshot="app")
    with turn.subject.running(wanted) as place:
        first_page(place.address, port, page, time.perf_counter())
        kept = turn.bench.client.snapshot_create(place.ident)
    try:
        begin = time.perf_counter()
        with turn.subject.running(wanted) as place:
            return first_page(place.address, port, page, begin)
    finally:
        turn.bench.client.snapshot_remove(kept.key)


def _pool(turn: Recorder) -> Mapping[str, Any]:
    """What the daemon tells of parked clones."""
    found = turn.bench.client.info().get("vm_parked")
    return found if isinstance(found, Mapping) else {}


def _ready(turn: Recorder, wanted: Wanted) -> None:
    with turn.subject.running(wanted) as place:
        turn.sample("start.ready", place.seconds)


def _needs_shell(turn: Recorder) -> None:
    if not turn.bench.nature.shell:
        raise NotMeasuredError(f"the image has no {SHELL}")
