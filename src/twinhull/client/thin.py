"""The light transport under the CLI's hot verbs: HTTP/1.1, server-sent events and WebSocket over one socket per call.

Only `socket`, `json` and what those load (see docs/adr/0002-thin-transport.md). Errors of the daemon are raised as the classes of
`twinhull.errors`. Query values: None is left out, a bool is true/false, a list or tuple repeats the key. Bodies: bytes as they
are, an iterator of bytes as a chunked stream, anything else as JSON. Nothing here buffers without a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Query = Mapping[str, Any]

CONTROL, STDOUT, STDERR = 0, 1, 2
"""Kinds of messages of a `Duplex`."""
HIGH_WATER = 256 * 1024
"""Bytes waiting in a `Duplex` above which the caller should stop reading its own stdin."""


class Response:
    """An answer whose body hasn't been read yet. Use as a context manager, or `read()` it to the end."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""

    def read(self) -> bytes:
        """The whole body, at most 64 MiB, and close."""
        raise NotImplementedError

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes (tar streams)."""
        raise NotImplementedError

    def fileno(self) -> int:
        """The socket, for select and poll."""
        raise NotImplementedError

    def close(self) -> None:
        """Hang up; the daemon ends the stream."""
        raise NotImplementedError

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def call(method: str, path: str, query: Query | None = None, body: object = None) -> Any:
    """One request and its decoded JSON answer (None for 204). `path` begins with /v1/. Raises TwinhullError; waits without a limit."""
    raise NotImplementedError


def request(method: str, path: str, query: Query | None = None, body: object = None) -> Response:
    """One request; a Response with status below 400, its body still to be read. Raises TwinhullError otherwise."""
    raise NotImplementedError


def sse(method: str, path: str, query: Query | None = None, body: object = None) -> Iterator[tuple[str, Any]]:
    """Server-sent events as (event name, decoded data); "message" is the default name. `event: error` is raised. Closing the iterator hangs up."""
    raise NotImplementedError


def websocket(path: str, query: Query | None = None, first: object = None) -> Duplex:
    """Open a WebSocket, send `first` as a JSON text message (if not None), and return the duplex, non-blocking from then on."""
    raise NotImplementedError


def quote(segment: str) -> str:
    """One path segment, percent-encoded (names and ids in paths)."""
    raise NotImplementedError


class Duplex:
    """A WebSocket of exec, attach or run, for a select/poll loop:

        poll on `fileno()` for reading, and for writing too while `wants_write`;
        readable → `for kind, payload in duplex.receive()`; writable → `duplex.flush()`;
        read stdin only while `pending < HIGH_WATER`.

    Control payloads (dict) as in docs/api.md: {"created": …}, {"started": true}, {"exit": code}; {"error": problem} is raised by `receive`
    as the class it names. After the peer has closed, `closed` is true and `receive` returns [].
    """

    closed: bool

    def fileno(self) -> int:
        """The socket."""
        raise NotImplementedError

    @property
    def pending(self) -> int:
        """Bytes accepted by the send methods and not yet taken by the socket."""
        raise NotImplementedError

    @property
    def wants_write(self) -> bool:
        """Whether to poll for writing."""
        raise NotImplementedError

    def receive(self) -> list[tuple[int, Any]]:
        """All complete messages that can be had without waiting: (STDOUT|STDERR, bytes) or (CONTROL, dict). Bounded to about 256 KiB a call
        (with TLS it may have more: call again until it returns nothing). Raises the daemon's error, or TemporaryError if it vanished."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what the socket takes without waiting."""
        raise NotImplementedError

    def send_stdin(self, data: bytes) -> None:
        """Queue stdin data and flush what goes; check `pending`."""
        raise NotImplementedError

    def send_eof(self) -> None:
        """End of stdin."""
        raise NotImplementedError

    def send_resize(self, rows: int, cols: int) -> None:
        """The terminal's new size."""
        raise NotImplementedError

    def send_signal(self, name: str) -> None:
        """A signal by its name without SIG, e.g. "INT"."""
        raise NotImplementedError

    def messages(self) -> Iterator[tuple[int, Any]]:
        """The same as `receive`, waiting, until the peer closes: for callers without stdin."""
        raise NotImplementedError

    def close(self) -> None:
        """Hang up (exec'd processes end, attached workloads live on). Any number of times."""
        raise NotImplementedError
