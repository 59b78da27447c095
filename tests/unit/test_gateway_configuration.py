"""The configuration's text: what it has for which route, and what never changes it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from twinhull.gateway import configuration, pages, routes
from twinhull.gateway.base import Backend, Server
from twinhull.gateway.settings import Settings
from twinhull.spec.app import RouteSpec

GROUND = configuration.Ground("abcde", 1, 1, "haproxy", "haproxy")


def render(*backends: Backend, servers: bool = True, settings: Settings | None = None) -> str:
    return configuration.render(routes.build(backends), settings or Settings(), GROUND, servers=servers)


def backend(*servers: Server, name: str = "shop/web", activator: str = "", **route: Any) -> Backend:
    return Backend(name, (RouteSpec(**({"host": "web.test", "port": 80} | route)),), servers, activator)


def section(text: str, head: str) -> list[str]:
    """Lines of the section that begins with `head`."""
    (found,) = [part for part in text.split("\n\n") if part.lstrip().startswith(head)]
    return [line.strip() for line in found.strip().splitlines()[1:]]


def test_a_plain_pool() -> None:
    assert section(render(backend(Server("one", "10.0.0.1", 7))), "backend shop:web:") == [
        "mode http",
        "balance roundrobin",
        "option tcp-check",
        "tcp-check connect linger",
        "timeout server 60000ms",
        "timeout queue 60000ms",
        "http-request disable-l7-retry if { nbsrv lt 2 }",
        "server one 10.0.0.1:80 weight 7 check inter 1h fastinter 500ms downinter 500ms rise 1 fall 1 "
        "observe layer4 error-limit 10 on-error mark-down",
    ]


def test_everything_a_route_can_ask_for() -> None:
    route = {"path": "/api/v1.0", "strip": True, "protocol": "h2c", "rate_limit": 2.5, "max_concurrency": 3, "timeout": 0.5, "auth": "sso"}
    lines = section(render(backend(Server("one", "fd00::1"), activator="127.0.0.1:9", **route)), "backend shop:web:")
    assert "timeout server 500ms" in lines
    assert "stick-table type ipv6 size 100k expire 2s store http_req_rate(1s)" in lines
    assert r"http-request replace-path '^/+api/+v1[.]0/*(.*)$' '/\1'" in lines
    hop = section(render(backend(activator="127.0.0.1:9", **route)), "listen shop:web:80:h2c")
    assert hop[-1] == "server activator 127.0.0.1:9 pool-max-conn 0 max-reuse 0 proto h2"
    socket = hop[0].removeprefix("bind unix@empty/").removesuffix(" mode 666")
    assert f"server :activator unix@/{socket} pool-max-conn 0 max-reuse 0 backup" in lines
    assert lines[-1].startswith("server one fd00::1:80 weight 100 ")
    assert lines[-1].endswith("maxconn 3 proto h2")
    assert any("status 403" in line for line in lines)


@pytest.mark.parametrize(("rate", "seconds", "limit"), [(10, 1, 10), (1, 1, 1), (0.5, 2, 1), (0.01, 100, 1)])
def test_rates_below_one_a_second_are_counted_over_longer(rate: float, seconds: int, limit: int) -> None:
    lines = section(render(backend(rate_limit=rate)), "backend shop:web:")
    (rule,) = [line for line in lines if "status 429" in line]
    assert f"hdr Retry-After {seconds} " in rule
    assert rule.endswith(f"gt {limit} }}")
    assert any(f"http_req_rate({seconds}s)" in line for line in lines)


@pytest.mark.parametrize("text", ["plain", 'a "b"', "$HOME ${X}", "100% %[src]", "back\\slash", "# no comment"])
def test_a_header_stands_for_itself(text: str) -> None:
    lines = section(render(backend(request_headers={"X": text})), "backend shop:web:")
    (line,) = [line for line in lines if "set-header X " in line]
    word = line.split(" ", 3)[3]
    undone = word[1:-1].replace("\\\\", "\0").replace('\\"', '"').replace("\\$", "$").replace("%%", "%").replace("\0", "\\")
    assert undone == text


def test_servers_and_paths_never_need_a_reload() -> None:
    before = render(backend(), servers=False)
    other = Backend("shop/web", (RouteSpec("web.test", port=80), RouteSpec("x.test", "/y", port=80)), (Server("one", "10.0.0.1"),))
    assert render(other, servers=False) == before
    assert configuration.without_servers(render(other)) == before
    assert configuration.without_servers(render(backend(activator="127.0.0.1:9"))) != before
    assert render(backend(timeout=5), servers=False) != before


def test_the_tls_port_is_read_first_only_where_something_passes_through() -> None:
    assert "frontend tls" not in render(backend(tls="own"))
    passed = render(backend(tls="own"), backend(name="shop/db", host="db.test", protocol="tcp"))
    assert "send-proxy-v2" in passed
    assert "bind abns@twinhull-abcde-https accept-proxy ssl" in passed


def test_proxies_in_front_are_believed_only_if_named() -> None:
    plain = section(render(backend()), "frontend http\n")
    assert "http-request set-header X-Forwarded-For %[src]" in plain
    trusting = section(render(backend(), settings=Settings(trusted_proxies=("10.0.0.0/8", "::1"))), "frontend http\n")
    assert "http-request add-header X-Forwarded-For %[src] if { src 10.0.0.0/8 ::1 }" in trusting
    assert "http-request set-header X-Forwarded-For %[src] unless { src 10.0.0.0/8 ::1 }" in trusting


def test_no_access_log_no_captures() -> None:
    text = render(backend(), settings=dataclasses.replace(Settings(), access_log=False))
    assert "capture req.hdr" not in text
    assert "log global" not in text


def test_pages_have_no_single_quote_but_the_formats_own() -> None:
    for status in pages.TEXTS:
        assert pages.page(status).count("'") == 5 * 4


def test_a_hop_of_its_own_leads_to_the_activator() -> None:
    """One for all pools of a service's port, so that an old worker's finds it too; none where bytes are passed on as they are."""
    routes = (RouteSpec("a.test", port=80), RouteSpec("b.test", port=80, timeout=90))
    text = render(Backend("shop/web", routes, (), "unix@/activator/x"))
    (hop,) = [part for part in text.split("\n\n") if part.startswith("listen ")]
    socket = hop.split("unix@empty/")[1].split()[0]
    assert len([line for line in text.splitlines() if line.startswith(f"  server :activator unix@/{socket} pool-max-conn ")]) == 2
    lines = section(text, "listen shop:web:80:http")
    assert "timeout server 90000ms" in lines
    assert "http-response set-header X-Twinhull-Wake %[date(0,ms),sub(txn.asked)]" in lines
    assert lines[-1] == "server activator unix@/activator/x pool-max-conn 0 max-reuse 0"
    tcp = render(backend(activator="unix@/activator/x", protocol="tcp"))
    assert "listen " not in tcp
    assert "server :activator unix@/activator/x pool-max-conn 0 max-reuse 0 backup" in section(tcp, "backend shop:web:")
