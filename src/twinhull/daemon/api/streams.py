"""Exec, attach and run over WebSocket: the protocol of docs/api.md, "Streams over WebSocket".

Back-pressure goes end to end: a message is taken from the client only when the last one is in the process's pipe, and output is
taken from the process only when the socket has room. A session is closed whatever happens: the client leaves (also while the
process doesn't read its stdin), the process ends, the daemon stops, somebody breaks the protocol.
"""

from __future__ import annotations

import asyncio
import json
import select
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import cache
from typing import Any, TypeVar, cast

from fastapi import APIRouter, Depends, WebSocket, WebSocketDisconnect
from pydantic import TypeAdapter, ValidationError

from twinhull.daemon.api.answers import cancel, encode, stopping
from twinhull.daemon.api.bodies import strict_adapter
from twinhull.daemon.api.context import Context, ContextDep, Flag, refuse_unknown_query
from twinhull.daemon.api.problems import RefusedError, problem_of, validation_text
from twinhull.daemon.api.problems import encode as encode_problem
from twinhull.engine.base import Engine, LogLine
from twinhull.instance.base import Process, Session
from twinhull.spec.instance import InstanceSpec
from twinhull.spec.process import signal_number

router = APIRouter(tags=["streams"], dependencies=[Depends(refuse_unknown_query)])
FIRST_MESSAGE = 10.0
"""Seconds for the client to say what it wants."""
_GONE_CHECK = 1.0
"""Seconds between looks at the socket while stdin is blocked; nothing is read from it then, not even its end."""
_MAX_SIDE = 65535

T = TypeVar("T")
Prelude = Callable[["_Link"], Awaitable[None]]


@router.websocket("/instances/{ref}/exec")
async def exec_(socket: WebSocket, context: ContextDep, ref: str) -> None:
    """First message: a Process. Runs it inside."""

    async def start(link: _Link) -> Session:
        return await context.engine.exec(ref, await link.first(_process()))

    await _converse(socket, context, start)


@router.websocket("/instances/{ref}/attach")
async def attach(socket: WebSocket, context: ContextDep, ref: str, logs: Flag = False) -> None:
    """The workload's own streams; with `logs` what it wrote before comes first."""

    async def start(link: _Link) -> Session:
        session = await context.engine.attach(ref)
        if logs:
            link.prelude = lambda: _replay(link, context.engine, ref)
        return session

    await _converse(socket, context, start)


@router.websocket("/run")
async def run(socket: WebSocket, context: ContextDep) -> None:
    """First message: an InstanceSpec. Creates it, attaches, starts it; no byte of output is missed."""

    async def start(link: _Link) -> Session:
        view, session = await context.engine.run(await link.first(_spec()))
        link.created = encode(view)
        return session

    await _converse(socket, context, start)


class _Link:
    """The client's side of one conversation."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.created = b""
        """The view of an instance made for this conversation, as JSON."""
        self.prelude: Callable[[], Awaitable[None]] | None = None
        """What is to be sent between the start and the live output."""

    async def first(self, adapter: TypeAdapter[T]) -> T:
        """The first message, of the type that the adapter checks."""
        try:
            async with asyncio.timeout(FIRST_MESSAGE):
                message = await self._receive()
        except TimeoutError:
            raise RefusedError(408, f"no first message within {FIRST_MESSAGE:.0f} s") from None
        if not isinstance(message, str):
            raise RefusedError(422, "the first message must be JSON text")
        try:
            return adapter.validate_python(json.loads(message))
        except ValidationError as error:
            raise RefusedError(422, validation_text(error.errors(include_url=False, include_input=False))) from None
        except (ValueError, RecursionError):
            raise RefusedError(422, "the first message must be JSON text") from None

    async def message(self) -> bytes | dict[str, Any]:
        """The next message: stdin's data, or a command. Raises RefusedError for anything else, WebSocketDisconnect at the end."""
        message = await self._receive()
        if isinstance(message, bytes):
            if message[:1] != b"\0":
                raise RefusedError(422, "a binary message must begin with a zero byte")
            return message[1:]
        try:
            command = json.loads(message)
        except (ValueError, RecursionError):
            command = None
        if not isinstance(command, dict) or len(command) != 1:
            raise RefusedError(422, "a text message must be an object with one key")
        return command

    async def _receive(self) -> str | bytes:
        message = await self._socket.receive()
        if message["type"] != "websocket.receive":
            raise WebSocketDisconnect
        text: str | None = message.get("text")
        return text if text is not None else bytes(message["bytes"])

    async def tell(self, value: object) -> None:
        """A text message."""
        await self._socket.send_text(json.dumps(value))

    async def tell_created(self) -> None:
        """The instance that was made, if one was."""
        if self.created:
            await self._socket.send_text('{"created":' + self.created.decode() + "}")

    async def output(self, stream: int, data: bytes) -> None:
        """Output, once the socket has room."""
        await self._socket.send_bytes(bytes((stream,)) + data)

    async def fail(self, error: BaseException) -> None:
        """Why it ends, to a client that may be gone."""
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.send_text('{"error":' + encode_problem(problem_of(error)).decode() + "}")
            await self._socket.close()

    async def close(self) -> None:
        """A proper end."""
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.close()

    def vanished(self) -> bool:
        """Whether the peer has closed its end, found without reading."""
        transport = self._socket.scope.get("state", {}).get("transport")
        sock = transport.get_extra_info("socket") if transport else None
        if sock is None or sock.fileno() < 0:
            return transport is not None
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))


async def _converse(socket: WebSocket, context: Context, start: Callable[[_Link], Awaitable[Session]]) -> None:
    """One conversation from handshake to close."""
    await socket.accept()
    link = _Link(socket)
    with context.stream(link):
        try:
            session = await start(link)
            try:
                await _bridge(link, session, context.closing)
            finally:
                await session.close()
            await link.close()
        except WebSocketDisconnect:
            pass
        except Exception as error:  # told to the client; what wasn't raised on purpose is logged by problem_of
            await link.fail(error)


async def _bridge(link: _Link, session: Session, closing: asyncio.Event) -> None:
    """Both directions until the process ends. Raises what ended it otherwise."""
    output = asyncio.create_task(_deliver(link, session), name="session-output")
    input_ = asyncio.create_task(_take(link, session), name="session-input")
    stop = asyncio.create_task(closing.wait(), name="session-closing")
    try:
        await asyncio.wait({output, input_, stop}, return_when=asyncio.FIRST_COMPLETED)
        if output.done():
            await link.tell({"exit": output.result()})
        elif input_.done():
            input_.result()
        else:
            raise stopping()
    finally:
        await asyncio.gather(cancel(output), cancel(input_), cancel(stop))


async def _deliver(link: _Link, session: Session) -> int:
    """All output to the client; then the exit code."""
    await link.tell_created()
    await link.tell({"started": True})
    if link.prelude is not None:
        await link.prelude()
    async with aclosing(cast("AsyncGenerator[tuple[int, bytes], None]", session.output())) as chunks:
        async for stream, data in chunks:
            if data:
                await link.output(stream, data)
    return await session.wait()


async def _take(link: _Link, session: Session) -> None:
    """What the client sends, for ever; ends by WebSocketDisconnect or RefusedError."""
    while True:
        message = await link.message()
        if isinstance(message, bytes):
            await _feed(link, session, message)
        else:
            await _obey(session, message)


async def _feed(link: _Link, session: Session, data: bytes) -> None:
    """stdin's data into the process; a client that leaves meanwhile is noticed."""
    sending = asyncio.ensure_future(session.send(data))
    try:
        while not sending.done():
            await asyncio.wait({sending}, timeout=_GONE_CHECK)
            if not sending.done() and link.vanished():
                raise WebSocketDisconnect
        sending.result()
    finally:
        await cancel(sending)


async def _obey(session: Session, command: dict[str, Any]) -> None:
    match command:
        case {"resize": [int(rows), int(cols)]} if 0 < rows <= _MAX_SIDE and 0 < cols <= _MAX_SIDE:
            await session.resize(rows, cols)
        case {"eof": True}:
            await session.close_stdin()
        case {"signal": str(name)}:
            await session.signal(signal_number(name))
        case _:
            raise RefusedError(422, "unknown command: use resize, eof or signal")


async def _replay(link: _Link, engine: Engine, ref: str) -> None:
    """The log up to now."""
    lines = engine.logs(ref, until=time.time())
    async with aclosing(cast("AsyncGenerator[LogLine, None]", lines)):
        async for line in lines:
            await link.output(line.stream, line.data)


@cache
def _process() -> TypeAdapter[Process]:
    return strict_adapter(Process)


@cache
def _spec() -> TypeAdapter[InstanceSpec]:
    return strict_adapter(InstanceSpec)
