"""Sends requests at their times and counts what comes. No retry, no mercy: whatever isn't an answer below 400 in time has failed.

h11 speaks HTTP, as in the daemon; connections are kept as a browser would. Bounded: MAX_RATE, MAX_SECONDS and MAX_OPEN; what is due
beyond MAX_OPEN counts as failed and isn't sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

import h11

from twinhull.load.result import Result

MAX_RATE = 2000.0
"""Requests per second: about what one Python process sends on time."""
MAX_SECONDS = 3600.0
MAX_OPEN = 4000
_CHUNK = 64 * 1024
_IDLE = 256
"""Connections kept open without a request."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where requests go: to `address`:`port`, for `host` (the Host header) and `target` (path and query). tls: None for http."""

    address: str
    port: int
    host: str
    target: str = "/"
    tls: ssl.SSLContext | None = None
    timeout: float = 30.0
    """Seconds, from the time a request is due."""


class Load:
    """One load; `result` may be looked at while it runs."""

    def __init__(self, site: Site) -> None:
        self.result = Result()
        self._site = site
        self._idle: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._begin = self._loop.time()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._loop.time() - self._begin

    async def run(self, times: Iterable[float], stop: asyncio.Event) -> None:
        """Until all are answered, or, after `stop`, at once; then what is open is given up, and neither answered nor failed."""
        stopping = asyncio.create_task(stop.wait(), name="load-stop")
        sending = asyncio.create_task(self._send(times), name="load-send")
        try:
            await asyncio.wait({stopping, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = {stopping, sending, *self._tasks}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for connection in self._idle:
                connection.close()

    async def _send(self, times: Iterable[float]) -> None:
        for due in times:
            if (wait := due - self.elapsed) > 0:
                await asyncio.sleep(wait)
            self.result.late = max(self.result.late, self.elapsed - due)
            self.result.requests += 1
            if len(self._tasks) >= MAX_OPEN:
                self.result.failures[f"not sent: {MAX_OPEN} are open"] += 1
                continue
            task = self._loop.create_task(self._one(due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _one(self, due: float) -> None:
        try:
            async with asyncio.timeout_at(self._begin + due + self._site.timeout):
                status = await self._ask()
        except TimeoutError:
            self.result.failures[f"no answer within {self._site.timeout:g} s"] += 1
        except OSError as error:
            self.result.failures[os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)] += 1
        except (EOFError, h11.ProtocolError):
            self.result.failures["broken off"] += 1
        else:
            self.result.answer(status, self.elapsed - due)

    async def _ask(self) -> int:
        connection = self._kept() or await self._connect()
        try:
            status = await connection.exchange()
        except BaseException:
            connection.close()
            raise
        if connection.reusable and len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return status

    def _kept(self) -> _Connection | None:
        """The one used last of those that the other side hasn't closed meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        site = self._site
        name = site.host.rpartition(":")[0] or site.host if site.tls else None
        return _Connection(site, *await asyncio.open_connection(site.address, site.port, ssl=site.tls, server_hostname=name))


class _Connection:
    def __init__(self, site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)
        headers = [("Host", site.host), ("User-Agent", "twinhull-load"), ("Accept", "*/*")]
        self._request = h11.Request(method="GET", target=site.target, headers=headers)

    @property
    def closed(self) -> bool:
        """Whether the other side has hung up, or said something unasked."""
        return self._reader.at_eof() or self._writer.is_closing()

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def exchange(self) -> int:
        """One request, and its answer's status once the whole answer is here. Raises OSError, EOFError, h11.ProtocolError."""
        if self.reusable:
            self._http.start_next_cycle()
        self._writer.write((self._http.send(self._request) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        status = 0
        while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_CHUNK))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError
        return status

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.transport.abort()
