"""The kernel's services: system calls, context switches, processes, page faults."""

from __future__ import annotations

from twinhull.compare.measures.base import Measure, Recorder, number_after
from twinhull.compare.model import Metric
from twinhull.compare.subjects.base import NotMeasuredError

_STRESS = "exec stress-ng --temp-path /tmp --metrics-brief --timeout 60"


class System(Measure):
    """A fixed number of operations; the sample is seconds for one."""

    name = "system"
    quick, full, guess, long = 5, 20, 1.0, 4.0
    metrics = (
        Metric("system.call", "System call", "s", "dd bs=1 from /dev/zero to /dev/null: time ÷ (2 × bytes)"),
        Metric("system.switch", "Context switch", "s", "stress-ng --switch 1 (pipe): real time ÷ operations"),
        Metric("system.fork", "fork and exit", "s", "stress-ng --fork 1: real time ÷ operations"),
        Metric("system.exec", "fork, exec and exit", "s", "a shell that runs /bin/true n times: real time ÷ n"),
        Metric("system.fault", "Page fault", "s", "stress-ng --fault 1: real time ÷ operations (each some five faults)"),
    )

    def take(self, turn: Recorder) -> None:
        more = 5 if turn.full else 1
        count = 20_000 * more
        dd = ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", f"count={count}", "status=progress")
        turn.tool("system.call", ("sh", "-c", f"LC_ALL=C {' '.join(dd)} 2>&1"), lambda text: copied(text) / (2 * count))
        for word, operations in (("switch", 1000 * more), ("fork", 100 * more), ("fault", 300 * more)):
            argv = ("sh", "-c", f"{_STRESS} --{word} 1 --{word}-ops {operations} 2>&1")
            turn.tool(f"system.{word}", argv, lambda text, word=word: 1 / rate(text, word))  # type: ignore[misc]
        runs = 20 * more
        loop = f"s=$(date +%s%N); i=0; while [ $i -lt {runs} ]; do /bin/true; i=$((i+1)); done; e=$(date +%s%N); echo took $((e-s))"
        turn.tool("system.exec", ("sh", "-c", loop), lambda text: number_after(text, "took") / 1e9 / runs)


def copied(text: str) -> float:
    """Seconds that dd took. Raises NotMeasuredError."""
    last = text.strip().splitlines()[-1] if text.strip() else ""
    return number_after(last, "copied,")


def rate(text: str, stressor: str) -> float:
    """Operations per second of real time, from stress-ng's table of metrics. Raises NotMeasuredError."""
    for line in text.splitlines():
        words = line.partition("] ")[2].split()
        if words[:1] == [stressor] and len(words) >= 7 and words[1].isdigit():
            return float(words[5])
    raise NotMeasuredError(f"stress-ng tells no rate of {stressor}")
