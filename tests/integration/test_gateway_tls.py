"""The gateway and TLS: certificates of one's own, by ACME from Let's Encrypt's test server, passing through by name; HTTP/2 and gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from cryptography import x509
from tests import pebble
from tests.integration.gateway_lab import HTTPS, PORT, SETTINGS, Client, ask, backend, eventually, gateway, load, origins
from tests.pebble import self_signed

from twinhull.activator.base import Sleeper
from twinhull.activator.local import LocalActivator
from twinhull.errors import UserError
from twinhull.gateway.base import Backend, Server
from twinhull.home import Home
from twinhull.spec.app import RouteSpec

pytestmark = pytest.mark.usefixtures("space")


@pytest.fixture
def home(proxy_home: Home) -> Home:
    return proxy_home


def client(host: str, roots: Path | None, *protocols: str) -> Client:
    """Over TLS; without `roots` it believes everything."""
    context = ssl.create_default_context(cafile=roots)
    if roots is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    return Client(port=HTTPS, ssl=context, server_hostname=host)


async def serial(host: str, roots: Path | None = None) -> int:
    """Of the certificate that is served for a host."""
    connection = client(host, roots)
    _, writer = await connection.open()
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    await connection.close()
    return x509.load_der_x509_certificate(found).serial_number


async def test_a_certificate_of_ones_own_and_the_way_to_it(home: Home) -> None:
    pem = home.config / "certificates/any-name.pem"
    async with origins("a") as (a,), gateway(home) as gate:
        route = {"tls": "own", "host": "shop.test"}
        with pytest.raises(UserError, match=r"no certificate for shop\.test"):
            await gate.apply((backend(a, **route),))
        self_signed(pem, "shop.test", "*.shop.test")
        await gate.apply((backend(a, **route),))
        secure = client("shop.test", pem)
        assert (await secure.ask(host="shop.test")).text == "a"
        assert a.requests[0].headers["x-forwarded-proto"] == "https"
        await secure.close()
        redirected = await ask("/x?y", host="shop.test")
        assert (redirected.status, redirected.headers["location"]) == (308, "https://shop.test/x?y")
        with pytest.raises(ssl.SSLError):
            await serial("other.test")
        before = (await serial("shop.test"), await gate._master.runtime.workers())
        self_signed(pem, "shop.test", "*.shop.test")
        await gate.apply((backend(a, **route),))
        assert await serial("shop.test", pem) != before[0]
        assert await gate._master.runtime.workers() == before[1]


@contextlib.asynccontextmanager
async def authority(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """Pebble, which asks the gateway on port 80 for proofs, and a DNS server that leads every name to it: (directory's URL, its root)."""
    commands, directory, root = pebble.commands(folder)
    with (folder / "pebble.log").open("wb") as log:
        running = [subprocess.Popen(argv, env=pebble.ENVIRONMENT, stdout=log, stderr=log) for argv in commands]
    try:

        async def ready() -> bool:
            for port in (8055, 14000):
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                except OSError:
                    return False
            return True

        await eventually(ready)
        yield directory, root
    finally:
        for one in running:
            one.kill()
            one.wait()


async def test_certificates_come_by_acme_and_are_renewed_without_a_reload(home: Home) -> None:
    folder = home.state.parent / "acme"
    folder.mkdir()
    async with authority(folder) as (directory, root), origins("a", "b") as (a, b):
        settings = dataclasses.replace(SETTINGS, acme_directory=directory, acme_ca=str(root), acme_email="who@shop.test")
        async with gateway(home, settings) as gate:
            await gate.apply((backend(a, tls="acme", host="shop.test"), backend(b, name="b/b")))

            async def served() -> bool:
                with contextlib.suppress(OSError):
                    return bool(await serial("shop.test"))
                return False

            await eventually(served, 60)
            before = (await serial("shop.test"), await gate._master.runtime.workers())
            assert await gate.renewals.due(0) == []
            assert await gate.renewals.due(1e12) == ["shop.test"]
            held = client("shop.test", None)
            assert (await held.ask(host="shop.test")).text == "a"
            async with load() as running:
                await gate.renewals.renew("shop.test")
                await running.more(100)
            assert running.failures == []
            assert await serial("shop.test") != before[0]
            assert await gate._master.runtime.workers() == before[1]
            assert (await held.ask(host="shop.test")).text == "a"
            await held.close()
            assert (home.state / "gateway/acme/shop.test.pem").stat().st_mode & 0o777 == 0o600
        assert (folder / "pebble.log").read_text().count("POST /order-plz") >= 2


async def test_by_name_what_is_passed_through_and_what_is_decrypted(home: Home) -> None:
    own, theirs = home.config / "certificates/web.pem", home.state.parent / "db.pem"
    self_signed(own, "web.test")
    self_signed(theirs, "db.test", "*.db.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(theirs)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"db:" + await reader.readline())
        writer.close()

    database = await asyncio.start_server(talk, "127.0.0.30", 5432, ssl=context)
    async with origins("a") as (a,), gateway(home) as gate:
        passed = tuple(RouteSpec(host, port=5432, protocol="tcp") for host in ("db.test", "*.db.test"))
        await gate.apply((backend(a, tls="own"), Backend("shop/db", passed, (Server("db", "127.0.0.30"),))))
        for host in ("db.test", "one.db.test"):
            reader, writer = await client(host, theirs).open()
            writer.write(b"hello\n")
            assert await reader.read() == b"db:hello\n"
            writer.close()
        secure = client("web.test", own)
        assert (await secure.ask()).text == "a"
        assert a.requests[0].headers["x-forwarded-for"] == "127.0.0.1"
        await secure.close()
    database.close()
    await database.wait_closed()


async def test_http2_and_grpc_over_both_entrances(home: Home) -> None:
    """gRPC's marks: HTTP/2 all the way, and trailers."""
    pem = home.config / "certificates/rpc.pem"
    self_signed(pem, "rpc.test")
    server = await asyncio.start_server(_grpc_server, "127.0.0.40", PORT)
    async with origins("a") as (a,), gateway(home) as gate:
        routes = (RouteSpec("rpc.test", port=PORT, protocol="h2c"), RouteSpec("rpc.test", port=PORT, protocol="h2c", tls="own"))
        web = (RouteSpec("rpc.test", "/web", port=PORT, tls="own"), RouteSpec("rpc.test", "/web", port=PORT))
        await gate.apply((Backend("shop/rpc", routes, (Server("rpc", "127.0.0.40"),)), Backend("shop/web", web, (a.server,))))
        clear = await asyncio.open_connection("127.0.0.1", 80)
        secure = await client("rpc.test", pem, "h2").open()
        assert secure[1].get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        for streams in (clear, secure):
            assert await _grpc_call(*streams) == (b"you said hello", "0")
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-s", "-w", " %{http_version}", "--http2", "--cacert", str(pem)),
            *("--resolve", "rpc.test:443:127.0.0.1", "https://rpc.test/web"),
            stdout=subprocess.PIPE,
        )
        assert (await curl.communicate())[0] == b"a 2"
        for _, writer in (clear, secure):
            writer.close()
    server.close()


async def test_a_grpc_stream_goes_both_ways_through_the_activator_and_gets_a_status_without(home: Home) -> None:
    server = await asyncio.start_server(_grpc_chat, "127.0.0.40", PORT)
    stand_in = LocalActivator(home)
    await stand_in.open()
    async with gateway(home) as gate:
        await stand_in.apply([Sleeper("shop/rpc", raw_ports=(PORT,))])
        await gate.apply(
            (Backend("shop/rpc", (RouteSpec("rpc.test", port=PORT, protocol="h2c"),), (), stand_in.address("shop/rpc", PORT)),)
        )
        call = _Call(*await asyncio.open_connection("127.0.0.1", 80))
        await call.say(1, b"one")
        stand_in.ready("shop/rpc", ("127.0.0.40",))
        assert await call.until(h2.events.DataReceived) == [":status 200", "one"]
        await call.say(1, b"two", end=True)
        assert await call.until(h2.events.StreamEnded) == ["two", "grpc-status 0"]
        stand_in.ready("shop/rpc", ())
        await call.say(3, b"held", end=True)

        async def held() -> bool:
            return stand_in.waiting("shop/rpc") == 1

        await eventually(held)
        await stand_in.close()
        assert (await call.until(h2.events.ResponseReceived))[0] == ":status 503"
        call.writer.close()
    server.close()


class _Call:
    """One HTTP/2 connection of a gRPC client; a message is a piece of data here."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._connection = h2.connection.H2Connection()
        self._connection.initiate_connection()
        self._opened: set[int] = set()

    async def say(self, stream: int, message: bytes, *, end: bool = False) -> None:
        if stream not in self._opened:
            self._opened.add(stream)
            fields = {":method": "POST", ":scheme": "http", ":authority": "rpc.test", ":path": "/Shop/Chat", "te": "trailers"}
            self._connection.send_headers(stream, list(fields.items()))
        self._connection.send_data(stream, message, end_stream=end)
        self.writer.write(self._connection.data_to_send())

    async def until(self, last: type[h2.events.Event]) -> list[str]:
        """What came, up to an event of this kind: status, data, grpc-status."""
        found: list[str] = []
        async with asyncio.timeout(20):
            while True:
                data = await self.reader.read(65536)
                assert data, found
                events = self._connection.receive_data(data)
                self.writer.write(self._connection.data_to_send())
                for event in events:
                    if isinstance(event, h2.events.DataReceived) and event.data:
                        found.append(event.data.decode())
                    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        pairs = [(bytes(name).decode(), bytes(value).decode()) for name, value in event.headers]
                        found += [f"{name} {value}" for name, value in pairs if name in (":status", "grpc-status")]
                if any(isinstance(event, last) for event in events):
                    return found


async def _grpc_chat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says each message again at once, and at the end that all is well."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    while data := await reader.read(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
            if isinstance(event, h2.events.DataReceived):
                connection.send_data(event.stream_id, event.data)
            if isinstance(event, h2.events.StreamEnded):
                connection.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        writer.write(connection.data_to_send())
    writer.close()


async def _grpc_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    while data := await reader.read(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                connection.send_data(event.stream_id, b"you said " + event.data)
                connection.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        writer.write(connection.data_to_send())
    writer.close()


async def _grpc_call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bytes, str]:
    """(the answer's body, grpc-status)."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    fields = {":method": "POST", ":scheme": "http", ":authority": "rpc.test", ":path": "/Shop/Say", "content-type": "application/grpc"}
    connection.send_headers(1, [*fields.items(), ("te", "trailers")])
    connection.send_data(1, b"hello", end_stream=True)
    writer.write(connection.data_to_send())
    body, status = b"", ""
    async with asyncio.timeout(20):
        while True:
            for event in connection.receive_data(await reader.read(65536)):
                if isinstance(event, h2.events.DataReceived):
                    body += event.data
                if isinstance(event, h2.events.TrailersReceived):
                    status = {bytes(name): bytes(value).decode() for name, value in event.headers}[b"grpc-status"]
                if isinstance(event, h2.events.StreamEnded):
                    return body, status
            writer.write(connection.data_to_send())
