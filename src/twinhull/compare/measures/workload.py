"""The user's own application under its own load, as a workload file describes it."""

from __future__ import annotations

import time

from twinhull.compare.bench import TRIAL
from twinhull.compare.measures import network
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.model import Better, Bound, Metric
from twinhull.compare.subjects.base import PATIENCE, NotMeasuredError, Place, Subject, anonymous, first_page
from twinhull.compare.workload import Definition, Page
from twinhull.errors import TwinhullError

_NOTICED_WITHIN = 5.0
"""Seconds."""


class Workload(Measure):
    """Started anew for every turn: until it is ready, then the load from the driver, which tells one figure."""

    name = "workload"
    quick, full, guess, long = 6, 20, 3.0, 3.0
    metrics = (
        Metric("workload.ready", "Your application: request → ready", "s", "POST /v1/instances?start=true → the ready check passes"),
        Metric("workload.load", "Your application: time for its load", "s", "the load command, from its start to its end"),
        Metric("workload.rate", "Your application: rate under its load", "1/s", "what the load command says", better=Better.HIGHER),
        Metric("workload.latency", "Your application: request and response", "s", "wrk of the default load, 8 connections: median latency"),
        Metric(
            "workload.memory",
            "Your application: memory right after its load",
            "bytes",
            "Anonymous of smaps_rollup, over all processes on the host that run for it (workload, conmon, VMM)",
            bound=Bound.OTHER,
        ),
    )

    def take(self, turn: Recorder) -> None:
        with turn.attempt("workload.ready", "workload.rate"):
            begin = time.perf_counter()
            with turn.subject.running(turn.bench.own) as place:
                turn.sample("workload.ready", wait_ready(turn.subject, place, turn.bench.given, begin))
                self._loaded(turn, place)

    def _loaded(self, turn: Recorder, place: Place) -> None:
        if not turn.bench.given.load:
            for metric in ("workload.load", "workload.rate"):
                turn.missing(metric, "nothing is known to load it with: say it in a workload file (--workload)")
            return
        with turn.attempt("workload.load", "workload.rate"):
            apply(turn, place)
            with turn.attempt("workload.memory"):
                turn.sample("workload.memory", anonymous(turn.subject.processes(place)))


def apply(turn: Recorder, place: Place) -> None:
    """The load, and what is known from it."""
    given = turn.bench.given
    driver = turn.bench.driver()
    if given.target:
        _asked(turn, place, given.target)
    argv = tuple(word.replace("{address}", place.address).replace("{driver}", driver.address) for word in given.load)
    begin = time.perf_counter()
    said = turn.bench.drive(*argv)
    seconds = time.perf_counter() - begin
    if given.target:
        turn.sample("workload.rate", network.rate(said))
        turn.sample("workload.latency", network.half(said))
        return
    turn.sample("workload.load", seconds)
    if given.rate:
        with turn.attempt("workload.rate"):
            turn.sample("workload.rate", given.value(said))


def _asked(turn: Recorder, place: Place, page: Page) -> None:
    """See that there is a page to load; what isn't there once isn't waited for again. Raises NotMeasuredError."""
    known, name = turn.bench.no_page, turn.subject.name
    if name not in known:
        try:
            first_page(place.address, page, time.perf_counter(), TRIAL)
        except NotMeasuredError as error:
            known[name] = f"{error.message}: say with --workload how it is loaded"
    if known.get(name):
        raise NotMeasuredError(known[name])


def wait_ready(subject: Subject, place: Place, given: Definition, begin: float | None = None) -> float:
    """Seconds from `begin` (perf_counter; now, if it isn't given) to readiness. Raises NotMeasuredError."""
    begin = time.perf_counter() if begin is None else begin
    if given.page:
        return first_page(place.address, given.page, begin)
    while given.check and not _passes(subject, place, given):
        if time.perf_counter() - begin > PATIENCE:
            raise NotMeasuredError(f"the ready check still fails after {PATIENCE:g} s")
        time.sleep(0.01)
    return time.perf_counter() - begin


def _passes(subject: Subject, place: Place, given: Definition) -> bool:
    """Raises NotMeasuredError if the application has ended, which an exec can meet in many ways."""
    try:
        code = subject.exec(place, *given.check).code
    except TwinhullError as error:
        raise NotMeasuredError(f"the application doesn't run: {_end(subject, place) or error.message}") from error
    if code and (why := subject.ended(place)):
        raise NotMeasuredError(f"the application doesn't run: {why}")
    return not code


def _end(subject: Subject, place: Place) -> str:
    """Why it ended; its engine may learn it a moment after an exec did. "" if it runs on."""
    begin = time.monotonic()
    while not (why := subject.ended(place)) and time.monotonic() - begin < _NOTICED_WITHIN:
        time.sleep(0.1)
    return why
