"""The WebSocket of exec, attach and run, for a caller with a select or poll loop of its own.

Sync, non-blocking, bounded on both sides: what comes in is handed on at once, what goes out waits in a buffer whose size is
`pending`. Speaks the protocol of docs/api.md, "Streams over WebSocket".
"""

from __future__ import annotations

import json
import select
from typing import TYPE_CHECKING, Any

from twinhull.client import frames
from twinhull.client.problems import UnreachableError, error_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twinhull.client.http import Connection

CONTROL, STDOUT, STDERR = 0, 1, 2
"""Kinds of messages of a `Duplex`."""
HIGH_WATER = 256 * 1024
"""Bytes waiting in a `Duplex` above which the caller should stop reading its own stdin."""
_CHUNK = 64 * 1024
_READ_LIMIT = 256 * 1024


class Duplex:
    """A WebSocket of exec, attach or run, for a select/poll loop:

        poll on `fileno()` for reading, and for writing too while `wants_write`;
        readable → `for kind, payload in duplex.receive()`; writable → `duplex.flush()`;
        read stdin only while `pending < HIGH_WATER`.

    Control payloads (dict) as in docs/api.md: {"created": …}, {"started": true}, {"exit": code}; {"error": problem} is raised by
    `receive` as the class it names. After the peer has closed, `closed` is true and `receive` returns [].

    One stream carries stdin and signals: while `pending` isn't 0 because the workload doesn't read, a signal waits too. For `run` and
    `attach` send it with POST …/kill instead then.
    """

    def __init__(self, connection: Connection) -> None:
        self.closed = False
        self._connection = connection
        self._decoder = frames.Decoder()
        self._out = bytearray()
        self._failure: Exception | None = None
        self._early = connection.early()
        self._unread: list[tuple[int, Any]] = []
        connection.socket.setblocking(False)

    def fileno(self) -> int:
        """The socket."""
        return self._connection.socket.fileno()

    @property
    def pending(self) -> int:
        """Bytes accepted by the send methods and not yet taken by the socket."""
        return len(self._out)

    @property
    def wants_write(self) -> bool:
        """Whether to poll for writing."""
        return bool(self._out) and not self.closed

    def receive(self) -> list[tuple[int, Any]]:
        """All complete messages that can be had without waiting: (STDOUT|STDERR, bytes) or (CONTROL, dict).

        Bounded to about 256 KiB a call, and never leaves anything behind that poll wouldn't report. Raises the daemon's error
        (after the messages before it were returned), or UnreachableError if it vanished.
        """
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        found: list[tuple[int, Any]] = []
        size = 0
        while not self.closed and self._failure is None and (size < _READ_LIMIT or self._buffered()):
            data = self._read()
            if data is None:
                break
            size += len(data)
            self._decode(data, found)
        if self._failure is not None and not found:
            failure, self._failure = self._failure, None
            raise failure
        return found

    def messages(self) -> Iterator[tuple[int, Any]]:
        """The same as `receive`, waiting, until the peer closes: for callers without stdin. Another iterator goes on where one was left."""
        while True:
            self._unread += self.receive()
            while self._unread:
                yield self._unread.pop(0)
            if self.closed and self._failure is None:
                return
            if not self.closed and self._failure is None:
                self.wait()

    @property
    def failed(self) -> bool:
        """Whether `receive` still has an error to raise."""
        return self._failure is not None

    def wait(self, *, also_room: bool = False) -> None:
        """Block until there is something to receive (with `also_room` also: until less than HIGH_WATER is pending)."""
        poll = select.poll()
        while not (self.closed or self._early or self._buffered()):
            poll.register(self.fileno(), select.POLLIN | (select.POLLOUT if self._out else 0))
            if also_room and self.pending < HIGH_WATER:
                return
            if any(event & ~select.POLLOUT for _, event in poll.poll()):
                return
            self.flush()

    def flush(self) -> None:
        """Write what the socket takes without waiting."""
        while self._out and not self.closed:
            try:
                sent = self._connection.socket.send(memoryview(self._out)[:_READ_LIMIT])
            except OSError as error:
                if not _would_block(error):
                    self._out.clear()  # the peer is gone; `receive` finds out what it said before
                return
            del self._out[:sent]

    def send_stdin(self, data: bytes) -> None:
        """Queue stdin data and flush what goes; check `pending`."""
        for start in range(0, len(data), _CHUNK):
            self._send(frames.BINARY, b"\0" + data[start : start + _CHUNK])

    def send_eof(self) -> None:
        """End of stdin."""
        self.send_json({"eof": True})

    def send_resize(self, rows: int, cols: int) -> None:
        """The terminal's new size."""
        self.send_json({"resize": [rows, cols]})

    def send_signal(self, name: str) -> None:
        """A signal by its name without SIG, e.g. "INT"."""
        self.send_json({"signal": name})

    def send_json(self, value: object) -> None:
        """Any text message."""
        self._send(frames.TEXT, json.dumps(value).encode())

    def close(self) -> None:
        """Hang up (exec'd processes end, attached workloads live on). Any number of times."""
        if not self.closed:
            self._send(frames.CLOSE, (1000).to_bytes(2, "big"))
            self.closed = True
        self._connection.close()

    def _send(self, opcode: int, payload: bytes) -> None:
        if not self.closed:
            self._out += frames.encode(opcode, payload)
            self.flush()

    def _buffered(self) -> bool:
        """Whether TLS holds decrypted bytes that poll can't see."""
        pending = getattr(self._connection.socket, "pending", None)
        return bool(pending is not None and pending())

    def _read(self) -> bytes | None:
        """Bytes; b"" at the end; None if there are none now."""
        if self._early:
            data, self._early = self._early, b""
            return data
        try:
            return self._connection.socket.recv(_CHUNK)
        except OSError as error:
            return None if _would_block(error) else b""

    def _decode(self, data: bytes, found: list[tuple[int, Any]]) -> None:
        if not data:
            self._fail(UnreachableError("the daemon hung up"))
            return
        try:
            for opcode, payload in self._decoder.feed(data):
                self._accept(opcode, payload, found)
        except (frames.FrameError, ValueError) as error:
            self._fail(UnreachableError(f"the daemon sent {error}"))

    def _accept(self, opcode: int, payload: bytes, found: list[tuple[int, Any]]) -> None:
        if self.closed:
            return
        if opcode == frames.BINARY and payload and payload[0] in (STDOUT, STDERR):
            found.append((payload[0], payload[1:]))
        elif opcode == frames.TEXT:
            self._control(json.loads(payload), found)
        elif opcode == frames.PING:
            self._send(frames.PONG, payload)
        elif opcode == frames.CLOSE:
            self._send(frames.CLOSE, payload[:2])
            self.closed = True

    def _control(self, message: Any, found: list[tuple[int, Any]]) -> None:
        if not isinstance(message, dict):
            raise ValueError("a message that is no object")
        if "error" in message:
            problem = message["error"]
            self._fail(error_of(problem, problem.get("status", 500) if isinstance(problem, dict) else 500))
            return
        found.append((CONTROL, message))

    def _fail(self, error: Exception) -> None:
        """Remember the first failure, to be raised once what came before it is delivered."""
        self.closed = True
        self._failure = self._failure or error


def _would_block(error: OSError) -> bool:
    """Not now, rather than never; TLS says it in its own way."""
    return isinstance(error, BlockingIOError) or type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")
