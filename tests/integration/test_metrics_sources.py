"""Queues and queries at the real servers: NATS with JetStream, Redis, Prometheus, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinhull.errors import TemporaryError, TwinhullError
from twinhull.metrics import sources
from twinhull.spec.app import ScaleTarget

pytestmark = pytest.mark.usefixtures("space")
HOST = "127.0.0.1"
SERVERS = {
    "nats": (4222, "nats-server -c {folder}/nats.conf"),
    "redis": (6379, "redis-server --bind 127.0.0.1 --dir {folder} --requirepass word --save ''"),
    "prometheus": (
        9090,
        "prometheus --config.file={folder}/empty.yml --storage.tsdb.path={folder}/tsdb --web.listen-address=127.0.0.1:9090",
    ),
}
NATS = f"port: 4222\nhost: {HOST}\nauthorization {{ user: shop, password: word }}\njetstream {{ store_dir: FOLDER }}\n"


@pytest.fixture
def server(request: pytest.FixtureRequest, space: None, tmp_path: Path) -> Iterator[str]:
    """One of SERVERS, ready; its address."""
    port, command = SERVERS[request.param]
    (tmp_path / "nats.conf").write_text(NATS.replace("FOLDER", str(tmp_path)))
    (tmp_path / "empty.yml").touch()
    argv = ["sh", "-c", f"exec {command.format(folder=tmp_path)}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 30
        while socket.socket().connect_ex((HOST, port)):
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.02)
        yield f"{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(20)


def say(port: int, *lines: str) -> str:
    """Talk to a server, and hear it until it answers the last line, a PING."""
    with socket.create_connection((HOST, port), 5) as line:
        line.sendall("".join(f"{text}\r\n" for text in lines).encode())
        heard = b""
        while b"PONG\r\n" not in heard:
            heard += line.recv(65536)
        return heard.decode()


def jetstream(subject: str, body: str = "") -> list[str]:
    return [f"PUB {subject} _INBOX.x {len(body)}", body]


@pytest.mark.parametrize("server", ["nats"], indirect=True)
async def test_a_consumer_of_jetstream(server: str) -> None:
    target = ScaleTarget("queue", 5, f"nats://shop@queue:{server.partition(':')[2]}/SHOP/shipping?secret=queue_password")
    asked: list[str] = []

    def secret(name: str) -> str:
        asked.append(name)
        return "word\n"

    async def read() -> float:
        return await sources.read(target, {"queue": HOST}.__getitem__, secret)

    with pytest.raises(TemporaryError, match=r"(consumer|stream) not found"):
        await read()
    hello = 'CONNECT {"user":"shop","pass":"word","verbose":false}'
    stream = '{"name":"SHOP","subjects":["shop.*"]}'
    consumer = '{"stream_name":"SHOP","config":{"durable_name":"shipping","ack_policy":"explicit"}}'
    say(
        4222,
        hello,
        *jetstream("$JS.API.STREAM.CREATE.SHOP", stream),
        *jetstream("$JS.API.CONSUMER.DURABLE.CREATE.SHOP.shipping", consumer),
        "PING",
    )
    assert await read() == 0
    say(4222, hello, *(line for _ in range(3) for line in jetstream("shop.paid", "order")), "PING")
    async with asyncio.timeout(10):
        while await read() < 3:  # stored a moment after they were sent
            pass
    assert await read() == 3
    say(4222, hello, "SUB _INBOX.x 1", *jetstream("$JS.API.CONSUMER.MSG.NEXT.SHOP.shipping"), "PING")
    assert await read() == 3  # one is being worked on
    with pytest.raises(TemporaryError, match="Authorization Violation"):
        await sources.read(target, {"queue": HOST}.__getitem__, lambda _name: "wrong")
    assert set(asked) == {"queue_password"}


@pytest.mark.parametrize("server", ["redis"], indirect=True)
async def test_a_list_in_redis(server: str) -> None:
    target = ScaleTarget("queue", 5, "redis://:word@cache/3/jobs")
    assert await sources.read(target, lambda _host: HOST) == 0
    say(6379, "AUTH word", "SELECT 3", "RPUSH jobs a b c", "SET text x", "PING")
    assert await sources.read(target, lambda _host: HOST) == 3
    for source, text in (
        ("redis://:word@cache/3/text", "WRONGTYPE"),
        ("redis://cache/jobs", "NOAUTH"),
        ("redis://:bad@cache/jobs", "WRONGPASS"),
    ):
        with pytest.raises(TemporaryError, match=text) as caught:
            await sources.read(ScaleTarget("queue", 5, source), lambda _host: HOST)
        assert ":word" not in caught.value.message


@pytest.mark.parametrize("server", ["prometheus"], indirect=True)
async def test_a_query_to_prometheus(server: str) -> None:
    async def read(query: str) -> float:
        return await sources.read(ScaleTarget("query", 1, f"http://metrics:9090/?query={query}"), lambda _host: HOST)

    while True:  # it listens before it is ready
        try:
            assert await read("vector(40) + 2") == 42
            break
        except TemporaryError as error:
            assert "Service Unavailable" in error.message or "status 503" in error.message
            await asyncio.sleep(0.05)
    assert await read("scalar(vector(1.5))") == 1.5
    for query, text in (
        ("absent(vector(1))", "gives nothing"),
        ("sum(", "parse error"),
        ("vector(0)/0", "no number"),
        ("vector(-1)", "no number"),
    ):
        with pytest.raises(TemporaryError, match=text):
            await read(query)


async def test_nobody_there_and_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TIMEOUT", 0.2)
    target = ScaleTarget("queue", 1, "redis://cache:7000/jobs")
    with pytest.raises(TemporaryError, match=r"read redis://cache:7000/0/jobs: "):
        await sources.read(target, lambda _host: HOST)
    with socket.create_server((HOST, 7000)) as silent:
        with pytest.raises(TemporaryError, match=r"no answer within 0\.2 s"):
            await sources.read(target, lambda _host: HOST)
        accepted, _ = silent.accept()
        accepted.settimeout(5)
        while accepted.recv(4096):  # the question, then the end: the connection isn't kept
            pass
        accepted.close()
    with pytest.raises(TwinhullError, match="no secret word"):
        await sources.read(ScaleTarget("queue", 1, "redis://cache/jobs?secret=word"), lambda _host: HOST)
