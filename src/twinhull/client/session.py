"""A session of the synchronous client: an exec, or a workload's own streams."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from twinhull.client.problems import UnreachableError
from twinhull.client.thin import CONTROL, HIGH_WATER, STDERR, STDOUT, Duplex
from twinhull.errors import TwinhullError

_CHUNK = 64 * 1024


class ClientSession:
    """Like `Session`, without `await`. Send little before reading, or use `communicate`: both directions share the caller's thread."""

    def __init__(self, duplex: Duplex) -> None:
        self._duplex = duplex
        self._messages: deque[tuple[int, Any]] = deque()
        self._code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def started(self) -> Self:
        """Wait until it runs. Raises the daemon's error; the session is closed then."""
        if self.control() != {"started": True}:
            self.close()
            raise UnreachableError("the daemon didn't start the session")
        return self

    def control(self) -> dict[str, Any]:
        """The next message, which must be a control one."""
        kind, payload = self._next() or (CONTROL, None)
        if kind != CONTROL or not isinstance(payload, dict):
            self.close()
            raise UnreachableError("the daemon sent output where it should have told what it does")
        return payload

    def send(self, data: bytes) -> None:
        """stdin. Waits while the process doesn't read; nothing is read meanwhile."""
        poll = select.poll()
        poll.register(self._duplex.fileno(), select.POLLOUT)
        for start in range(0, len(data), _CHUNK):
            self._duplex.send_stdin(data[start : start + _CHUNK])
            while self._duplex.pending > HIGH_WATER:
                poll.poll()
                self._duplex.flush()

    def close_stdin(self) -> None:
        """End of stdin."""
        self._duplex.send_eof()

    def resize(self, rows: int, cols: int) -> None:
        """The terminal's new size."""
        self._duplex.send_resize(rows, cols)

    def signal(self, name: str | int) -> None:
        """A signal, by name without SIG or by number."""
        self._duplex.send_signal(str(name))

    def output(self) -> Iterator[tuple[int, bytes]]:
        """(STDOUT | STDERR, data) until the process ends. Raises the daemon's error."""
        while (message := self._next()) is not None:
            kind, payload = message
            if kind != CONTROL:
                yield kind, payload
            elif "exit" in payload:
                self._code = int(payload["exit"])

    def wait(self) -> int:
        """The exit code; output that nobody took is dropped. The session is closed afterwards."""
        for _ in self.output():
            pass
        return self._finish()

    def communicate(self, data: bytes = b"") -> tuple[int, bytes, bytes]:
        """Send all of `data` and its end, read all output meanwhile: (exit code, stdout, stderr)."""
        found: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        chunks: Iterator[bytes] | None = (data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))
        self._sort(found)  # of a short run all of it may have come together with the word that it runs
        while self._code is None and not (self._duplex.closed and not self._duplex.failed):
            if chunks is not None and self._duplex.pending < HIGH_WATER:
                chunks = self._feed(chunks)
            self._duplex.wait(also_room=chunks is not None)
            self._messages.extend(self._duplex.receive())
            self._sort(found)
        return self._finish(), b"".join(found[STDOUT]), b"".join(found[STDERR])

    def _feed(self, chunks: Iterator[bytes]) -> Iterator[bytes] | None:
        """Send one chunk more; None after the last."""
        chunk = next(chunks, None)
        if chunk is None:
            self._duplex.send_eof()
            return None
        self._duplex.send_stdin(chunk)
        return chunks

    def close(self) -> None:
        """Detach. An exec's process is ended, a workload lives on."""
        self._duplex.close()

    def _sort(self, found: dict[int, list[bytes]]) -> None:
        """Take what waits."""
        while self._messages:
            kind, payload = self._messages.popleft()
            if kind != CONTROL:
                found[kind].append(payload)
            elif "exit" in payload:
                self._code = int(payload["exit"])

    def _next(self) -> tuple[int, Any] | None:
        """The next message; None after the end. An error closes the session."""
        try:
            while not self._messages:
                if self._duplex.closed and not self._duplex.failed:
                    return None
                self._duplex.wait()
                self._messages.extend(self._duplex.receive())
        except TwinhullError:
            self.close()
            raise
        return self._messages.popleft()

    def _finish(self) -> int:
        self.close()
        if self._code is None:
            raise UnreachableError("the session ended without an exit code")
        return self._code
