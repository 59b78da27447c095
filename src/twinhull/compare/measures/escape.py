"""The escape attempts of tests/escape, made by this machine's own instances: what was tried, and what came of it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from twinhull.compare.escape_verdict import DEFAULT, USER, Row
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.probes import run  # noqa: F401  fills the table
from twinhull.compare.probes.table import ATTEMPTS, Place
from twinhull.errors import TwinhullError

COLUMN = "Escape attempts"
_HOW = "safe attempts after amicontained, CDK and deepce, with default capabilities; a canary of the host shows a success"


class Escape(Measure):
    """Harmless where they succeed (docs/security.md)."""

    name = "escape"
    stage = 2
    quick, full, guess, long, warm_up = 1, 1, 1.5, 3.0, False

    def take(self, turn: Recorder) -> None:
        try:
            with _canary() as place:
                levels = ((DEFAULT, ""), (USER, "1000")) if turn.full else ((DEFAULT, ""),)
                rows = [row for level, user in levels for row in _rows(turn, place, level, user)]
        except (TwinhullError, OSError, ValueError) as error:
            turn.fact(COLUMN, "not tried", str(error))
            return
        counts = {word: sum(row.verdict == word for row in rows) for word in ("denied", "contained", "ESCAPED", "broken")}
        text = f"{len(rows)} tried: " + ", ".join(f"{count} {word}" for word, count in counts.items() if count or word == "ESCAPED")
        outcomes = [[row.level, row.attempt.name, row.verdict, row.attempt.tries, row.text[:200]] for row in rows]
        turn.fact(COLUMN, text, _HOW, {"outcomes": outcomes})


def _rows(turn: Recorder, place: Place, level: str, user: str) -> Iterator[Row]:
    said = turn.bench.probe(turn.subject, "run", json.dumps(asdict(place)), user=user)
    for line in said.splitlines():
        name, outcome, text = json.loads(line)
        yield Row(ATTEMPTS[name], turn.subject.name, level, outcome, text)


@contextmanager
def _canary() -> Iterator[Place]:
    """A file that only the host can read, and a socket on which it answers."""
    with tempfile.TemporaryDirectory(prefix="twinhull-compare-") as folder, socket.socket(socket.AF_UNIX) as listener:
        Path(folder).chmod(0o755)
        canary = secrets.token_hex(16)
        path = Path(folder) / "canary"
        path.write_text(canary)
        listener.bind(f"{folder}/host.sock")
        listener.listen()
        device = os.stat("/").st_dev
        yield Place(str(path), canary, os.getpid(), f"{os.major(device)}:{os.minor(device)}", (f"{folder}/host.sock",))
