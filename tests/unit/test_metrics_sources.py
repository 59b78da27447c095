"""Sources of `queue` and `query` targets: their URLs, and what servers may say. Nothing here opens a connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhull.errors import TwinhullError, UserError
from twinhull.metrics import nats, prometheus, redis
from twinhull.metrics.stream import BODY, LINE, AnswerError, Stream
from twinhull.plan import scale
from twinhull.spec.app import ScaleTarget
from twinhull.spec.source import Source, parse

NATS = parse("queue", "nats://shop:word@queue/SHOP/shipping")
REDIS = parse("queue", "redis://:word@cache/2/jobs")
QUERY = parse("query", "http://prometheus:9090/?query=sum(rate(x[1m]))")


@pytest.mark.parametrize(
    ("kind", "text", "source"),
    [
        ("queue", "nats://queue:4222/SHOP/shipping", Source("nats", "queue", 4222, ("SHOP", "shipping"))),
        ("queue", "nats://u:p%40@queue/A/b", Source("nats", "queue", 4222, ("A", "b"), "u", "p@")),
        ("queue", "nats://shop@queue/A/b?secret=queue_password", Source("nats", "queue", 4222, ("A", "b"), "shop", "", "queue_password")),
        ("queue", "redis://cache/jobs", Source("redis", "cache", 6379, ("0", "jobs"))),
        ("queue", "redis://cache:1/3/a/b", Source("redis", "cache", 1, ("3", "a/b"))),
        ("queue", "redis://cache/12", Source("redis", "cache", 6379, ("0", "12"))),
        ("query", "http://p/?query=a+b&c%7B%7D", Source("http", "p", 80, ("/", "a+b&c{}"))),
        ("query", "https://u@p:9/x?secret=s&query=up", Source("https", "p", 9, ("/x", "up"), "u", "", "s")),
    ],
)
def test_urls(kind: str, text: str, source: Source) -> None:
    assert parse(kind, text) == source


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("queue", ""),
        ("queue", "http://p/?query=up"),
        ("queue", "nats://queue/SHOP"),
        ("queue", "nats://queue/SHOP/a.b"),
        ("queue", "nats://queue/SHOP/%3E"),
        ("queue", "nats://queue/SHOP/x%0D%0APUB"),
        ("queue", "nats:///SHOP/x"),
        ("queue", "nats://queue:99999/SHOP/x"),
        ("queue", "redis://cache"),
        ("queue", "redis://cache/"),
        ("query", "http://p/"),
        ("query", "nats://queue/SHOP/shipping"),
    ],
)
def test_urls_that_are_none(kind: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(kind, text)
    assert caught.value.hint


def test_no_password_is_shown() -> None:
    assert "word" not in f"{NATS} {NATS!r} {REDIS} {REDIS!r}"
    with pytest.raises(UserError) as caught:
        parse("queue", "nats://shop:word@queue")
    assert "word" not in caught.value.message


@given(kind=st.sampled_from(["queue", "query"]), text=st.text())
def test_any_text_is_a_source_or_refused(kind: str, text: str) -> None:
    for scheme in ("", "nats://", "redis://", "http://"):
        try:
            found = parse(kind, scheme + text)
        except TwinhullError:
            continue
        assert found.host and 0 < found.port < 65536


class Wire:
    """The other side has said `heard` and hung up; `said` is what it was told."""

    def __init__(self, heard: bytes) -> None:
        self.reader = asyncio.StreamReader(limit=LINE)
        self.reader.feed_data(heard)
        self.reader.feed_eof()
        self.said = b""

    def write(self, data: bytes) -> None:
        self.said += data

    async def ask(self, question: Callable[[Stream, Source, str], Awaitable[float]], source: Source, password: str = "") -> float:
        return await question(Stream(self.reader, self), source, password)  # type: ignore[arg-type]


def consumer(found: Any) -> bytes:
    body = json.dumps(found).encode()
    return b'INFO {"version":"2"}\r\nPING\r\nMSG _INBOX.x 1 %d\r\n%b\r\n' % (len(body), body)


async def test_nats() -> None:
    wire = Wire(consumer({"num_pending": 4, "num_ack_pending": 3}))
    assert await wire.ask(nats.pending, NATS, "word") == 7
    connect, subscribe, publish, _, pong = wire.said.split(b"\r\n")[:5]
    assert json.loads(connect.removeprefix(b"CONNECT "))["pass"] == "word"
    inbox = subscribe.split()[1]
    assert (publish, pong) == (b"PUB $JS.API.CONSUMER.INFO.SHOP.shipping %b 0" % inbox, b"PONG")


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        (b"HTTP/1.1 200 OK\r\n", "no NATS server"),
        (b"INFO {}\r\n-ERR 'Authorization Violation'\r\n", "Authorization Violation"),
        (b"INFO {}\r\nHMSG a 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", "no JetStream"),
        (consumer({"error": {"code": 404, "description": "consumer not found"}}), "consumer not found"),
        (consumer({"num_pending": 4}), "isn't about a consumer"),
        (consumer([]), "isn't about a consumer"),
        (b"INFO {}\r\nMSG a 1 999999999999\r\n", "an answer of 999999999999 bytes"),
        (b"INFO {}\r\nMSG a 1 -5\r\n", "no number"),
        (b"INFO {}\r\nMSG\r\n", "no number"),
        (b"INFO {}\r\n\r\n", "isn't NATS"),
        (b"INFO " + b"x" * 2 * LINE, "a line of more"),
    ],
)
async def test_nats_refused(heard: bytes, text: str) -> None:
    with pytest.raises(AnswerError, match=text):
        await Wire(heard).ask(nats.pending, NATS)


async def test_redis() -> None:
    wire = Wire(b"+OK\r\n+OK\r\n:12\r\n")
    assert await wire.ask(redis.length, REDIS, "word") == 12
    assert wire.said == b"*2\r\n$4\r\nAUTH\r\n$4\r\nword\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n*2\r\n$4\r\nLLEN\r\n$4\r\njobs\r\n"


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH"),
        (b"+OK\r\n-WRONGTYPE Operation against a key\r\n", "WRONGTYPE"),
        (b"+OK\r\n:-1\r\n", "no number"),
        (b"+OK\r\n:" + b"9" * 40 + b"\r\n", "no number"),
        (b"+OK\r\n$2000000000\r\n", "the server said"),
        (b"x" * 2 * LINE, "a line of more"),
    ],
)
async def test_redis_refused(heard: bytes, text: str) -> None:
    with pytest.raises(AnswerError, match=text):
        await Wire(heard).ask(redis.length, REDIS)


def response(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def result(kind: str, found: Any) -> bytes:
    return response(json.dumps({"status": "success", "data": {"resultType": kind, "result": found}}).encode())


@pytest.mark.parametrize("heard", [result("scalar", [1.5, "3.5"]), result("vector", [{"metric": {}, "value": [1.5, "3.5"]}])])
async def test_prometheus(heard: bytes) -> None:
    wire = Wire(heard)
    assert await wire.ask(prometheus.value, QUERY) == 3.5
    assert wire.said.startswith(b"GET /api/v1/query?query=sum%28rate%28x%5B1m%5D%29%29 HTTP/1.1\r\nHost: prometheus:9090\r\n")


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        (b"SSH-2.0\r\n\r\n", "isn't HTTP"),
        (response(b"no", 404), "status 404"),
        (response(b"[" * 100_000), "no result"),
        (response(b'{"status":"error","error":"parse error"}', 400), "parse error"),
        (result("vector", []), "gives nothing"),
        (result("vector", [{}, {}]), "2 series"),
        (result("matrix", [{"values": []}]), "no result"),
        (result("scalar", [1, "many"]), "no result"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2 * BODY, "an answer of more"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 2 * BODY, "isn't HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "isn't HTTP"),
    ],
)
async def test_prometheus_refused(heard: bytes, text: str) -> None:
    with pytest.raises(AnswerError, match=text):
        await Wire(heard).ask(prometheus.value, QUERY)


@given(tail=st.binary(max_size=200), start=st.sampled_from([b"", b"INFO {}\r\n", b"+OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]))
def test_any_answer_is_a_number_or_refused(start: bytes, tail: bytes) -> None:
    async def ask() -> None:
        questions = ((nats.pending, NATS), (redis.length, REDIS), (prometheus.value, QUERY))
        for question, source in questions:
            try:
                assert isinstance(await Wire(start + tail).ask(question, source), float | int)
            except (AnswerError, EOFError):
                continue

    asyncio.run(ask())


def test_what_is_told_of_a_target_has_no_password() -> None:
    assert scale.key(ScaleTarget("queue", 5, "nats://shop:word@queue/A/b")) == "queue:nats://queue/A/b"
