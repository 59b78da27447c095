"""The thin transport where no daemon is well: nobody there, broken answers, and what it costs to import."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import pytest

from twinhull import home as homes
from twinhull.client import target as targets
from twinhull.client import thin
from twinhull.client.problems import UnreachableError, error_of
from twinhull.client.target import Target
from twinhull.errors import CannotRunError, ConflictError, NotFoundError, PermanentError, TemporaryError, UserError


class Script:
    """A server that sends fixed bytes to every client and hangs up."""

    def __init__(self, folder: str, answer: bytes) -> None:
        self.target = Target(socket=f"{folder}/s")
        self.received = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.target.socket)
        self._listener.listen()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self.received = connection.recv(65536)
            connection.sendall(self._answer)

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="th-") as path:
        yield path


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{{{",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000,
    ],
)
def test_answers_that_make_no_sense(folder: str, answer: bytes) -> None:
    script = Script(folder, answer)
    try:
        with pytest.raises(UnreachableError):
            thin.call("GET", "/v1/ping", target=script.target)
    finally:
        script.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 500 X\r\ncontent-length: 4\r\n\r\noops", PermanentError),
        (b"HTTP/1.1 403 X\r\ncontent-length: 0\r\n\r\n", UserError),
        (b'HTTP/1.1 404 X\r\ncontent-length: 20\r\n\r\n{"code":"not-found"}', NotFoundError),
    ],
)
def test_refusals_with_and_without_a_problem(folder: str, answer: bytes, kind: type[Exception]) -> None:
    script = Script(folder, answer)
    with pytest.raises(kind):
        thin.call("GET", "/v1/ping", target=script.target)
    script.close()


def test_informational_answers_are_skipped(folder: str) -> None:
    script = Script(folder, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    assert thin.call("GET", "/v1/ping", target=script.target) == {}
    script.close()


def test_a_websocket_that_is_none(folder: str) -> None:
    script = Script(folder, b"HTTP/1.1 101 Switching\r\nsec-websocket-accept: bogus\r\n\r\n")
    with pytest.raises(UnreachableError, match="WebSocket"):
        thin.websocket("/v1/run", target=script.target)
    script.close()


def test_events_over_several_lines_and_comments(folder: str) -> None:
    body = b': hello\n\ndata: {"a":\ndata: 1}\n\nevent: done\ndata: {}\n\n'
    script = Script(folder, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    assert list(thin.sse("GET", "/v1/events", target=script.target)) == [("message", {"a": 1}), ("done", {})]
    script.close()


def test_nobody_there(folder: str) -> None:
    with pytest.raises(UnreachableError, match="no daemon answers") as caught:
        thin.call("GET", "/v1/ping", target=Target(socket=f"{folder}/none"))
    assert "twinhull daemon" in caught.value.hint
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{folder}/stale")
    with pytest.raises(UnreachableError):
        thin.call("GET", "/v1/ping", target=Target(socket=f"{folder}/stale"))


def test_queries_are_encoded(folder: str) -> None:
    script = Script(folder, b"HTTP/1.1 204 X\r\n\r\n")
    query = {"a": "x &=?#/ü", "b": None, "c": True, "d": ["1", 2], "e": "\udcff", "f": ()}
    assert thin.call("GET", "/v1/" + thin.quote("a/b c"), query, target=script.target) is None
    script.close()
    assert script.received.startswith(b"GET /v1/a%2Fb%20c?a=x%20%26%3D%3F%23%2F%C3%BC&c=true&d=1&d=2&e=%FF HTTP/1.1\r\n")


@pytest.mark.parametrize("home", ["", "/tmp/x", "relative/folder"])
def test_the_socket_is_the_one_of_home(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWINHULL_HOST", raising=False)
    monkeypatch.setenv("TWINHULL_HOME", home)
    assert targets.current().socket == str(homes.current().socket)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [("https://h", "h", 7443), ("https://h:1/", "h", 1), ("https://[::1]:9", "::1", 9), ("https://10.0.0.1:7443", "10.0.0.1", 7443)],
)
def test_hosts(url: str, host: str, port: int) -> None:
    found = targets.parse(url, "t")
    assert (found.host, found.port, found.socket) == (host, port, "")
    assert "t" not in repr(found).removeprefix("Target(https")


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "h:1",
        "https://",
        "https://h:x",
        "https://h:0",
        "https://h:99999",
        "https://u@h",
        "https://h/p",
        "unix://rel",
        "https://[::1",
    ],
)
def test_hosts_that_are_none(url: str) -> None:
    with pytest.raises(UserError):
        targets.parse(url, "token")


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ü"])
def test_tokens_that_no_header_can_carry(token: str) -> None:
    with pytest.raises(UserError, match="token"):
        targets.parse("https://h", token)


def test_problems_become_the_errors_they_name() -> None:
    found = error_of({"code": "cannot-run", "detail": "d", "hint": "h", "exit_code": 127})
    assert isinstance(found, CannotRunError)
    assert (found.exit_code, found.message, found.hint) == (127, "d", "h")
    late = error_of({"code": "temporary", "detail": "d", "retry_after": 2.5})
    assert isinstance(late, TemporaryError)
    assert late.retry_after == 2.5
    assert isinstance(error_of({"code": "conflict"}), ConflictError)
    assert isinstance(error_of("nonsense", 502), PermanentError)
    assert isinstance(error_of({"code": "cannot-run", "exit_code": "x"}), CannotRunError)


def test_it_imports_little() -> None:
    program = "import sys, twinhull.client.thin; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "src"}
    )
    heavy = {
        "ssl",
        "http.client",
        "email",
        "dataclasses",
        "asyncio",
        "pathlib",
        "urllib.parse",
        "logging",
        "pydantic",
        "httpx",
        "h11",
        "wsproto",
        "inspect",
    }
    assert not heavy & set(done.stdout.split())


def test_the_package_has_nothing_else() -> None:
    import twinhull.client as package

    with pytest.raises(AttributeError):
        package.Nonsense  # noqa: B018
