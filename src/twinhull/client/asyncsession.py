"""A session of the asynchronous client: the `Session` interface over a WebSocket of the `websockets` library."""

from __future__ import annotations

import json
import signal as signals
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.asyncio.client import connect as tcp_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from twinhull.client.http import socket_path
from twinhull.client.problems import UnreachableError, error_of
from twinhull.client.target import Target
from twinhull.instance.base import STDERR, STDOUT, Session

_CHUNK = 64 * 1024
_MAX_MESSAGE = 16 * 1024 * 1024
_OPTIONS: dict[str, Any] = {
    "compression": None,
    "max_size": _MAX_MESSAGE,
    "max_queue": (4, 1),
    "ping_interval": None,
    "proxy": None,
    "open_timeout": 10.0,
}
"""A few messages wait at most; no pings, because a pong can wait behind output that nobody reads."""


async def connect(target: Target, context: ssl.SSLContext | None, path: str, first: object = None) -> ClientConnection:
    """A connection on which `first` has been sent. Raises TwinhullError."""
    try:
        socket = await _unix(target, path) if target.socket else await _tcp(target, context, path)
        if first is not None:
            await socket.send(json.dumps(first))
    except InvalidStatus as error:
        raise error_of(_problem(error), error.response.status_code) from error
    except (OSError, InvalidHandshake, ConnectionClosed) as error:
        raise UnreachableError(f"no daemon answers at {target.name}: {error}", "start it with: twinhull daemon --detach") from error
    return socket


async def _unix(target: Target, path: str) -> ClientConnection:
    with socket_path(target.socket) as name:
        return await unix_connect(name, f"ws://{target.authority}{path}", **_OPTIONS)


async def _tcp(target: Target, context: ssl.SSLContext | None, path: str) -> ClientConnection:
    headers = {"Authorization": f"Bearer {target.token}"}
    return await tcp_connect(f"wss://{target.authority}{path}", ssl=context, additional_headers=headers, **_OPTIONS)


def _problem(error: InvalidStatus) -> Any:
    with suppress(ValueError):
        return json.loads(error.response.body or b"")
    return None


class AsyncSession(Session):
    """See `Session`; made by AsyncClient.exec, attach and run."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._code: int | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def started(self) -> Self:
        """Wait until it runs. Raises the daemon's error; the session is closed then."""
        if await self.control() != {"started": True}:
            await self.close()
            raise UnreachableError("the daemon didn't start the session")
        return self

    async def control(self) -> dict[str, Any]:
        """The next message, which must be a control one."""
        message = await self._next()
        if not isinstance(message, dict):
            await self.close()
            raise UnreachableError("the daemon sent output where it should have told what it does")
        return message

    async def send(self, data: bytes) -> None:
        with suppress(ConnectionClosed):
            for start in range(0, len(data), _CHUNK):
                await self._socket.send(b"\0" + data[start : start + _CHUNK])

    async def close_stdin(self) -> None:
        await self._tell({"eof": True})

    async def resize(self, rows: int, cols: int) -> None:
        await self._tell({"resize": [rows, cols]})

    async def signal(self, number: int) -> None:
        await self._tell({"signal": _name(number)})

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        while (message := await self._next()) is not None:
            if isinstance(message, bytes):
                yield message[0], message[1:]
            elif "exit" in message:
                self._code = int(message["exit"])

    async def wait(self) -> int:
        """The exit code; output that nobody took is dropped. The session is closed afterwards."""
        async for _ in self.output():
            pass
        await self.close()
        if self._code is None:
            raise UnreachableError("the session ended without an exit code")
        return self._code

    async def close(self) -> None:
        await self._socket.close()

    async def _tell(self, message: object) -> None:
        with suppress(ConnectionClosed):
            await self._socket.send(json.dumps(message))

    async def _next(self) -> bytes | dict[str, Any] | None:
        """Output with its leading byte, a control message, or None at the end. Raises the daemon's error."""
        if self._ended:
            return None
        try:
            message = await self._socket.recv()
        except ConnectionClosed as error:
            self._ended = True
            if error.rcvd is None:
                raise UnreachableError("the daemon hung up") from error
            return None
        return await self._checked(message)

    async def _checked(self, message: str | bytes) -> bytes | dict[str, Any]:
        if isinstance(message, bytes):
            if message[:1] not in (bytes((STDOUT,)), bytes((STDERR,))):
                raise UnreachableError("the daemon sent output of an unknown stream")
            return message
        value: dict[str, Any] = json.loads(message)
        if "error" in value:
            self._ended = True
            await self.close()
            raise error_of(value["error"])
        return value


def _name(number: int) -> str:
    """As the API takes it; real-time signals go by number."""
    with suppress(ValueError):
        return signals.Signals(number).name.removeprefix("SIG")
    return str(number)
