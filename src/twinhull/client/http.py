"""One HTTP/1.1 exchange over one socket, with little more than `socket` imported: the lower half of `thin`.

A connection serves one request ("Connection: close") or becomes a WebSocket. What the daemon sends is bounded: 64 KiB of
head, 64 MiB of a body that is read whole; streams are handed on as they come.
"""

from __future__ import annotations

import binascii
import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from twinhull.client.problems import UnreachableError
from twinhull.client.target import MAX_SOCKET_PATH, Target
from twinhull.errors import UserError

try:
    from _sha1 import sha1  # type: ignore[import-not-found]  # hashlib would load OpenSSL: a tenth of a hot verb's time
except ImportError:
    from hashlib import sha1

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
_READ = 64 * 1024
CONNECT_TIMEOUT = 10.0
"""Seconds to connect and to shake hands; what the daemon then takes has no limit."""
TAR, CHUNKED = "Content-Type: application/x-tar", "Transfer-Encoding: chunked"
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
START = "start it with: twinhull daemon --detach"


class Connection:
    """A connected socket and the bytes read from it too early."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.socket = _connect(target)
        self._buffer = b""
        self._position = 0

    def close(self) -> None:
        """Hang up; any number of times."""
        self.socket.close()

    def exchange(self, method: str, path: str, body: object) -> Response:
        """Send one request and read the head of its answer."""
        headers, chunks = body_of(body)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent: the answer says why
            self._send_request(method, path, [*headers, "Connection: close"], chunks)
        return self._head()

    def upgrade(self, path: str) -> Response | None:
        """Become a WebSocket: None; or the answer that says why not."""
        key = binascii.b2a_base64(os.urandom(16), newline=False)
        extra = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key.decode()}"]
        self._send_request("GET", path, extra, None)
        response = self._head()
        if response.status != 101:
            return response
        accept = binascii.b2a_base64(sha1(key + _WEBSOCKET_GUID).digest(), newline=False)
        if response.headers.get("sec-websocket-accept", "").encode() != accept:
            raise UnreachableError(f"{self.target.name} doesn't speak WebSocket")
        return None

    def receive(self, limit: int = _READ) -> bytes:
        """At most `limit` bytes: of what was read early, else of what comes next; b"" at the end."""
        if self._position < len(self._buffer):
            data = self._buffer[self._position : self._position + limit]
            self._position += len(data)
            return data
        return self._recv(limit)

    def early(self) -> bytes:
        """Take what was read beyond the head."""
        data, self._buffer = self._buffer[self._position :], b""
        self._position = 0
        return data

    def until(self, mark: bytes, limit: int) -> bytes:
        """Bytes up to `mark`, which is taken too and left out; UnreachableError if it doesn't come within `limit`."""
        while (end := self._buffer.find(mark, self._position)) < 0:
            data = self._recv(_READ)
            if not data:
                raise UnreachableError(f"the daemon at {self.target.name} hung up", START)
            self._buffer = self._buffer[self._position :] + data
            self._position = 0
            if len(self._buffer) > limit + _READ:
                raise UnreachableError(f"{self.target.name} sent no end of a line within {limit} bytes")
        found = self._buffer[self._position : end]
        self._position = end + len(mark)
        return found

    def _recv(self, limit: int) -> bytes:
        try:
            return self.socket.recv(limit)
        except ConnectionResetError:
            return b""

    def _send_request(self, method: str, path: str, headers: list[str], chunks: bytes | Iterable[bytes] | None) -> None:
        head = request_head(self.target, method, path, headers)
        if chunks is None or isinstance(chunks, bytes):
            self.socket.sendall(head + (chunks or b""))
            return
        self.socket.sendall(head)
        for chunk in chunks:
            if chunk:
                self.socket.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.socket.sendall(b"0\r\n\r\n")

    def _head(self) -> Response:
        """The head of the answer, informational ones skipped."""
        while True:
            raw = self.until(b"\r\n\r\n", MAX_HEAD)
            status, headers = parse_head(raw, self.target.name)
            if status == 101 or status >= 200:
                return Response(self, status, headers)


class Response:
    """An answer whose body hasn't been read yet. Use as a context manager, or `read()` it to the end."""

    def __init__(self, connection: Connection, status: int, headers: dict[str, str]) -> None:
        self._connection = connection
        self.status = status
        self.headers = headers
        """Names in lower case."""

    def read(self) -> bytes:
        """The whole body, at most 64 MiB, and close."""
        parts: list[bytes] = []
        size = 0
        with self:
            for chunk in self.chunks():
                parts.append(chunk)
                size += len(chunk)
                if size > MAX_BODY:
                    raise UnreachableError(f"the daemon sent more than {MAX_BODY} bytes")
        return b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes (tar streams). Raises UnreachableError if it ends too early."""
        if self.status in (204, 304):
            return iter(())
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunked()
        return self._sized(parse_size(self.headers.get("content-length", "0"), 10))

    def fileno(self) -> int:
        """The socket, for select and poll."""
        return self._connection.socket.fileno()

    def close(self) -> None:
        """Hang up; the daemon ends the stream."""
        self._connection.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _sized(self, left: int) -> Iterator[bytes]:
        while left > 0:
            chunk = self._connection.receive(min(left, _READ))
            if not chunk:
                raise UnreachableError("the daemon broke off its answer")
            yield chunk
            left -= len(chunk)

    def _chunked(self) -> Iterator[bytes]:
        while (size := parse_size(self._connection.until(b"\r\n", 128).decode("latin-1"), 16)) > 0:
            yield from self._sized(size)
            self._connection.until(b"\r\n", 2)


@contextlib.contextmanager
def socket_path(path: str) -> Iterator[str]:
    """A name for `path` that fits into sockaddr_un."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        yield path
        return
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


def request_head(target: Target, method: str, path: str, headers: list[str]) -> bytes:
    """A request up to its body. `path` must be encoded."""
    token = [f"Authorization: Bearer {target.token}"] if target.token else []
    lines = [f"{method} {path} HTTP/1.1", f"Host: {target.authority}", *token, *headers]
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"


@contextlib.contextmanager
def told_plainly(target: Target) -> Iterator[None]:
    """The system's errors while connecting as ours."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{target.name}: permission denied", "become a member of the group twinhull, or root") from error
    except OSError as error:
        raise UnreachableError(f"no daemon answers at {target.name}: {error.strerror or error or 'no answer in time'}", START) from error


def _connect(target: Target) -> socket.socket:
    with told_plainly(target):
        return _connect_unix(target.socket) if target.socket else _connect_tls(target)


def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_path(path) as name:
            sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_tls(target: Target) -> socket.socket:
    import ssl

    context = ssl.create_default_context(cafile=target.ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    raw = socket.create_connection((target.host, target.port), timeout=CONNECT_TIMEOUT)
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped = context.wrap_socket(raw, server_hostname=target.host)
        wrapped.settimeout(None)
    except BaseException:
        raw.close()
        raise
    return wrapped


def body_of(body: object) -> tuple[list[str], bytes | Iterable[bytes] | None]:
    """Headers and content: bytes as they are, an iterator as chunks, anything else as JSON."""
    if body is None:
        return ["Content-Length: 0"], None
    if isinstance(body, bytes):
        return [TAR, f"Content-Length: {len(body)}"], body
    if hasattr(body, "__next__"):
        stream: Any = body
        return [TAR, CHUNKED], stream
    data = json.dumps(body).encode()
    return ["Content-Type: application/json", f"Content-Length: {len(data)}"], data


def parse_head(raw: bytes, name: str) -> tuple[int, dict[str, str]]:
    """Status and headers, names in lower case. Raises UnreachableError."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise UnreachableError(f"{name} doesn't speak HTTP")
    headers = {}
    for line in lines:
        key, _, value = line.partition(":")
        headers[key.strip().lower()] = value.strip()
    return int(rest[:3]), headers


def parse_size(text: str, base: int) -> int:
    """Of a body, or of a chunk (whose extensions are ignored)."""
    digits = text.partition(";")[0].strip()
    try:
        size = int(digits, base)
    except ValueError:
        size = -1
    if size < 0:
        raise UnreachableError(f"the daemon sent an answer of {digits[:20]!r} bytes")
    return size
