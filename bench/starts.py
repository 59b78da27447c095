"""Rows that start one thing at a time: all subjects of all rows take turns, in an order that is drawn anew for every round."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from bench.model import TRUE, Row, Samples
from bench.peers import PORTS, Peer

_LOADS = r"""
import ast, http.server, pathlib, sys, time
loaded, files = [], sorted(pathlib.Path(ast.__file__).parent.glob("**/*.py"))
while time.process_time() < {seconds} and files:
    for path in files:
        if time.process_time() >= {seconds}:
            break
        loaded.append(compile(path.read_bytes(), str(path), "exec"))
http.server.HTTPServer(("", 80), http.server.SimpleHTTPRequestHandler).serve_forever()
"""

Turn = tuple[Row, Peer, Callable[[], float]]


def slow_service(seconds: float = 3.0) -> tuple[str, ...]:
    """A Python service that compiles its standard library until it has used so much processor time, and then answers."""
    return ("python3", "-c", _LOADS.format(seconds=seconds))


def turns(row: Row, peers: Sequence[Peer]) -> list[Turn]:
    """One turn a peer."""
    return [(row, peer, _measure(row, peer)) for peer in peers]


def take(all_turns: list[Turn], rounds: int, seed: int, samples: Samples) -> None:
    """Rounds of all turns; one round before them warms up and isn't counted. Milliseconds."""
    order = random.Random(seed)
    for number in range(rounds + 1):
        order.shuffle(all_turns)
        for row, peer, measure in all_turns:
            peer.settle()
            seconds = measure()
            if number:
                samples.add(row, peer.name, seconds * 1000)
        print(f"round {number} of {rounds}", end="\r", flush=True)


def _measure(row: Row, peer: Peer) -> Callable[[], float]:
    return peer.run_true if row == TRUE else lambda: peer.serve(next(PORTS))
