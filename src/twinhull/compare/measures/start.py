"""Start latency: from the request to what a user waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from twinhull.compare.bench import SHELL
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.measures.workload import wait_ready
from twinhull.compare.model import Metric
from twinhull.compare.subjects.base import MIB, NotMeasuredError, Wanted, first_page
from twinhull.compare.subjects.hull import Hull
from twinhull.compare.workload import Definition
from twinhull.engine.snapshots import SIGNAL_LABEL, WORD
from twinhull.spec.instance import InstanceSpec, Runtime

_SHELL_COMMAND = (SHELL, "-c", "echo twinhull")
_COLD_MEMORY = 97 * MIB
"""An odd size, so that no template of its shape is there; it grows by four MiB with each round."""
_ARMED = "/tmp/armed"
_WAITS = ("sh", "-c", f"trap 'echo twinhull; exit 0' USR1; touch {_ARMED}; sleep 60 & wait; exit 3")
"""Says nothing but on the signal that it gets when it went on from a snapshot; by itself it ends in a minute."""
_TRIES, _PARKED_WITHIN = 3, 6.0
"""Starts until a clone of that shape must have waited; and seconds in which one is made."""


class Start(Measure):
    """Warm, as in daily use: the image has been used before; a VM goes on from a parked clone if one waits, else from a template."""

    name = "start"
    quick, full, guess, long = 5, 30, 0.9, 0.9
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
            _ready(turn, turn.bench.own if isinstance(turn.subject, Hull) else turn.bench.lasting())
        with turn.attempt("start.output"):
            _needs_shell(turn)
            seconds, code, _ = turn.subject.first_output(Wanted(image, _SHELL_COMMAND))
            if code:
                raise NotMeasuredError(f"{SHELL} ended with exit code {code}")
            turn.sample("start.output", seconds)
        with turn.attempt("start.http"):
            seconds, image_served = _http(turn, 0)
            turn.sample("start.http", seconds, image=image_served)
        with turn.attempt("start.cli"):
            _needs_shell(turn)
            turn.sample("start.cli", turn.subject.command_line(Wanted(image, _SHELL_COMMAND)))


class Cold(Measure):
    """What a first start costs, and each of the ways around it alone: a template, a parked clone, a snapshot of the app."""

    name = "cold"
    quick, full, guess, long, warm_up, hulls_only = 1, 5, 7.6, 7.9, False, True
    metrics = (
        Metric(
            "cold.boot",
            "Start, cold: request → first output",
            "s",
            "API run of `echo` in the tools image → first byte; VM: a memory size without a template, so that a guest boots and is saved",
        ),
        Metric(
            "cold.http", "Start, cold: request → first HTTP 200", "s", "POST /v1/instances?start=true → first 200; VM: another such size"
        ),
        Metric(
            "cold.template",
            "Start from a template: request → first output",
            "s",
            "as cold.boot, once more in that size; the daemon's counts say that it was a template, and no parked clone",
        ),
        Metric("cold.template_http", "Start from a template: request → first HTTP 200", "s", "as cold.http, once more in that size"),
        Metric("cold.parked", "Start from a parked clone: request → it runs", "s", "POST /v1/instances?start=true → its answer"),
        Metric("cold.parked_output", "Start from a parked clone: request → first output", "s", "API run of `echo` → first byte"),
        Metric("cold.parked_http", "Start from a parked clone: request → first HTTP 200", "s", "POST /v1/instances?start=true → first 200"),
        Metric(
            "cold.snapshot_output",
            "Start from a snapshot of a waiting shell: first output",
            "s",
            "API run → first byte of what it says on the signal that it gets when it goes on (twinhull.snapshot.signal)",
        ),
        Metric(
            "cold.snapshot", "Start from a snapshot of the warm server: first HTTP 200", "s", "POST /v1/instances?start=true → first 200"
        ),
    )

    def take(self, turn: Recorder) -> None:
        memory = _COLD_MEMORY + (4 * turn.round + turn.bench.run.seed % 40 * 32) * MIB
        with turn.attempt("cold.boot"):
            turn.sample("cold.boot", _echo(turn, memory), memory=memory)
        with turn.attempt("cold.template"):
            turn.sample("cold.template", _from_template(turn, lambda: _echo(turn, memory)), memory=memory)
        other = memory + 2 * MIB
        with turn.attempt("cold.http"):
            turn.sample("cold.http", _http(turn, other)[0], memory=other)
        with turn.attempt("cold.template_http"):
            turn.sample("cold.template_http", _from_template(turn, lambda: _http(turn, other)[0]), memory=other)
        for metric, way in _PARKED.items():
            with turn.attempt(metric):
                turn.sample(metric, _parked(turn, way))
        with turn.attempt("cold.snapshot_output"):
            turn.sample("cold.snapshot_output", _snapshot_output(turn))
        with turn.attempt("cold.snapshot"):
            turn.sample("cold.snapshot", _snapshot(turn))


def _echo(turn: Recorder, memory: int) -> float:
    return turn.subject.first_output(Wanted(turn.bench.run.tools, ("echo", "twinhull"), memory))[0]


def _http(turn: Recorder, memory: int) -> tuple[float, str]:
    """Seconds to the first page of the server, and the image that served it. `memory` 0: the server's own size."""
    wanted, page = turn.bench.server()
    begin = time.perf_counter()
    with turn.subject.running(replace(wanted, memory=memory or wanted.memory)) as place:
        return first_page(place.address, page, begin), wanted.image


_PARKED: dict[str, Callable[[Recorder], float]] = {
    "cold.parked": lambda turn: _running(turn, Wanted(turn.bench.run.image)),
    "cold.parked_output": lambda turn: _echo(turn, 0),
    "cold.parked_http": lambda turn: _http(turn, 0)[0],
}


def _running(turn: Recorder, wanted: Wanted) -> float:
    with turn.subject.running(wanted) as place:
        return place.seconds


def _from_template(turn: Recorder, start: Callable[[], float]) -> float:
    """Seconds of a start that the daemon's counts say was one from a template."""
    if turn.subject.name != Runtime.VM:
        raise NotMeasuredError("a container has no boot that a template could save")
    before = _told(turn, "vm_templates").get("restored"), _told(turn, "vm_parked").get("claimed")
    seconds = start()
    restored, claimed = _told(turn, "vm_templates").get("restored"), _told(turn, "vm_parked").get("claimed")
    if claimed != before[1]:
        raise NotMeasuredError("a parked clone was taken instead")
    if restored == before[0]:
        raise NotMeasuredError("the daemon had no template for this size")
    return seconds


def _parked(turn: Recorder, start: Callable[[Recorder], float]) -> float:
    """Seconds of a start that the daemon's count says was one of a parked clone's; others show it what to park."""
    if turn.subject.name != Runtime.VM:
        raise NotMeasuredError("only a VM can be parked")
    for _ in range(_TRIES):
        before = _told(turn, "vm_parked")
        seconds = start(turn)
        after = _told(turn, "vm_parked")
        if after.get("claimed") != before.get("claimed"):
            return seconds
        if after.get("missed") == before.get("missed"):
            raise NotMeasuredError("the daemon parks no clones: its configuration says so")
        begin = time.monotonic()
        while _told(turn, "vm_parked").get("made") == before.get("made") and time.monotonic() - begin < _PARKED_WITHIN:
            time.sleep(0.2)
    raise NotMeasuredError("no parked clone was there in time")


def _snapshot_output(turn: Recorder) -> float:
    """Seconds from the request to the first byte that a workload, gone on from its snapshot, writes."""
    _needs_memory_kept(turn)
    tools = turn.bench.run.tools
    wanted = Wanted(tools, _WAITS, snapshot=WORD, base=InstanceSpec(tools, labels={SIGNAL_LABEL: "USR1"}))
    with turn.subject.running(wanted) as place:
        wait_ready(turn.subject, place, Definition(check=("test", "-e", _ARMED)))
        kept = turn.bench.client.snapshot_create(place.ident)
    try:
        seconds, code, _ = turn.subject.first_output(wanted)
    finally:
        turn.bench.client.snapshot_remove(kept.key)
    if code:
        raise NotMeasuredError("the daemon didn't go on from the snapshot, or gave no signal")
    return seconds


def _needs_memory_kept(turn: Recorder) -> None:
    if turn.subject.name != Runtime.VM:
        raise NotMeasuredError("only a VM's memory can be kept")


def _snapshot(turn: Recorder) -> float:
    """Seconds of a start that goes on from a server which has answered before."""
    _needs_memory_kept(turn)
    server, page = turn.bench.server()
    if server.base is not None:
        raise NotMeasuredError("a snapshot of a service would hold the running application's connections")
    wanted = replace(server, snapshot=WORD)
    with turn.subject.running(wanted) as place:
        first_page(place.address, page, time.perf_counter())
        kept = turn.bench.client.snapshot_create(place.ident)
    try:
        begin = time.perf_counter()
        with turn.subject.running(wanted) as place:
            return first_page(place.address, page, begin)
    finally:
        turn.bench.client.snapshot_remove(kept.key)


def _told(turn: Recorder, key: str) -> Mapping[str, Any]:
    """What the daemon tells of templates or parked clones."""
    found = turn.bench.client.info().get(key)
    return found if isinstance(found, Mapping) else {}


def _ready(turn: Recorder, wanted: Wanted) -> None:
    with turn.subject.running(wanted) as place:
        turn.sample("start.ready", place.seconds)


def _needs_shell(turn: Recorder) -> None:
    if not turn.bench.nature.shell:
        raise NotMeasuredError(f"the image has no {SHELL}")
