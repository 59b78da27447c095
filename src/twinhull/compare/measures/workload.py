"""The user's own application under its own load, as a workload file describes it."""

from __future__ import annotations

import time

from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.model import Better, Metric
from twinhull.compare.subjects.base import PATIENCE, NotMeasuredError, Place, Subject, Wanted, first_page
from twinhull.compare.workload import Definition
from twinhull.errors import TwinhullError

_NOTICED_WITHIN = 5.0
"""Seconds."""


class Workload(Measure):
    """Started anew for every turn: until it is ready, then the load from the driver, which tells one figure."""

    name = "workload"
    quick, full, guess = 6, 20, 5.0
    metrics = (
        Metric("workload.ready", "Your application: request → ready", "s", "POST /v1/instances?start=true → the ready check passes"),
        Metric("workload.load", "Your application: time for its load", "s", "the load command, from its start to its end"),
        Metric("workload.rate", "Your application: rate under its load", "1/s", "what the load command says", better=Better.HIGHER),
    )

    def take(self, turn: Recorder) -> None:
        given = Definition.parse(turn.bench.run.workload)
        with turn.attempt("workload.ready", "workload.load"):
            begin = time.perf_counter()
            wanted = Wanted(turn.bench.run.image, given.command or None, given.memory)
            with turn.subject.running(wanted) as place:
                turn.sample("workload.ready", _ready(turn.subject, place, given, begin))
                if given.load:
                    self._load(turn, place, given)

    def _load(self, turn: Recorder, place: Place, given: Definition) -> None:
        argv = tuple(word.replace("{address}", place.address) for word in given.load)
        begin = time.perf_counter()
        said = turn.bench.drive(*argv)
        turn.sample("workload.load", time.perf_counter() - begin)
        if given.rate:
            with turn.attempt("workload.rate"):
                turn.sample("workload.rate", given.value(said))


def _ready(subject: Subject, place: Place, given: Definition, begin: float) -> float:
    if given.http:
        return first_page(place.address, given.port, given.path, begin)
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
