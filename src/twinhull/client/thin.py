"""The light transport under the CLI's hot verbs: HTTP/1.1, server-sent events and WebSocket over one socket per call.

Only `socket`, `json` and what those load (see docs/adr/0002-thin-transport.md). Errors of the daemon are raised as the classes of
`twinhull.errors`. Query values: None is left out, a bool is true/false, a list or tuple repeats the key. Bodies: bytes as they
are, an iterator of bytes as a chunked stream, anything else as JSON. Nothing here buffers without a bound.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from twinhull.client import target as targets
from twinhull.client.duplex import CONTROL, HIGH_WATER, STDERR, STDOUT, Duplex
from twinhull.client.http import Connection, Response
from twinhull.client.problems import UnreachableError, error_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    Query = Mapping[str, Any]

__all__ = [
    "CONTROL",
    "HIGH_WATER",
    "STDERR",
    "STDOUT",
    "Duplex",
    "EventReader",
    "Response",
    "UnreachableError",
    "call",
    "problem",
    "quote",
    "request",
    "sse",
    "websocket",
    "with_query",
]

_MAX_EVENT = 16 * 1024 * 1024
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def call(method: str, path: str, query: Query | None = None, body: object = None, *, target: targets.Target | None = None) -> Any:
    """One request and its decoded JSON answer (None for 204). `path` begins with /v1/. Raises TwinhullError; waits without a limit."""
    with request(method, path, query, body, target=target) as response:
        data = response.read()
    return _decoded(data) if data else None


def request(method: str, path: str, query: Query | None = None, body: object = None, *, target: targets.Target | None = None) -> Response:
    """One request; a Response with status below 400, its body still to be read. Raises TwinhullError otherwise."""
    connection = Connection(target or targets.current())
    try:
        response = connection.exchange(method, with_query(path, query), body)
        if response.status >= 400:
            raise _problem(response)
    except BaseException:
        connection.close()
        raise
    return response


def sse(
    method: str, path: str, query: Query | None = None, body: object = None, *, target: targets.Target | None = None
) -> Generator[tuple[str, Any], None, None]:
    """Server-sent events as (event name, decoded data); "message" is the default name. `event: error` is raised.

    The request is made at once, so that its errors come from here; closing the iterator hangs up.
    """
    return _events(request(method, path, query, body, target=target))


def websocket(path: str, query: Query | None = None, first: object = None, *, target: targets.Target | None = None) -> Duplex:
    """Open a WebSocket, send `first` as a JSON text message (if not None), and return the duplex, non-blocking from then on."""
    connection = Connection(target or targets.current())
    try:
        refusal = connection.upgrade(with_query(path, query))
        if refusal is not None:
            raise _problem(refusal)
        duplex = Duplex(connection)
        if first is not None:
            duplex.send_json(first)
    except BaseException:
        connection.close()
        raise
    return duplex


def quote(segment: str) -> str:
    """One path segment or query value, percent-encoded; undecodable bytes (surrogates) as they were."""
    raw = segment.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw)


def with_query(path: str, query: Query | None) -> str:
    """The path with an encoded query."""
    pairs = [f"{quote(key)}={quote(_text(one))}" for key, value in (query or {}).items() for one in _values(value)]
    return f"{path}?{'&'.join(pairs)}" if pairs else path


def _values(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def problem(body: bytes, status: int) -> Exception:
    """The error that an answer's body names."""
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    return error_of(fields, status)


def _problem(response: Response) -> Exception:
    with response:
        return problem(response.read(), response.status)


def _events(response: Response) -> Generator[tuple[str, Any], None, None]:
    reader = EventReader()
    with response:
        for chunk in response.chunks():
            yield from reader.feed(chunk)


class EventReader:
    """Server-sent events from the bytes of a body, in whatever pieces they come. Raises what `event: error` names."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = "message"
        self._data = b""

    def feed(self, chunk: bytes) -> Iterator[tuple[str, Any]]:
        """The events that are complete now."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) + len(self._data) > _MAX_EVENT:
            raise UnreachableError(f"the daemon sent an event of more than {_MAX_EVENT} bytes")
        for line in lines:
            yield from self._line(line.removesuffix(b"\r"))

    def _line(self, line: bytes) -> Iterator[tuple[str, Any]]:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode()
        elif field == b"data":
            self._data = self._data + b"\n" + value if self._data else value
        elif not line and self._data:
            name, data = self._name, self._data
            self._name, self._data = "message", b""
            yield _event(name, data)


def _event(name: str, data: bytes) -> tuple[str, Any]:
    value = _decoded(data)
    if name == "error":
        raise error_of(value, value.get("status", 500) if isinstance(value, dict) else 500)
    return name, value


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise UnreachableError(f"the daemon's answer can't be read: {error}") from error
