"""Servers' changes, statistics, the access log's rotation, certificates, listeners."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from twinhull.errors import ConflictError, UserError
from twinhull.gateway import accesslog, certificates, configuration, routes, servers, stats
from twinhull.gateway.base import Backend, Server
from twinhull.gateway.haproxy import Seen
from twinhull.gateway.listeners import listen
from twinhull.gateway.settings import Settings
from twinhull.spec.app import RouteSpec


def pools(*wanted: Server) -> dict[str, routes.Pool]:
    return routes.build([Backend("shop/web", (RouteSpec("web.test", port=80),), wanted)]).pools


def name() -> str:
    return next(iter(pools()))


def seen(server: str, address: str = "10.0.0.1", port: int = 80, weight: int = 100, *, leaving: bool = False) -> Seen:
    return Seen(name(), server, address, port, weight, leaving)


def test_nothing_to_say_when_all_is_as_wanted() -> None:
    assert servers.changes(pools(Server("a", "10.0.0.1")), [seen("a")]) == []


def test_additions_come_before_removals() -> None:
    said = servers.changes(pools(Server("b", "10.0.0.2", 5)), [seen("a")])
    assert [line.split(" ")[0:2] for line in said] == [["add", "server"], ["enable", "health"], ["enable", "server"], ["set", "server"]]
    assert said[0].startswith(f"add server {name()}/b 10.0.0.2:80 weight 5 check ")
    assert said[-1] == f"set server {name()}/a state maint"


def test_a_server_that_comes_back_is_taken_out_of_maintenance_where_it_is_now() -> None:
    said = servers.changes(pools(Server("a", "10.0.0.9", 3)), [seen("a", leaving=True)])
    where = f"set server {name()}/a"
    assert said == [f"{where} addr 10.0.0.9 port 80", f"{where} weight 3", f"{where} state ready"]


def test_other_pools_are_left_alone_and_leaving_servers_are_found() -> None:
    stranger = Seen("x:y:z", "a", "10.0.0.1", 80, 1, False)
    assert servers.changes(pools(), [stranger, seen("a", leaving=True)]) == []
    assert servers.leaving(pools(Server("b", "10.0.0.2")), [stranger, seen("a", leaving=True), seen("b", leaving=True)]) == [
        seen("a", leaving=True)
    ]


def test_statistics_of_a_service_are_those_of_all_its_pools_in_all_workers() -> None:
    row = {"scur": "1", "stot": "10", "qcur": "2", "rate": "3", "hrsp_5xx": "1", "econ": "", "eresp": "1", "status": "UP"}
    workers = [
        [{"pxname": "http", "svname": "FRONTEND"} | row, *({"pxname": f"shop:web:{pool}", "svname": "BACKEND"} | row for pool in "ab")],
        [{"pxname": "shop:web:a", "svname": "one"} | row, {"pxname": "shop:web:a", "svname": "BACKEND"} | row],
    ]
    (found,) = stats.summarise(workers, {"shop/web": 0.5})
    assert (found.name, found.rate, found.sessions, found.queue, found.requests, found.responses_5xx) == ("shop/web", 9, 3, 6, 30, 3)
    assert found.p95 == 0.5
    assert [(server.name, server.sessions, server.requests, server.errors) for server in found.servers] == [("one", 1, 10, 2)]
    assert stats.sessions(workers, "shop/web", "one") == 1
    assert stats.sessions(workers, "shop/web", "other") == 0


def test_percentiles_are_of_the_last_seconds_and_ignore_rubbish(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    entries = [{"time": 100 + n / 100, "service": "a:b:c", "ms": {"total": n * 10, "response": 1}} for n in range(100)]
    old = {"time": 1, "service": "a:b:c", "ms": {"total": 1, "response": 1}}
    log.write_text("\n".join(json.dumps(entry) for entry in [old, *entries]) + '\nnot json\n{"time": null}\n')
    assert stats.percentiles(log, 105.0) == {"a/b": 0.94}
    assert stats.percentiles(tmp_path / "none", 0) == {}


def test_the_access_log_is_emptied_in_place_and_its_past_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with log.open("ab") as writer:
        for number in range(4):
            writer.write(f"{number}\n".encode() * 10)
            writer.flush()
            assert accesslog.rotate(log, 10, 3)
            assert not accesslog.rotate(log, 10, 3)
        writer.write(b"now\n")
    texts = {path.name: path.read_text()[:3].strip() for path in tmp_path.iterdir()}
    assert texts == {"access.log": "now", "access.log.1": "3\n3", "access.log.2": "2\n2"}


def pem(*hosts: str, days: int = 90) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), 1, begin, begin + datetime.timedelta(days=days))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    return private + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_certificate_that_covers_a_host_and_lasts_longest_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    for file, data in {"a.pem": pem("a.test"), "b.pem": pem("*.b.test", days=1), "c.pem": pem("*.b.test", "b.test")}.items():
        (folder / file).write_bytes(data)
    store = certificates.Store(tmp_path, tmp_path)
    found = store.select({"x.b.test": "own", "a.test": "own", "later.test": "acme"})
    assert {host: one.source.name for host, one in found.items()} == {"x.b.test": "c.pem", "a.test": "a.pem"}
    assert len(certificates.crt_list(found.values()).splitlines()) == 2
    with pytest.raises(UserError, match=r"no certificate for y\.x\.b\.test"):
        store.select({"y.x.b.test": "own"})


def test_a_certificate_is_due_in_its_last_third(tmp_path: Path) -> None:
    kept = certificates.Store(tmp_path, tmp_path).keep("a.test", pem("a.test"))
    day = 86_400
    assert not kept.due(kept.not_before + 59 * day)
    assert kept.due(kept.not_before + 60 * day)


@pytest.mark.parametrize(
    "data", [b"", b"rubbish", pem("a.test").partition(b"-----BEGIN CERT")[0], pem("a.test").partition(b"KEY-----\n-")[2]]
)
def test_half_a_certificate_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pem"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.pem"):
        certificates.read(path)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    path.write_bytes(pem("a.test").partition(b"-----BEGIN CERT")[0] + b"-----BEGIN CERT" + pem("a.test").partition(b"-----BEGIN CERT")[2])
    with pytest.raises(UserError, match="not the certificate's"):
        certificates.read(path)


def test_listening() -> None:
    assert listen("") == []
    (one,) = listen("127.0.0.1:0")
    port = one.getsockname()[1]
    with pytest.raises(ConflictError, match=f"port {port} "):
        listen(f"127.0.0.1:{port}")
    one.close()
    both = listen(":0")
    assert 1 <= len(both) <= 2
    for each in both:
        each.close()


def test_only_frontends_write_to_the_access_log_and_only_requests() -> None:
    """HAProxy tells of servers in their backend's log, and of itself in words of less weight than is let through."""
    ground = configuration.Ground("abcde", 1, 1, "haproxy", "haproxy")
    some = (RouteSpec("web.test", port=80, tls="own"), RouteSpec("db.test", port=5, protocol="tcp", tls="passthrough"))
    text = configuration.render(routes.build([Backend("shop/web", some)]), Settings(), ground, servers=True)
    logging = [part.split("\n")[0] for part in text.split("\n\n") if "  log global" in part]
    assert logging == ["frontend http", "frontend tls", "frontend https"]
    assert text.count(" set-log-level err\n") == text.count("  option log-separate-errors\n") == 3
    assert "  log stdout len 8192 format raw daemon err\n" in text
