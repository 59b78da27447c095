"""Who may speak to the API.

On the UNIX socket the file's mode decides (0660, group twinhull), and the kernel tells who the peer is. On TCP a bearer token
decides, over TLS only, and the Host header must name this machine, so that a web page can't reach the API by rebinding a DNS name.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from fastapi import Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from twinhull.daemon.api.problems import RefusedError, answer
from twinhull.errors import UserError

_LEAST_TOKEN = 16
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a UNIX socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"uid={self.uid} pid={self.pid}"


def peer_of(sock: socket.socket) -> Peer | None:
    """SO_PEERCRED; None for TCP."""
    if sock.family != socket.AF_UNIX:
        return None
    return Peer(*_CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


def read_token(path: Path) -> str:
    """The token in a file that only its owner can read. Raises UserError."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            token = file.read(4096).strip()
    except OSError as error:
        raise UserError(f"read the API token {path}: {error.strerror}") from error
    if mode & 0o077:
        raise UserError(f"the API token {path} is readable by others (mode {mode:04o})", f"chmod 600 {path}")
    if len(token) < _LEAST_TOKEN or any(not 33 <= byte <= 126 for byte in token):
        raise UserError(
            f"the API token {path} is not at least {_LEAST_TOKEN} printable characters", "head -c 32 /dev/urandom | base64 > token"
        )
    return token.decode("ascii")


class Gate:
    """ASGI in front of the TCP listener: Host, then token; everything else is 401 or 421."""

    def __init__(self, app: ASGIApp, token: str, hosts: tuple[str, ...] = ()) -> None:
        self._app = app
        self._digest = _digest(token.encode())
        self._hosts = frozenset(name.lower() for name in (*hosts, "localhost", socket.gethostname()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await refusal(scope, receive, send)
        else:
            await _refuse_websocket(refusal, receive, send)

    def _refusal(self, headers: Headers) -> Response | None:
        if not self._names_us(headers.get("host", "")):
            return answer(RefusedError(421, "the Host header doesn't name this daemon", "add the name to api.hosts in config.toml"))
        scheme, _, token = headers.get("authorization", "").partition(" ")
        good = hmac.compare_digest(_digest(token.strip().encode("latin-1")), self._digest)
        if scheme.lower() == "bearer" and good:
            return None
        refusal = answer(RefusedError(401, "a valid bearer token is needed", "set TWINHULL_TOKEN"))
        refusal.headers["www-authenticate"] = "Bearer"
        return refusal

    def _names_us(self, host: str) -> bool:
        """Names from the configuration, localhost, the host's own; any literal address (it can't be rebound)."""
        name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


async def _refuse_websocket(refusal: Response, receive: Receive, send: Send) -> None:
    """An ordinary HTTP answer in place of the handshake."""
    await receive()
    await send({"type": "websocket.http.response.start", "status": refusal.status_code, "headers": refusal.raw_headers})
    await send({"type": "websocket.http.response.body", "body": bytes(refusal.body)})


def _digest(token: bytes) -> bytes:
    """Of equal length whatever the token, so that comparing takes the same time."""
    return hashlib.sha256(token).digest()
