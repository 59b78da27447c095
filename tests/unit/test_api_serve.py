"""The listeners: the socket's mode and life, TCP with TLS, token and Host, and who is refused."""

from __future__ import annotations

import asyncio
import grp
import os
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from tests.fakes.server import Server, serving

from twinhull import home as homes
from twinhull.client import AsyncClient, Client, http, thin
from twinhull.client.problems import UnreachableError
from twinhull.client.target import Target
from twinhull.daemon import auth, serve
from twinhull.daemon.config import ApiConfig, Config
from twinhull.errors import ConflictError, UserError
from twinhull.home import Home

TOKEN = "correct-horse-battery-staple"


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="th-") as folder:
        yield homes.at(Path(folder))


# the UNIX socket


def test_mode_and_group_of_the_socket(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "GROUP", "daemon")
    with serving(home):
        found = home.socket.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert found.st_gid == grp.getgrnam("daemon").gr_gid
        assert [path.name for path in home.run.iterdir()] == ["twinhull.sock"]
    assert list(home.run.iterdir()) == []


def test_without_the_group_the_socket_is_still_closed_to_others(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "GROUP", "no-such-group-here")
    with serving(home):
        assert stat.S_IMODE(home.socket.stat().st_mode) == 0o660


def test_a_live_daemon_is_left_alone(home: Home) -> None:
    with serving(home), pytest.raises(ConflictError, match="already listens"), serving(home):
        pass


def test_a_stale_socket_is_replaced(home: Home) -> None:
    home.run.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(home.socket))
    with serving(home), Client(str(home.socket)) as client:
        assert client.ping()["api"] == "1"


def test_the_socket_of_a_successor_is_not_removed(home: Home) -> None:
    with serving(home):
        home.socket.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(home.socket))
    assert home.socket.exists()


def test_a_path_too_long_for_a_socket_address(home: Home) -> None:
    long = homes.at(home.state.parent / ("d" * 100))
    with serving(long) as server:
        assert Client(str(long.socket)).ping()["pid"] == os.getpid()
        assert list(Client(str(long.socket)).run(_spec("echo", "x"))[1].output()) == [(1, b"x\n")]
        assert server.engine.calls


async def test_a_path_too_long_for_the_async_client(home: Home) -> None:
    long = homes.at(home.state.parent / ("d" * 100))
    with serving(long):
        async with AsyncClient(str(long.socket)) as client:
            assert (await client.ping())["pid"] == os.getpid()


def test_peer_credentials() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        assert auth.peer_of(left) == auth.Peer(os.getpid(), os.getuid(), os.getgid())
    with socket.socket(socket.AF_INET) as other:
        assert auth.peer_of(other) is None


@pytest.mark.parametrize("sent", [b"", b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_that_sends_no_request_in_time_is_closed(home: Home, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(serve, "FIRST_REQUEST", 0.1)
    with serving(home), socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(10)
        slow.connect(str(home.socket))
        slow.sendall(sent)
        assert slow.recv(100) == b""
        duplex = thin.websocket("/v1/run", None, {"image": "busybox", "command": ["sleep"]}, target=Target(socket=str(home.socket)))
        next(duplex.messages())
        time.sleep(0.3)  # beyond the time: nothing may happen to a session, and there is no event for that
        duplex.send_signal("TERM")
        assert list(duplex.messages())[-1] == (0, {"exit": 143})
        duplex.close()


def test_what_is_not_http_gets_a_problem(home: Home) -> None:
    with serving(home), socket.socket(socket.AF_UNIX) as odd:
        odd.connect(str(home.socket))
        odd.sendall(b"HELO example\r\n\r\n")
        odd.settimeout(10)
        assert b"application/problem+json" in odd.recv(4096)


# TCP


@pytest.fixture(scope="module")
def certificate() -> Iterator[tuple[Path, Path]]:
    """A self-signed one for localhost."""
    with tempfile.TemporaryDirectory() as folder:
        cert, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
            check=True,
            capture_output=True,
        )  # fmt: skip
        yield cert, key


@pytest.fixture
def remote(home: Home, certificate: tuple[Path, Path]) -> Iterator[tuple[Server, int]]:
    """A server on TCP, and its port."""
    with serving(home, Config(api=tcp(home, certificate))) as server:
        yield server, _port(server)


def tcp(home: Home, certificate: tuple[Path, Path], **more: Any) -> ApiConfig:
    token = home.state.parent / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    return ApiConfig(
        **{"tcp": f"127.0.0.1:{_free_port()}", "cert": str(certificate[0]), "key": str(certificate[1]), "token_file": str(token)} | more
    )


def test_both_clients_over_tls(remote: tuple[Server, int], certificate: tuple[Path, Path]) -> None:
    _, port = remote
    with Client(f"https://localhost:{port}", token=TOKEN, ca=str(certificate[0])) as client:
        view = client.create(_spec("sleep"), start=True)
        assert client.exec(view.id, _process("cat")).communicate(b"x" * 1_000_000) == (0, b"x" * 1_000_000, b"")
        assert sum(len(chunk) for chunk in client.export(view.id)) == 10_240
        assert next(client.events()).action == "create"


async def test_the_async_client_over_tls(remote: tuple[Server, int], certificate: tuple[Path, Path]) -> None:
    _, port = remote
    async with AsyncClient(f"https://127.0.0.1:{port}", token=TOKEN, ca=str(certificate[0])) as client:
        _, session = await client.run(_spec("echo", "hi"))
        assert [chunk async for chunk in session.output()] == [(1, b"hi\n")]
        assert await session.wait() == 0


@pytest.mark.parametrize("token", ["wrong-horse-battery-staple", TOKEN + "x", TOKEN[:-1], "x"])
def test_a_wrong_token(remote: tuple[Server, int], certificate: tuple[Path, Path], token: str) -> None:
    server, port = remote
    for call in (lambda c: c.info(), lambda c: c.run(_spec("true"))):
        with pytest.raises(UserError, match="token"):
            call(Client(f"https://localhost:{port}", token=token, ca=str(certificate[0])))
    assert server.engine.calls == []


async def test_a_wrong_token_of_the_async_client(remote: tuple[Server, int], certificate: tuple[Path, Path]) -> None:
    _, port = remote
    async with AsyncClient(f"https://localhost:{port}", token="wrong-horse", ca=str(certificate[0])) as client:
        with pytest.raises(UserError, match="token"):
            await client.info()
        with pytest.raises(UserError, match="token"):
            await client.run(_spec("true"))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1", 200),
        ("[::1]:7", 200),
        ("LOCALHOST:1", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ],
)
def test_the_host_header_must_name_us(host: str, status: int) -> None:
    assert _through_gate({"host": host, "authorization": f"Bearer {TOKEN}"}) == status


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer é", 401),
    ],
)
def test_the_authorization_header(header: str, status: int) -> None:
    assert _through_gate({"host": "localhost", "authorization": header}) == status


@pytest.mark.parametrize(("token", "status"), [("wrong-horse-battery-staple", 401), (TOKEN, 200)])
def test_metrics_need_the_token_like_everything(
    remote: tuple[Server, int], certificate: tuple[Path, Path], token: str, status: int
) -> None:
    _, port = remote
    there = Target(host="localhost", port=port, token=token, ca=str(certificate[0]))
    with http.Connection(there).exchange("GET", "/v1/metrics", None) as answer:
        assert answer.status == status


def test_a_name_from_the_configuration() -> None:
    assert _through_gate({"host": "build7.example:7443", "authorization": f"Bearer {TOKEN}"}, ("Build7.example",)) == 200


def test_plain_http_on_the_tls_port_gets_nothing(remote: tuple[Server, int]) -> None:
    server, port = remote
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"GET /v1/ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = plain.recv(100)
    assert not answer.startswith(b"HTTP/1.1 200")
    assert server.engine.calls == []


def test_a_certificate_of_nobody_is_refused_by_the_clients(remote: tuple[Server, int]) -> None:
    _, port = remote
    with pytest.raises(UnreachableError, match="certificate"):
        Client(f"https://localhost:{port}", token=TOKEN).ping()


@pytest.mark.parametrize("missing", ["cert", "key", "token_file"])
def test_tcp_without_tls_or_token_is_not_served(home: Home, certificate: tuple[Path, Path], missing: str) -> None:
    with pytest.raises(UserError, match=f"without api.{missing}"), serving(home, Config(api=tcp(home, certificate, **{missing: ""}))):
        pass
    assert not home.socket.exists()


def test_a_port_that_is_taken(home: Home, certificate: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConflictError, match="listen on"), serving(home, Config(api=tcp(home, certificate, tcp=address))):
            pass
    assert not home.socket.exists()


def test_a_broken_certificate(home: Home, certificate: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="load the TLS certificate"), serving(home, Config(api=tcp(home, (certificate[1], certificate[1])))):
        pass


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"short", 0o600, "at least"),
        (b"a" * 20 + b" " + b"b" * 20, 0o600, "printable"),
        (b"a" * 20, 0o640, "readable by others"),
        (None, 0, "No such file"),
    ],
)
def test_tokens_that_are_not_good_enough(tmp_path: Path, content: bytes | None, mode: int, words: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(UserError, match=words) as caught:
        auth.read_token(path)
    assert "aaaa" not in str(caught.value)


def test_a_client_that_resets_its_connection_leaves_the_server_well(remote: tuple[Server, int], certificate: tuple[Path, Path]) -> None:
    server, port = remote
    for target in (Target(socket=str(server.home.socket)), Target(host="localhost", port=port, token=TOKEN, ca=str(certificate[0]))):
        duplex = thin.websocket("/v1/run", None, {"image": "busybox", "command": ["flood"]}, target=target)
        next(duplex.messages())
        linger = struct.pack("ii", 1, 0)
        duplex._connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        duplex._connection.socket.close()
    server.wait_until(lambda: not server.app.state.context.streams)
    assert Client(str(server.home.socket)).ping()


def _through_gate(headers: dict[str, str], hosts: tuple[str, ...] = ()) -> int:
    """The status of a request with these headers that reaches the gate."""
    statuses: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    raw = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": raw}
    asyncio.run(auth.Gate(app, TOKEN, hosts)(scope, receive, send))
    return statuses[0]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _port(server: Server) -> int:
    return int(server.config.api.tcp.rpartition(":")[2])


def _spec(*command: str) -> Any:
    from twinhull.spec.instance import InstanceSpec

    return InstanceSpec(image="busybox", command=command)


def _process(*argv: str) -> Any:
    from twinhull.instance.base import Process

    return Process(argv, ())


assert shutil.which("openssl"), "openssl makes the tests' certificate"
