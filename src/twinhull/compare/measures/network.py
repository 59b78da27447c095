"""Network: from the driver, always the same container, to a server in the subject."""

from __future__ import annotations

import json
import re

from twinhull.compare import tools
from twinhull.compare.measures.base import Measure, Recorder, number_after
from twinhull.compare.model import Better, Bound, Metric
from twinhull.compare.subjects.base import NotMeasuredError, anonymous

_TIME = re.compile(r"([0-9.]+)(us|ms|s)\b")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Network(Measure):
    """iperf3 and wrk."""

    name = "network"
    quick, full, guess, long, hulls_only = 5, 15, 2.7, 11.5, True
    metrics = (
        Metric(
            "network.stream1",
            "TCP throughput, 1 stream",
            "B/s",
            "iperf3 -P 1, for a second (quick: 512 MiB): received bytes per second",
            better=Better.HIGHER,
        ),
        Metric("network.stream8", "TCP throughput, 8 streams", "B/s", "iperf3 -P 8: received bytes per second", better=Better.HIGHER),
        Metric("network.latency", "Request and response", "s", "wrk -t1 -c1, 612 B from nginx: median latency"),
        Metric(
            "network.connections", "New connections", "1/s", "wrk -t1 -c8 with Connection: close: requests per second", better=Better.HIGHER
        ),
        Metric("network.http", "HTTP requests", "1/s", "wrk -t1 -c30, 612 B from nginx: requests per second", better=Better.HIGHER),
        Metric(
            "network.loaded",
            "Memory of a loaded server: anonymous",
            "bytes",
            "smaps_rollup of its processes right after the load",
            bound=Bound.OTHER,
        ),
    )

    def take(self, turn: Recorder) -> None:
        duration = "3s" if turn.full else "1s"
        amount = ("-t", "1") if turn.full else ("-n", "512M")
        for metric, streams in (("network.stream1", 1), ("network.stream8", 8)):
            if streams == 1 or turn.full:
                with turn.attempt(metric):
                    turn.sample(metric, throughput(turn.bench.drive("iperf3", "-c", _address(turn), "-P", str(streams), *amount, "-J")))
        with turn.attempt("network.http"):
            turn.sample("network.http", rate(_wrk(turn, "-c30", "-d", duration)))
        with turn.attempt("network.loaded"):
            turn.sample("network.loaded", anonymous(turn.subject.processes(turn.bench.box(turn.subject))))
        with turn.attempt("network.latency"):
            turn.sample("network.latency", half(_wrk(turn, "-c1", "--latency", "-d", duration)))
        if turn.full:
            with turn.attempt("network.connections"):
                turn.sample("network.connections", rate(_wrk(turn, "-c8", "-d", duration, "-H", "Connection: close")))


def _address(turn: Recorder) -> str:
    address = turn.bench.box(turn.subject).address
    if not address:
        raise NotMeasuredError("the instance has no address")
    return address


def _wrk(turn: Recorder, *options: str) -> str:
    return turn.bench.drive("wrk", "-t1", *options, f"http://{_address(turn)}:{tools.PORT}{tools.PAGE}")


def throughput(text: str) -> float:
    """Bytes per second that arrived, from iperf3's JSON. Raises NotMeasuredError with its error."""
    found = json.loads(text)
    if "error" in found:
        raise NotMeasuredError(f"iperf3: {found['error']}")
    return float(found["end"]["sum_received"]["bits_per_second"]) / 8


def rate(text: str) -> float:
    """Requests per second that wrk counted. Raises NotMeasuredError where some failed."""
    if "Non-2xx" in text:
        raise NotMeasuredError("the server didn't answer every request with 200")
    return number_after(text, "Requests/sec:")


def half(text: str) -> float:
    """Seconds within which half of wrk's requests were answered."""
    match = _TIME.search(text.partition("50%")[2])
    if not match:
        raise NotMeasuredError("wrk tells no distribution of latencies")
    return float(match[1]) * _SECONDS[match[2]]
