"""An instant query (https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries)."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import h11

from twinhull.metrics.stream import BODY, AnswerError, Stream, shown
from twinhull.spec.source import Source

_PATH = "/api/v1/query"


async def value(stream: Stream, source: Source, password: str) -> float:
    """The one number that the query gives. Raises AnswerError, EOFError, OSError."""
    path, query = source.path
    path = path if path.endswith(_PATH) else path.rstrip("/") + _PATH
    headers = [("Host", f"{source.host}:{source.port}"), ("Accept", "application/json"), ("Connection", "close")]
    if source.user or password:
        headers.append(("Authorization", "Basic " + base64.b64encode(f"{source.user}:{password}".encode()).decode()))
    try:
        status, body = await _exchange(stream, f"{quote(path, safe='/%')}?query={quote(query, safe='')}", headers)
    except h11.RemoteProtocolError as error:
        raise AnswerError(f"that isn't HTTP: {error}") from error
    return _single(status, body)


async def _exchange(stream: Stream, target: str, headers: list[tuple[str, str]]) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT)
    stream.write(http.send(h11.Request(method="GET", target=target, headers=headers)) or b"")
    stream.write(http.send(h11.EndOfMessage()) or b"")
    status, body = 0, b""
    while not isinstance(event := http.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
        if event is h11.NEED_DATA:
            http.receive_data(await stream.some())
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > BODY:
                raise AnswerError(f"an answer of more than {BODY} bytes")
    return status, body


def _single(status: int, body: bytes) -> float:
    """A scalar, or a vector of one sample."""
    try:
        found = json.loads(body)
        if found["status"] != "success":
            raise AnswerError(f"the server said {shown(str(found['error']).encode())}")
        kind, result = found["data"]["resultType"], found["data"]["result"]
        if kind == "vector" and len(result) != 1:
            raise AnswerError(
                "the query gives nothing" if not result else f"the query gives {len(result)} series: sum them up, with sum(…)"
            )
        return float(result[1] if kind == "scalar" else result[0]["value"][1])
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise AnswerError(f"status {status}, and no result of a query: {shown(body)}") from error
