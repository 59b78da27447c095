"""The workload's output on its way from the guest into the log: exactly once, whatever ends in between.

Invariant: `offset` is what the host has; the guest keeps everything from there on, and a reconnection starts there. Offsets, times and
sizes come from the guest and are checked.
"""

from __future__ import annotations

import time
from pathlib import Path

from twinhull.instance.logs import LogWriter

STATE = "log.offset"
_TOLERANCE_NS = 1_000_000_000


class GuestLog:
    """Takes `AgentClient`'s output. `fresh`: a new boot, whose offsets count from zero."""

    def __init__(self, path: Path, run: Path, max_size: int, max_files: int, *, fresh: bool) -> None:
        self._writer = LogWriter(path, run / STATE, max_size, max_files, fresh=fresh)

    @property
    def offset(self) -> int:
        """Bytes of output that are in the log."""
        return self._writer.offset

    def take(self, offset: int, at_ns: int, stream: int, data: bytes) -> None:
        """One piece of output. What is there already is left out; what the guest had to drop is left out of the count."""
        known = self._writer.offset
        if offset + len(data) <= known:
            return
        if offset < known:
            data = data[known - offset :]
        elif offset > known:
            self._writer.skip(offset)
        self._writer.write(self._believable(at_ns), stream, data)

    def rotate_if_due(self) -> None:
        """Start a new file if this one has reached its size."""
        self._writer.rotate_if_due()

    def close(self) -> None:
        """Close the files; idempotent."""
        self._writer.close()

    def _believable(self, at_ns: int) -> int:
        """The guest's time, but never in the future: readers select by time, and a guest can write any number."""
        return min(at_ns, time.time_ns() + _TOLERANCE_NS)
