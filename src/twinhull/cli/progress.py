"""What is going on, on stderr, for anything over a second.

A timer signal draws it, so that no thread is needed and a blocking read goes on undisturbed (PEP 475). Only on a terminal, and only in
the main thread.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from twinhull.cli.style import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PATIENCE, _BEAT = 1.0, 0.12
"""Seconds before anything is shown, and between two pictures."""


class Progress:
    """A line that is redrawn in place; `text` may change while it runs."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._beats = 0
        self._drawn = False
        self._stopped = False

    def line(self, text: str) -> None:
        """A lasting line above the picture."""
        self.clear()
        print(printable(text), file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Show nothing from now on."""
        self._stopped = True
        self.clear()

    def clear(self) -> None:
        """Take the picture away."""
        if self._drawn:
            _write("\r\x1b[K")
            self._drawn = False

    def draw(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """The next picture."""
        if self._stopped:
            return
        self._beats += 1
        seconds = int(_PATIENCE + self._beats * _BEAT)
        _write(f"\r\x1b[K{_FRAMES[self._beats % len(_FRAMES)]} {printable(self.text)[:70]} {seconds}s")
        self._drawn = True


@contextmanager
def working(text: str) -> Iterator[Progress]:
    """Show `text` with a spinner if the block takes over a second."""
    progress = Progress(text)
    if not sys.stderr.isatty():
        yield progress
        return
    before = signal.signal(signal.SIGALRM, progress.draw)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE, _BEAT)
    try:
        yield progress
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        progress.clear()


def _write(text: str) -> None:
    """Straight to the descriptor: a signal handler must not enter a buffered writer that it may have interrupted."""
    os.write(2, text.encode())
