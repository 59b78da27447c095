"""A laboratory for the gateway: origins on addresses of the loopback, clients, and load that counts.

All in a network namespace of the test's own. Everything runs in the test's event loop but HAProxy itself.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.harness import new_home

from twinhull.gateway.base import Backend, Server
from twinhull.gateway.local import HaproxyGateway
from twinhull.gateway.settings import Settings
from twinhull.home import Home
from twinhull.spec.app import RouteSpec

_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, section 1.3."""
PORT = 8080
HTTP, HTTPS = 80, 443
SETTINGS = Settings(http=f"127.0.0.1:{HTTP}", https=f"127.0.0.1:{HTTPS}")


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Request:
    """As an origin saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[[Request], Awaitable[tuple[int, bytes] | None]]


@dataclass
class Origin:
    """A server that says its name. `handler` may answer otherwise; None of it closes the connection without a word."""

    name: str
    address: str
    port: int = PORT
    handler: Handler | None = None
    requests: list[Request] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def server(self) -> Server:
        return Server(self.name, self.address)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.address, self.port)

    async def stop(self) -> None:
        """At once: open connections are reset, as when a process is killed."""
        if self._server is None:
            return
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await self._server.wait_closed()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, headers = parse_head(head)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = first.split(" ")
        request = Request(method, path, headers, body)
        self.requests.append(request)
        if headers.get("upgrade") == "websocket":
            await self._echo(headers["sec-websocket-key"], reader, writer)
            return False
        answer = await self.handler(request) if self.handler else (200, self.name.encode())
        if answer is None:
            return False
        writer.write(f"HTTP/1.1 {answer[0]} X\r\nContent-Length: {len(answer[1])}\r\n\r\n".encode() + answer[1])
        await writer.drain()
        return True

    async def _echo(self, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accept = base64.b64encode(hashlib.sha1(key.encode() + _WEBSOCKET).digest()).decode()
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{upgrade}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        while data := await reader.read(65536):
            writer.write(self.name.encode() + b":" + data)
            await writer.drain()


@contextlib.asynccontextmanager
async def origins(*names: str, handler: Handler | None = None) -> AsyncIterator[list[Origin]]:
    """Started, on 127.0.0.11 and up."""
    made = [Origin(name, f"127.0.0.{11 + number}", handler=handler) for number, name in enumerate(names)]
    try:
        for one in made:
            await one.start()
        yield made
    finally:
        for one in made:
            await one.stop()


@contextlib.asynccontextmanager
async def gateway(home: Home, settings: Settings = SETTINGS) -> AsyncIterator[HaproxyGateway]:
    """Open and supervised; removed at the end."""
    made = HaproxyGateway(home, settings)
    await made.open()
    task = asyncio.create_task(made.supervise())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.close(remove=True)


@contextlib.contextmanager
def own_home() -> Iterator[Home]:
    """Like the common fixture, but it looks for nothing else than processes, which takes a tenth of the time."""
    made = new_home()
    yield made
    left = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _folder(entry).startswith(str(made.run))]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(made.run.parent)
    assert left == []


def _folder(pid: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd")
    return ""


def backend(*servers: Origin | Server, name: str = "shop/web", **route: Any) -> Backend:
    """One route to the host web.test."""
    spec = RouteSpec(**({"host": "web.test", "port": PORT} | route))
    return Backend(name, (spec,), tuple(one.server if isinstance(one, Origin) else one for one in servers))


def parse_head(data: bytes) -> tuple[str, dict[str, str]]:
    """First line and headers."""
    first, *lines = data.decode("latin-1").strip().split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return first, {name.strip().lower(): value.strip() for name, value in pairs}


class Client:
    """One connection; opened again when the other side announced its end, as every HTTP client does."""

    def __init__(self, host: str = "127.0.0.1", port: int = HTTP, **options: Any) -> None:
        self._where = (host, port)
        self._options = options
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.connections = 0

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._where, **self._options)
            self.connections += 1
        return self._streams

    async def websocket(self) -> None:
        """Become one."""
        key = base64.b64encode(bytes(16)).decode()
        answer = await self.ask("/ws", Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Key=key, Sec_WebSocket_Version="13")
        assert answer.status == 101

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()
            self._streams = None

    async def ask(self, path: str = "/", host: str = "web.test", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        """Raises OSError or EOFError when there is no whole answer."""
        reader, writer = await self.open()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        first, found = parse_head(await reader.readuntil(b"\r\n\r\n"))
        status = int(first.split(" ")[1])
        content = b""
        if status != 101:
            content = await reader.readexactly(int(found.get("content-length", "0")))
        if found.get("connection", "").lower() == "close":
            await self.close()
        return Answer(status, found, content)


async def ask(path: str = "/", host: str = "web.test", method: str = "GET", body: bytes = b"", port: int = HTTP, **headers: str) -> Answer:
    """On a connection of its own."""
    client = Client(port=port)
    try:
        return await client.ask(path, host, method, body, **headers)
    finally:
        await client.close()


async def eventually(condition: Callable[[], Awaitable[bool]], patience: float = 20.0) -> None:
    """Poll, without a statement about time but the patience."""
    async with asyncio.timeout(patience):
        while not await condition():  # noqa: ASYNC110 (what another process does sets no event here)
            await asyncio.sleep(0.02)


@dataclass
class Load:
    """Requests without a pause while the block lasts. answers: by body; failures: what went wrong, with the requests that did."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _over: bool = False

    @property
    def count(self) -> int:
        return self.answers.total() + len(self.failures)

    async def more(self, number: int) -> None:
        """Return when this many further requests have been answered."""
        goal = self.count + number

        async def reached() -> bool:
            return self.count >= goal

        await eventually(reached, 60)

    async def _run(self, *, keep: bool) -> None:
        client = Client()
        while not self._over:
            try:
                answer = await client.ask("/")
                if answer.status == 200:
                    self.answers[answer.text] += 1
                else:
                    self.failures.append(f"{answer.status} {answer.text[:200]}")
            except (OSError, EOFError) as error:
                self.failures.append(f"{'keep-alive' if keep else 'new'}: {error!r}")
                await client.close()
            if not keep:
                await client.close()
        await client.close()


@contextlib.asynccontextmanager
async def load(kept: int = 4, fresh: int = 2) -> AsyncIterator[Load]:
    """`kept` clients with keep-alive, `fresh` with a connection a request."""
    made = Load()
    tasks = [asyncio.create_task(made._run(keep=number < kept)) for number in range(kept + fresh)]
    try:
        yield made
    finally:
        made._over = True
        await asyncio.gather(*tasks)
