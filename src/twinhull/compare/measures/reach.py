"""How much of the host's kernel a workload reaches, doing something harmless and trying everything (the Horizontal Attack Profile).

Functions are the published measure; distinct system calls on the host are what most kernels let one see. Neither stands alone: "fails to
capture the defense in depth" (Middleware'21).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from twinhull.compare import probes_archive
from twinhull.compare.bench import SETTLE
from twinhull.compare.measures import workload
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.subjects.base import PATIENCE, NotMeasuredError, Place, Wanted
from twinhull.compare.tracing import Tracing
from twinhull.errors import TwinhullError

CALLS, FUNCTIONS = "Host system calls made for it", "Host kernel functions reached"
_LOADS = {
    "benign": "ls -lR /etc >/dev/null; dd if=/dev/zero of=/var/tmp/f bs=64k count=16 conv=fsync; python3 -c 'print(1)'",
    "adversarial": f"python3 {probes_archive.PATH} syscalls",
}
_TITLES = {"own": "under its own load"}
_WAIT = "while [ ! -e /tmp/go ]; do sleep 0.1; done"
_HOW = {
    CALLS: "raw_syscalls:sys_enter of ftrace, for all its processes on the host and their children; void if events were lost",
    FUNCTIONS: "ftrace's function tracer, likewise, interrupts and the idle loop left out",
}


class Reach(Measure):
    """Each load in a fresh instance that waits until it is watched."""

    name = "reach"
    stage = 2
    quick, full, guess, long, warm_up = 1, 1, 1.5, 15.0, False

    def take(self, turn: Recorder) -> None:
        own = ("own",) if turn.bench.run.workload else ()
        loads = (*own, *_LOADS) if turn.full else own or ("benign",)
        for column in (CALLS, FUNCTIONS):
            if column == FUNCTIONS and (why := _no_functions()):
                turn.fact(column, f"can't be seen on this kernel, so there is no such figure: {why}", _HOW[column])
                continue
            told, data = [], {}
            for load in loads:
                try:
                    names, count = _own(turn, column) if load == "own" else _watched(turn, column, load)
                except (TwinhullError, OSError) as error:
                    told.append(f"{load}: not seen ({error})")
                    continue
                told.append(f"{_TITLES.get(load, load)}: {len(names)} different ones, {count:,} in all")
                data[load] = names
            turn.fact(column, "; ".join(told), _HOW[column], data)


def _no_functions() -> str:
    """Why the kernel's functions can't be traced; found before anything is started for it."""
    try:
        with Tracing() as tracing:
            tracing.need_functions()
    except (TwinhullError, OSError) as error:
        return str(error)
    return ""


def _own(turn: Recorder, column: str) -> tuple[list[int] | list[str], int]:
    """The user's application from when it is ready to the end of its load."""
    turn.bench.driver()
    with Tracing() as tracing, turn.subject.running(turn.bench.own) as place:
        workload.wait_ready(turn.subject, place, turn.bench.given)
        with (tracing.calls if column == CALLS else tracing.functions)(_threads(turn, place)):
            workload.apply(replace(turn, records=[]), place)
        return _seen(tracing, column)


def _watched(turn: Recorder, column: str, load: str) -> tuple[list[int] | list[str], int]:
    command = ("sh", "-c", f"{_WAIT}; ({_LOADS[load]}) >/dev/null 2>&1; touch /tmp/done; exec sleep 1000000")
    with Tracing() as tracing, turn.subject.running(Wanted(turn.bench.run.tools, command)) as place:
        turn.subject.exec(place, "sh", "-c", f"cat >{probes_archive.PATH}", stdin=probes_archive.archive())
        time.sleep(SETTLE)
        _during(turn, place, tracing.calls if column == CALLS else tracing.functions)
        return _seen(tracing, column)


def _seen(tracing: Tracing, column: str) -> tuple[list[int] | list[str], int]:
    if column == CALLS:
        numbers, count = tracing.seen_calls()
        return sorted(numbers), count
    names, count = tracing.seen_functions()
    return sorted(names), count


def _during(turn: Recorder, place: Place, record: Callable[[list[int]], AbstractContextManager[None]]) -> None:
    with record(_threads(turn, place)):
        turn.subject.exec(place, "touch", "/tmp/go")
        begin = time.monotonic()
        while not _done(turn, place):
            if time.monotonic() - begin > PATIENCE:
                raise NotMeasuredError(f"the load took more than {PATIENCE:g} s")
            time.sleep(SETTLE)


def _done(turn: Recorder, place: Place) -> bool:
    """A load that tries everything may end a session that only asks; whether the instance is still there decides."""
    try:
        return not turn.subject.exec(place, "test", "-e", "/tmp/done").code
    except TwinhullError:
        if why := turn.subject.ended(place):
            raise NotMeasuredError(f"the load ended its instance: {why}") from None
        return False


def _threads(turn: Recorder, place: Place) -> list[int]:
    """Of all that runs for it."""
    return [int(path.name) for pid in turn.subject.processes(place) for path in Path(f"/proc/{pid}/task").glob("*")]
