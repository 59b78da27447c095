"""Generated requests against the whole API in process: never a 5xx that wasn't asked for, always a proper problem.

The examples follow the OpenAPI document (valid and invalid ones); the seed is fixed, the number bounded.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from tests.fakes.engine import FakeEngine

from twinhull.daemon.api import create_app
from twinhull.daemon.api.app import document
from twinhull.daemon.config import Config
from twinhull.errors import ConflictError, PermanentError, TemporaryError

CODES = {"invalid", "not-found", "conflict", "unsupported", "cannot-run", "temporary", "internal"}
SLOW = ("/v1/instances/{ref}/wait", "/v1/events", "/v1/instances/{ref}/logs", "/v1/instances/{ref}/stats")
"""Addresses that may answer late on purpose; for these the client leaves at once."""

schemathesis.openapi.media_type("application/x-tar", st.binary(max_size=2048))

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Sent:
    """One request."""

    method: str
    path: str
    query: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def scope(self) -> dict[str, Any]:
        """As ASGI has it."""
        raw = [(key.lower().encode("latin-1"), value.encode("latin-1", "replace")) for key, value in self.headers.items()]
        where = {"type": "http", "method": self.method, "path": self.path, "raw_path": self.path.encode(), "query_string": self.query}
        return where | {
            "headers": raw,
            "state": {},
            "asgi": {"spec_version": "2.3"},
            "scheme": "http",
            "server": None,
            "client": None,
            "root_path": "",
            "http_version": "1.1",
        }


class Loop:
    """An application over a FakeEngine with a loop in a thread; a fresh engine now and then, so that nothing piles up."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="fuzzed")
        self.thread.start()
        self.engine = self.do(self._fresh())
        self.app = create_app(self.engine, Config(), lambda _all: None)

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def request(self, sent: Sent, *, leave: bool = False) -> Reply:
        """One request as ASGI; with `leave` the client goes as soon as it has the head, or after a moment."""
        return self.do(self._request(sent, leave))  # type: ignore[no-any-return]

    def close(self) -> None:
        self.do(self.engine.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def _fresh(self) -> FakeEngine:
        engine = FakeEngine()
        view = await engine.create(_spec())
        await engine.start(view.id)
        return engine

    async def _request(self, sent: Sent, leave: bool) -> Reply:
        waiting: list[dict[str, Any]] = [{"type": "http.request", "body": sent.body, "more_body": False}]
        started = asyncio.Event()
        replies: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2 if leave else None):
                    await started.wait()
                    await asyncio.sleep(0 if leave else 3600)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            replies.append(message)
            started.set()

        async with asyncio.timeout(20):
            await self.app(sent.scope(), receive, send)  # type: ignore[arg-type]
        if not replies:
            return 0, {}, b""
        headers = {key.decode(): value.decode() for key, value in replies[0]["headers"]}
        return replies[0]["status"], headers, b"".join(message.get("body", b"") for message in replies[1:])


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def check(reply: Reply, allowed: tuple[int, ...] = ()) -> None:
    """What holds for every answer."""
    status, headers, body = reply
    assert status < 500 or status in allowed, (status, body)
    if status >= 400:
        assert headers["content-type"] == "application/problem+json"
        problem = json.loads(body)
        assert problem["status"] == status
        assert problem["code"] in CODES
        assert problem["detail"]


def operations() -> list[Any]:
    """Of the document, in its order."""
    app = create_app(FakeEngine(), Config(), lambda _all: None)
    schema = schemathesis.openapi.from_dict(document(app))
    return [result.ok() for result in schema.get_all_operations()]


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.label)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_made_from_the_document(fuzzed: Loop, operation: Any, mode: GenerationMode) -> None:
    @hypothesis.seed(20)
    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        check(fuzzed.request(_sent(case), leave=operation.path in SLOW))

    _tolerating_nothing_to_negate(run)


@hypothesis.seed(20)
@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"]),
    path=st.lists(
        st.sampled_from(["v1", "instances", "images", "fake_5", "", "..", "%2e", "é", "exec", "x" * 300, "archive", "events"]), max_size=5
    ),
    query=st.binary(max_size=40),
)
def test_requests_made_from_nothing(fuzzed: Loop, method: str, path: list[str], query: bytes) -> None:
    check(fuzzed.request(Sent(method, "/" + "/".join(path), query), leave=True))


@hypothesis.seed(20)
@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_bodies_made_from_nothing(fuzzed: Loop, body: Any) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = fuzzed.request(Sent("POST", "/v1/instances", headers={"content-type": "application/json"}, body=raw))
    check(reply)
    assert reply[0] in (400, 413, 422)


@pytest.mark.parametrize("path", ["/v1/instances", "/v1/images", "/v1/networks", "/v1/volumes", "/v1/info"])
@pytest.mark.parametrize(("error", "status"), [(ConflictError("x"), 409), (TemporaryError("x"), 503), (PermanentError("x"), 500)])
def test_injected_errors_have_their_status(fuzzed: Loop, path: str, error: Exception, status: int) -> None:
    name = {"instances": "list", "info": "info"}.get(path.rpartition("/")[2], path.rpartition("/")[2])
    fuzzed.engine.faults[name] = error
    reply = fuzzed.request(Sent("GET", path))
    check(reply, (500, 503))
    assert reply[0] == status


def _sent(case: Any) -> Sent:
    """As a generated case would be sent."""
    given_ = case.as_transport_kwargs(base_url="http://twinhull")
    wanted = ("method", "url", "params", "headers", "json", "data", "files")
    prepared = requests.Request(**{key: value for key, value in given_.items() if key in wanted}).prepare()
    path, _, query = (prepared.path_url or "/").partition("?")
    body = prepared.body or b""
    headers = {str(key): value if isinstance(value, str) else value.decode("latin-1") for key, value in prepared.headers.items()}
    return Sent(str(prepared.method), unquote(path), query.encode(), headers, body.encode() if isinstance(body, str) else bytes(body))


def _tolerating_nothing_to_negate(run: Callable[[], None]) -> None:
    """An operation without parameters or body has no invalid request."""
    try:
        run()
    except hypothesis.errors.Unsatisfiable:
        return


def _spec() -> Any:
    from twinhull.spec.instance import InstanceSpec

    return InstanceSpec(image="busybox", name="box")
