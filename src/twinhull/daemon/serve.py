"""Serving the application: a UNIX socket always, TCP with TLS and a token if configured; a graceful end.

Laws: the socket appears under its name only when it is ready and has its mode and group; one daemon a home; when `serve` is
cancelled, streams end, calls under way finish or are cancelled, all within STOP_SECONDS, and the socket is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from twinhull.daemon.api.bodies import MAX_JSON
from twinhull.daemon.api.context import Context
from twinhull.daemon.api.problems import RefusedError, answer
from twinhull.daemon.auth import Gate, peer_of, read_token
from twinhull.daemon.config import ApiConfig, Config, parse_address
from twinhull.errors import ConflictError, UserError
from twinhull.home import Home

GROUP = "twinhull"
STOP_SECONDS = 3.0
_STREAMS_SECONDS = 0.5
"""Of those, for streams to say goodbye."""
_CALLS_SECONDS = 2.0
"""Of those, for calls under way to finish."""
_MAX_HEAD = 64 * 1024
_MAX_MESSAGE = MAX_JSON
_BACKLOG = 512
FIRST_REQUEST = 30.0
"""Seconds from a connection's begin until the head of its first request must be there."""
_MAX_PATH = 107
_log = logging.getLogger("twinhull.api")


class HttpProtocol(H11Protocol):
    """h11's, which bounds a request's head; every request knows its peer and its transport, and has to come in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Look at the peer once a connection."""
        super().connection_made(transport)
        peer = peer_of(transport.get_extra_info("socket"))
        self.app_state = {**self.app_state, "peer": peer, "transport": transport}
        self._first = self.loop.call_later(FIRST_REQUEST, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more is expected."""
        self._first.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """For what isn't HTTP, or has too long a head: a problem, as everywhere."""
        refusal = answer(RefusedError(400, msg))
        headers = [*refusal.raw_headers, (b"connection", b"close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=bytes(refusal.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _too_slow(self) -> None:
        if self.cycle is None and self.transport.get_protocol() is self:
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's, without its signal handlers (signals are the daemon's) and without its clock: nothing wakes an idle daemon."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Nothing."""
        yield

    async def main_loop(self) -> None:
        """Until `ended`. uvicorn's own ticks ten times a second, for a Date header that isn't sent."""
        await self.ended.wait()


async def serve(app: FastAPI, home: Home, config: Config, ready: Callable[[], None]) -> None:
    """Serve until cancelled; `ready()` is called once every listener answers. Raises ConflictError if a daemon is there already."""
    context: Context = app.state.context
    with ExitStack() as stack:
        servers = [_Server(_settings(app, None))]
        sockets = [stack.enter_context(unix_listener(home.socket))]
        if config.api.tcp:
            servers.append(_Server(_settings(_gated(app, config.api), config.api)))
            sockets.append(stack.enter_context(_tcp_listener(config.api.tcp)))
        async with _running(servers, sockets):
            ready()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await _say_goodbye(context)
    await _cancel_all(context.detached)


@contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """A listening socket under `path`, mode 0660, group twinhull if there is one. A stale one is replaced; ConflictError for a live one.

    Two daemons that start at the same moment are told apart by daemon/lock.py, not here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        short = f"/proc/self/fd/{folder}/{path.name}" if len(os.fsencode(path)) > _MAX_PATH - 8 else str(path)
        _refuse_if_alive(short, path)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        _bind(listener, short)
        number = os.stat(short).st_ino
        stack.callback(_unlink_own, short, number)
        yield listener


def _refuse_if_alive(name: str, path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            probe.connect(name)
            raise _taken(path)


def _taken(path: Path) -> ConflictError:
    return ConflictError(f"a daemon already listens on {path}", "stop it with: twinhull daemon stop")


def _bind(listener: socket.socket, name: str) -> None:
    """Bind and listen under a temporary name, give mode and group, rename into place."""
    temporary = f"{name}.{os.getpid() % 100000:x}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.fchmod(listener.fileno(), 0o600)  # the mode that bind gives to the new name
    listener.bind(temporary)
    try:
        listener.listen(_BACKLOG)
        os.chown(temporary, -1, _group())
        os.chmod(temporary, 0o660)
        os.rename(temporary, name)
    except BaseException:
        os.unlink(temporary)
        raise


def _group() -> int:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return -1


def _unlink_own(name: str, number: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.stat(name).st_ino == number:
            os.unlink(name)


@contextmanager
def _tcp_listener(address: str) -> Iterator[socket.socket]:
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            kind = ConflictError if error.errno == errno.EADDRINUSE else UserError
            raise kind(f"listen on {address}: {error.strerror}") from error
        listener.listen(_BACKLOG)
        _log.info("listening on %s:%d", *listener.getsockname()[:2])
        yield listener


def _gated(app: FastAPI, api: ApiConfig) -> Gate:
    api.check()
    return Gate(app, read_token(Path(api.token_file)), api.hosts)


def _settings(app: Any, tls: ApiConfig | None) -> uvicorn.Config:
    """uvicorn as measured (docs/api.md, "Server"): h11, websockets' sans-I/O core, no compression, no pings of its own.

    A ping's answer can't be read while a client's stdin is held back, so uvicorn's own pings would end healthy sessions.
    """
    settings = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws=WebSocketsSansIOProtocol,
        ws_max_size=_MAX_MESSAGE,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_CALLS_SECONDS,  # type: ignore[arg-type]
        h11_max_incomplete_event_size=_MAX_HEAD,
    )
    settings.load()
    if tls is not None:
        settings.ssl = _tls(tls)
    return settings


def _tls(api: ApiConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(api.cert, api.key)
    except OSError as error:
        raise UserError(f"load the TLS certificate {api.cert} and key {api.key}: {error}") from error
    return context


@asynccontextmanager
async def _running(servers: list[_Server], sockets: list[socket.socket]) -> AsyncIterator[None]:
    """The servers, started; ended gracefully on the way out."""
    tasks = [
        asyncio.create_task(server.serve(sockets=[sock]), name=f"api-{number}")
        for number, (server, sock) in enumerate(zip(servers, sockets, strict=True))
    ]
    try:
        await _started(servers, tasks)
        yield
    finally:
        for server in servers:
            server.ended.set()
        await asyncio.wait(tasks)
        for server in servers:
            await _cancel_all(server.server_state.tasks)
            for connection in list(server.server_state.connections):
                connection.transport.abort()
        for task in tasks:
            task.result()


async def _started(servers: list[_Server], tasks: list[asyncio.Task[None]]) -> None:
    """uvicorn has no hook for this: its startup is a few turns of the loop."""
    while not all(server.started for server in servers):
        for task in tasks:
            if task.done():
                task.result()
        await asyncio.sleep(0)


async def _say_goodbye(context: Context) -> None:
    """Tell streams to end, and let them."""
    context.closing.set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STREAMS_SECONDS):
            await context.idle.wait()


async def _cancel_all(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel, and wait a little."""
    pending = set(tasks)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=STOP_SECONDS - _CALLS_SECONDS - _STREAMS_SECONDS)
