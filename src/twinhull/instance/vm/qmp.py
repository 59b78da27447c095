"""A small client of QEMU's machine protocol: one JSON object a line, answers matched by `id`, events in a bounded queue.

Laws:
- `connect` returns after capabilities were negotiated. Afterwards every answer reaches its caller, whatever order they come in.
- QEMU may be taken over by its guest: lines are bounded, unknown messages ignored, nothing from the wire is asserted.
- When the connection ends, `closed` is set and every waiter gets `MonitorLostError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinhull.errors import PermanentError, TemporaryError

_LINE = 1 << 20
"""The longest line taken; QEMU's longest answers used here are a few KiB."""
_EVENTS = 64


class MonitorLostError(TemporaryError):
    """The connection ended, as a rule because QEMU did."""


class MonitorError(PermanentError):
    """QEMU refused a command."""

    def __init__(self, command: str, kind: str, description: str) -> None:
        super().__init__(f"QEMU {command}: {description or kind}")
        self.kind = kind


@dataclass(frozen=True, slots=True)
class MonitorEvent:
    """An event such as SHUTDOWN, STOP or GUEST_PANICKED."""

    name: str
    data: dict[str, Any]


class Monitor:
    """See the module's laws. Make it with `connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._events: deque[MonitorEvent] = deque(maxlen=_EVENTS)
        self._task: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()

    @classmethod
    async def connect(cls, path: Path, timeout: float = 10.0) -> Monitor:
        """Connect to QEMU's socket; QEMU serves one client, so this waits while another is connected. Raises TemporaryError."""
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_unix_connection(path, limit=_LINE)
                monitor = cls(reader, writer)
                try:
                    await monitor._negotiate()
                except BaseException:
                    writer.close()
                    raise
        except (TimeoutError, OSError, ValueError) as error:
            raise MonitorLostError(f"connect to QEMU's monitor: {error or 'no answer'}") from error
        return monitor

    async def execute(self, command: str, /, descriptor: int = -1, **arguments: Any) -> Any:
        """Run a command and return its `return` value. Underscores in argument names stand for dashes.

        `descriptor` travels along (`getfd`, `add-fd`); the caller keeps its own.
        """
        return await self._execute(command, {key.replace("_", "-"): value for key, value in arguments.items()}, descriptor)

    async def execute_with(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """The same with the arguments' names as QEMU has them."""
        return await self._execute(command, arguments, -1)

    async def _execute(self, command: str, arguments: Mapping[str, Any], descriptor: int) -> Any:
        if self.closed.is_set():
            raise MonitorLostError(f"QEMU {command}: not connected")
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        message = {"execute": command, "id": number, "arguments": arguments}
        try:
            await self._send(message, descriptor)
            answer = await future
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            error = answer["error"] if isinstance(answer["error"], dict) else {}
            raise MonitorError(command, str(error.get("class", "")), str(error.get("desc", "")))
        return answer.get("return")

    def events(self) -> list[MonitorEvent]:
        """The events since the last call, the latest 64 at most."""
        taken = list(self._events)
        self._events.clear()
        return taken

    async def close(self) -> None:
        """End the connection; QEMU goes on. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._lose()

    async def _negotiate(self) -> None:
        greeting = await self._receive()
        if greeting is None or "QMP" not in greeting:
            raise MonitorLostError("connect to QEMU's monitor: no greeting")
        self._task = asyncio.create_task(self._read(), name="qmp")
        await self.execute("qmp_capabilities")

    async def _send(self, message: dict[str, Any], descriptor: int) -> None:
        line = json.dumps(message).encode() + b"\n"
        try:
            if descriptor >= 0:
                line = line[self._send_first(line, descriptor) :]
            self._writer.write(line)
            await self._writer.drain()
        except OSError as error:
            self._lose()
            raise MonitorLostError(f"QEMU's monitor is gone: {error}") from error

    def _send_first(self, line: bytes, descriptor: int) -> int:
        """Send what the socket takes at once, the descriptor with it; asyncio has no way for that. The number of bytes sent."""
        with socket.socket(fileno=os.dup(self._writer.get_extra_info("socket").fileno())) as connection:
            return socket.send_fds(connection, [line], [descriptor])

    async def _receive(self) -> dict[str, Any] | None:
        """The next object; None at the end of the stream. Raises ValueError for what isn't one."""
        line = await self._reader.readline()
        if not line:
            return None
        try:
            value = json.loads(line)
        except RecursionError as error:
            raise ValueError("an object in too many others") from error
        return value if isinstance(value, dict) else {}

    async def _read(self) -> None:
        try:
            while (message := await self._receive()) is not None:
                self._dispatch(message)
        except (OSError, ValueError):  # torn connection, over-long line, no JSON
            pass
        finally:
            self._lose()

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "event" in message:
            data = message.get("data")
            self._events.append(MonitorEvent(str(message["event"]), data if isinstance(data, dict) else {}))
            return
        number = message.get("id")
        future = self._waiting.get(number) if isinstance(number, int) else None
        if future is not None and not future.done():
            future.set_result(message)

    def _lose(self) -> None:
        self.closed.set()
        self._writer.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(MonitorLostError("QEMU's monitor is gone"))
