"""How much of the host's kernel a workload reaches, doing something harmless and trying everything (the Horizontal Attack Profile).

Functions are the published measure; distinct system calls on the host are what most kernels let one see. Neither stands alone: "fails to
capture the defense in depth" (Middleware'21).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from twinhull.compare import probes_archive
from twinhull.compare.bench import SETTLE
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.subjects.base import PATIENCE, NotMeasuredError, Place, Wanted
from twinhull.compare.tracing import Tracing
from twinhull.errors import TwinhullError

CALLS, FUNCTIONS = "Host system calls made for it", "Host kernel functions reached"
_LOADS = {
    "benign": "ls -lR /etc >/dev/null; dd if=/dev/zero of=/var/tmp/f bs=64k count=16 conv=fsync; python3 -c 'print(1)'",
    "adversarial": f"python3 {probes_archive.PATH} syscalls",
}
_WAIT = "while [ ! -e /tmp/go ]; do sleep 0.1; done"
_HOW = {
    CALLS: "raw_syscalls:sys_enter of ftrace, for all its processes on the host and their children; void if events were lost",
    FUNCTIONS: "ftrace's function tracer, likewise, interrupts and the idle loop left out",
}


class Reach(Measure):
    """Each load in a fresh instance that waits until it is watched."""

    name = "reach"
    stage = 2
    quick, full, guess, warm_up = 1, 1, 15.0, False

    def take(self, turn: Recorder) -> None:
        for column in (CALLS, FUNCTIONS):
            told, data = [], {}
            for load in _LOADS if turn.full else ("benign",):
                try:
                    names, count = _watched(turn, column, load)
                except (TwinhullError, OSError) as error:
                    told.append(f"{load}: not seen ({error})")
                    if "refuses" in str(error):
                        break
                    continue
                told.append(f"{load}: {len(names)} different ones, {count:,} in all")
                data[load] = names
            turn.fact(column, "; ".join(told), _HOW[column], data)


def _watched(turn: Recorder, column: str, load: str) -> tuple[list[int] | list[str], int]:
    command = ("sh", "-c", f"{_WAIT}; ({_LOADS[load]}) >/dev/null 2>&1; touch /tmp/done; exec sleep 1000000")
    with Tracing() as tracing, turn.subject.running(Wanted(turn.bench.run.tools, command)) as place:
        turn.subject.exec(place, "sh", "-c", f"cat >{probes_archive.PATH}", stdin=probes_archive.archive())
        time.sleep(SETTLE)
        _during(turn, place, tracing.calls if column == CALLS else tracing.functions)
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
