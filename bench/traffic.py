"""Streams of requests through a gateway while it is being changed, and what became of every single one.

`Stream` runs tests/load.py; its journal is the truth that `count` and `Tally` work on. Pure but for `Stream` and `read`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness import Daemon

ROLLOUT, PLANNED, KILL_INSTANCE, KILL_DAEMON = "rollouts", "other planned changes", "kill -9 of an instance", "kill -9 of the daemon"
KINDS = (ROLLOUT, PLANNED, KILL_INSTANCE, KILL_DAEMON)
STEADY = "nothing changing"
_MARGIN = 1.0
"""Seconds before and after a change that count as neither."""
_LOAD = Path(__file__).parents[1] / "tests" / "load.py"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. at: seconds of the machine's monotonic clock; outcome: a status, or what went wrong."""

    at: float
    took: float
    connection: str
    method: str
    outcome: str

    @property
    def failed(self) -> bool:
        """Whether it had no good answer."""
        return not self.outcome.isdigit() or int(self.outcome) >= 400

    def overlaps(self, begin: float, end: float) -> bool:
        """Whether it was under way at some moment between."""
        return self.at <= end and self.at + self.took >= begin


@dataclass(frozen=True, slots=True)
class Change:
    """kind: one of KINDS; begin, end: as the command took; killed: when an instance died, from and to, (0, 0) none did."""

    kind: str
    name: str
    begin: float
    end: float
    killed: tuple[float, float] = (0.0, 0.0)


@dataclass
class Tally:
    """Of one stream. in_flight: failed on an instance that was killed under them; times: seconds of good answers, by what went on."""

    requests: int = 0
    connections: Counter[str] = field(default_factory=Counter)
    planned_failed: list[tuple[str, Request]] = field(default_factory=list)
    in_flight: list[Request] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)


def count(requests: Iterable[Request], changes: Sequence[Change]) -> Tally:
    """What became of them. A failure counts as in flight only if its instance was killed while it was under way."""
    tally = Tally()
    for request in requests:
        tally.requests += 1
        tally.connections[request.connection] += 1
        change = next((each for each in changes if request.overlaps(each.begin, each.end)), None)
        if not request.failed:
            if change is not None or not any(request.overlaps(each.begin - _MARGIN, each.end + _MARGIN) for each in changes):
                tally.times.setdefault(change.kind if change else STEADY, []).append(request.took)
        elif change is not None and change.kind == KILL_INSTANCE and request.overlaps(*change.killed):
            tally.in_flight.append(request)
        else:
            tally.planned_failed.append((change.name if change else STEADY, request))
    return tally


def percentile(values: Sequence[float], share: float = 0.99) -> float:
    """In milliseconds; 0 of nothing."""
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * share))] * 1000 if found else 0.0


def read(journal: Path) -> list[Request]:
    """tests/load.py's."""
    return [Request(*json.loads(line)) for line in journal.read_text().splitlines()]


class Stream:
    """Requests to one host at a steady rate, three of ten on connections of their own, one of twenty a POST."""

    def __init__(self, daemon: Daemon, folder: Path, host: str, rate: float, *, tls: bool = False) -> None:
        self.host, self.rate, self.tls = host, rate, tls
        self._stop, self._journal = folder / f"{host}.stop", folder / f"{host}.journal"
        argv = ["--port", "443" if tls else "80", *(["--tls"] if tls else []), "--host", host, "--rate", str(rate), "--new", "0.3"]
        argv += ["--path", "/x", "--post", "0.05", "--post-path", "/x", "--bodies"]
        argv += ["--until", str(self._stop), "--journal", str(self._journal)]
        # Ahead of all others, as a client on another machine is: else its own waits for a processor count as the answers' times.
        self._process = daemon.net.popen("chrt", "-f", "10", sys.executable, str(_LOAD), *argv, stdout=subprocess.PIPE)

    def end(self) -> tuple[list[Request], dict[str, int]]:
        """All requests, and the bodies that came."""
        self._stop.touch()
        out, _ = self._process.communicate(timeout=120)
        return read(self._journal), json.loads(out)["bodies"]

    def close(self) -> None:
        """Whatever happened."""
        self._process.kill()
        self._process.wait()
