"""Whatever the routes are: they are refused with a reason, or HAProxy takes the configuration; and commands lead to what was wanted."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from twinhull.errors import UserError
from twinhull.gateway import configuration, routes, servers
from twinhull.gateway.base import Backend, Server
from twinhull.gateway.haproxy import Seen
from twinhull.gateway.process import user, write_all
from twinhull.gateway.settings import Settings
from twinhull.spec.app import RouteSpec

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
HOST = st.builds(lambda star, labels: star + ".".join(labels), st.sampled_from(["", "*."]), st.lists(LABEL, min_size=1, max_size=3))
PATH = st.lists(st.text("abz09-._~!$&()*+,;=:@%'\" ", min_size=1, max_size=6), max_size=3).map(lambda parts: "/" + "/".join(parts))
HEADERS = st.dictionaries(st.sampled_from(["X-A", "Cookie", "a b"]), st.text(max_size=20), max_size=2)
ROUTE = st.builds(
    RouteSpec,
    host=st.one_of(st.just(""), HOST, HOST),
    path=st.one_of(st.just("/"), PATH),
    port=st.integers(1, 65535),
    protocol=st.sampled_from(["http", "http", "h2c", "tcp"]),
    strip=st.booleans(),
    request_headers=HEADERS,
    response_headers=HEADERS,
    rate_limit=st.one_of(st.just(0.0), st.floats(0.001, 1e6)),
    auth=st.sampled_from(["", "sso"]),
    tls=st.sampled_from(["", "", "acme", "own"]),
    timeout=st.floats(0.0001, 86400),
    max_concurrency=st.integers(0, 1000),
)
NAME = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,8}", fullmatch=True)
SERVER = st.builds(Server, NAME, st.ip_addresses().map(str), st.integers(0, 256))
SERVERS = st.lists(SERVER, max_size=4, unique_by=lambda server: server.name).map(tuple)
BACKEND = st.builds(
    Backend,
    st.builds(lambda app, service: f"{app}/{service}", NAME, NAME),
    st.lists(ROUTE, min_size=1, max_size=3).map(tuple),
    SERVERS,
    st.sampled_from(["", "127.0.0.1:99"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.lists(BACKEND, max_size=3, unique_by=lambda backend: backend.name), st.integers(1, 2))
def test_haproxy_takes_every_configuration(backends: list[Backend], sockets: int) -> None:
    accepted = []
    for backend in backends:
        for route in backend.routes:
            try:
                routes.build([*accepted, Backend(backend.name, (route,), backend.servers, backend.activator)])
            except UserError as error:
                assert backend.name in str(error) or "claimed" in str(error) or "TLS port" in str(error) or "certificate" in str(error)
            else:
                accepted.append(Backend(backend.name, (route,), backend.servers, backend.activator))
    routing = routes.build(accepted)
    text = configuration.render(routing, Settings(), configuration.Ground("abcde", sockets, sockets, *user()), servers=True)
    files = {"haproxy.cfg": text, "challenges.map": "", "certificates.list": ""} | configuration.maps(routing) | configuration.error_files()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        write_all(Path(folder), {name: content.encode() for name, content in files.items()})
        names = {f"GATEWAY_{kind}{number}": str(probe.fileno()) for kind in ("HTTP", "HTTPS") for number in (0, 1)}
        argv = ["haproxy", "-c", "-f", "haproxy.cfg"]
        environment = {"PATH": "/usr/sbin:/usr/bin"} | names
        done = subprocess.run(argv, cwd=folder, env=environment, pass_fds=[probe.fileno()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + text


@given(SERVERS, SERVERS, st.sets(st.integers(0, 3)))
def test_commands_lead_to_what_is_wanted(before: tuple[Server, ...], after: tuple[Server, ...], leaving: set[int]) -> None:
    pools = routes.build([Backend("shop/web", (RouteSpec("web.test", port=80),), after)]).pools
    (pool,) = pools
    seen = {one.name: Seen(pool, one.name, one.address, 80, one.weight, number in leaving) for number, one in enumerate(before)}
    for command in servers.changes(pools, list(seen.values())):
        _obey(seen, pool, command)
    ready = {(one.name, one.address, one.weight) for one in seen.values() if not one.leaving}
    assert ready == {(one.name, one.address, one.weight) for one in after}
    assert servers.changes(pools, list(seen.values())) == []


def _obey(seen: dict[str, Seen], pool: str, command: str) -> None:
    """What HAProxy does with a command, as far as it matters here."""
    words = command.split(" ")
    name = words[2].partition("/")[2]
    match words[:2] + words[3:4]:
        case ["add", "server", endpoint]:
            assert name not in seen
            address, _, port = endpoint.rpartition(":")
            seen[name] = Seen(pool, name, address, int(port), int(words[5]), True)
        case ["enable", "server"]:
            seen[name] = _changed(seen[name], leaving=False)
        case ["set", "server", "addr"]:
            seen[name] = _changed(seen[name], address=words[4], port=int(words[6]))
        case ["set", "server", "weight"]:
            seen[name] = _changed(seen[name], weight=int(words[4]))
        case ["set", "server", "state"]:
            seen[name] = _changed(seen[name], leaving=words[4] == "maint")
        case other:
            assert other == ["enable", "health"]


def _changed(server: Seen, **values: object) -> Seen:
    import dataclasses

    return dataclasses.replace(server, **values)  # type: ignore[arg-type]
