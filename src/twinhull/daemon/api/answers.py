"""What routes answer with: JSON, nothing, a tar stream, server-sent events.

Streams are pulled only while the socket takes them (back-pressure; 64 KiB and one item wait at most), end when the client has gone
or the daemon stops, and always close their generator at once. An error before the first item is an ordinary problem; one after it is
`event: error` in an event stream, and a broken-off body in a tar stream.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Generic, TypeVar, cast

from pydantic_core import PydanticSerializationError, to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from twinhull.daemon.api import problems
from twinhull.daemon.api.context import Context
from twinhull.errors import TemporaryError

T = TypeVar("T")
HEARTBEAT = 15.0
"""Seconds of silence after which an event stream sends a comment, so that a vanished client is found."""
_FIRST = 0.05
"""Seconds that a stream waits for its first item, or error, before the head of the answer goes out."""
_PIPE = 64 * 1024
_DONE = b"event: done\ndata: {}\n\n"


def encode(value: Any) -> bytes:
    """Dataclasses as JSON. Names with undecodable bytes, which UTF-8 can't carry, go as escaped surrogates."""
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, UnicodeEncodeError):
        return json.dumps(value, default=_plain, allow_nan=False).encode()


class Json(Response, Generic[T]):
    """A value of type T; the OpenAPI document reads T from the routes' return types."""

    media_type = "application/json"

    def __init__(self, value: T, status: int = 200) -> None:
        super().__init__(encode(value), status)


class Empty(Response):
    """204, or 202 for what goes on."""

    def __init__(self, status: int = 204) -> None:
        super().__init__(status_code=status)


class Metrics(Response):
    """Text for Prometheus."""

    def __init__(self, text: bytes, media_type: str) -> None:
        super().__init__(text, media_type=media_type)


class Stream(Response):
    """Chunks as an iterator yields them. Base of the two kinds below."""

    heartbeat = b""
    """Sent after HEARTBEAT seconds of silence, if not empty."""

    def __init__(self, context: Context, chunks: AsyncIterator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._context = context
        self._chunks = cast("AsyncGenerator[bytes, None]", chunks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it, unless the client goes or the daemon stops before."""
        with self._context.stream(self):
            await unless(self._run(send), _disconnected(receive))

    async def _run(self, send: Send) -> None:
        pipe = _Pipe()
        producer = asyncio.create_task(pipe.fill(self._chunks), name="stream")
        closing = asyncio.create_task(self._context.closing.wait(), name="stream-closing")
        closing.add_done_callback(lambda _task: producer.cancel())
        try:
            await pipe.wait(_FIRST)
            if pipe.ended and not pipe.size and (failure := await _failure(producer)):
                raise failure
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._pump(send, pipe)
            await self._end(send, await _failure(producer))
        finally:
            await asyncio.gather(cancel(producer), cancel(closing))

    async def _pump(self, send: Send, pipe: _Pipe) -> None:
        while not pipe.ended or pipe.size:
            data = pipe.take() if await pipe.wait(HEARTBEAT) else self.heartbeat
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _end(self, send: Send, failure: Exception | None) -> None:
        """The end of the body; a failure breaks it off, so that the client doesn't take it for whole."""
        if failure:
            raise failure
        await send({"type": "http.response.body", "body": b""})


class Tar(Stream):
    """A tar stream."""

    media_type = "application/x-tar"


class Events(Stream):
    """Server-sent events: `data:` one JSON value each. With `done`, a proper end is told by `event: done`."""

    media_type = "text/event-stream"
    heartbeat = b": still here\n\n"

    def __init__(self, context: Context, values: AsyncIterator[Any], *, done: bool = False) -> None:
        super().__init__(context, _event_chunks(values, done))
        self.headers["cache-control"] = "no-store"

    async def _end(self, send: Send, failure: Exception | None) -> None:
        tail = b"event: error\ndata: " + problems.encode(problems.problem_of(failure)) + b"\n\n" if failure else b""
        await send({"type": "http.response.body", "body": tail})


class _Pipe:
    """Between a producing task and the socket: what was produced meanwhile goes out in one piece, _PIPE bytes at most wait."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self.ended = False

    @property
    def size(self) -> int:
        """Bytes waiting."""
        return len(self._data)

    async def fill(self, chunks: AsyncGenerator[bytes, None]) -> None:
        """Take all of `chunks`, and close it whatever happens."""
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    await self._put(chunk)
        finally:
            self.ended = True
            self._ready.set()

    async def _put(self, chunk: bytes) -> None:
        self._data += chunk
        self._ready.set()
        while len(self._data) >= _PIPE:
            self._room.clear()
            await self._room.wait()

    async def wait(self, seconds: float) -> bool:
        """Whether there is something to take, or the end, within that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        return self._ready.is_set()

    def take(self) -> bytes:
        """All that waits."""
        data = bytes(self._data)
        self._data.clear()
        self._room.set()
        if not self.ended:
            self._ready.clear()
        return data


async def unless(work: Coroutine[Any, Any, T], *ends: Coroutine[Any, Any, Any]) -> T | None:
    """The result of `work`, or None once one of `ends` came first; then `work` has been cancelled and waited for."""
    task = asyncio.ensure_future(work)
    others = [asyncio.ensure_future(end) for end in ends]
    try:
        await asyncio.wait({task, *others}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await asyncio.gather(*(cancel(one) for one in (task, *others)))


async def patiently(request: Request, context: Context, work: Coroutine[Any, Any, T]) -> T | None:
    """For a route that answers late: None once the client has gone. Raises TemporaryError if the daemon stops meanwhile."""
    result = await unless(work, _disconnected(request.receive), context.closing.wait())
    if result is None and context.closing.is_set():
        raise stopping()
    return result


def stopping() -> TemporaryError:
    """Why a stream or a long wait ends early."""
    return TemporaryError("the daemon is stopping", "workloads go on; try again once it is back")


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancel and wait, whatever it ends with."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


async def _failure(producer: asyncio.Task[None]) -> Exception | None:
    """What a producer that has come to its end failed with; only a daemon that stops cancels it."""
    await asyncio.wait({producer})
    if producer.cancelled():
        return stopping()
    error = producer.exception()
    return error if isinstance(error, Exception) else None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _event_chunks(values: AsyncIterator[Any], done: bool) -> AsyncGenerator[bytes, None]:
    async with aclosing(cast("AsyncGenerator[Any, None]", values)) as items:
        async for item in items:
            yield b"data: " + encode(item) + b"\n\n"
    if done:
        yield _DONE


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")
