"""Which request belongs to whom, and what is refused before the proxy hears of it."""

from __future__ import annotations

from typing import Any

import pytest

from twinhull.errors import ConflictError, UserError
from twinhull.gateway import routes
from twinhull.gateway.base import Backend, Server
from twinhull.spec.app import RouteSpec


def backend(name: str = "shop/web", *given: RouteSpec, **route: Any) -> Backend:
    return Backend(name, given or (RouteSpec(**({"host": "web.test", "port": 80} | route)),), (Server("one", "10.0.0.1"),))


def test_routes_of_a_service_share_a_pool_unless_their_settings_differ() -> None:
    same = (RouteSpec("a.test", port=80), RouteSpec("b.test", "/x", port=80, tls="acme"), RouteSpec("", port=80))
    assert len(routes.build([backend("shop/web", *same)]).pools) == 1
    differ = (RouteSpec("a.test", port=80), RouteSpec("a.test", "/x", port=81), RouteSpec("a.test", "/y", port=80, strip=True))
    assert len(routes.build([backend("shop/web", *differ)]).pools) == 3


def test_a_host_may_be_shared_by_services_on_different_paths() -> None:
    routing = routes.build([backend("a/a"), backend("b/b", path="/b/")])
    assert {key: pool.split(":")[0] for key, pool in routing.clear.exact.items()} == {"web.test/": "a", "web.test/b/": "b"}


def test_wildcards_are_tried_from_the_longest_host_and_path() -> None:
    given = [RouteSpec(host, path, port=80) for host, path in [("*.test", "/"), ("*.a.test", "/"), ("*.a.test", "/x"), ("*.test", "/long")]]
    order = list(routes.build([backend("shop/web", *given)]).clear.wild)
    assert order == [r"^[^/]+\.a\.test/x/", r"^[^/]+\.a\.test/", r"^[^/]+\.test/long/", r"^[^/]+\.test/"]


def test_what_is_served_with_tls_redirects_on_the_clear_port_unless_somebody_claims_it() -> None:
    routing = routes.build([backend("a/a", tls="acme"), backend("b/b", path="/b", tls="acme"), backend("c/c", path="/b")])
    assert routing.clear.exact == {"web.test/b/": next(name for name in routing.pools if name.startswith("c:")), "web.test/": "redirect"}
    assert routing.certificates == {"web.test": "acme"}
    assert routing.needs_tls


def test_names_passed_through() -> None:
    given = [RouteSpec(host, port=5432, protocol="tcp") for host in ("db.test", "*.db.test", "")]
    routing = routes.build([backend("shop/db", *given)])
    assert set(routing.sni) == {"db.test", ".db.test", ""}
    assert not routing.certificates


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({"path": "/a"}, {"path": "/a/"}),
        ({"host": "WEB.test."}, {}),
        ({"tls": "acme"}, {"tls": "own", "path": "/x"}),
        ({"tls": "acme"}, {"protocol": "tcp"}),
    ],
)
def test_two_services_may_not_claim_the_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    with pytest.raises(ConflictError, match=r"web\.test"):
        routes.build([backend("a/a", **first), backend("b/b", **second)])


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"host": "a b"}, "host 'a b'"),
        ({"host": "[::1]"}, "host"),
        ({"host": "*"}, "host"),
        ({"host": "a.*.test"}, "host"),
        ({"path": "x"}, "path 'x'"),
        ({"path": "/a b"}, "path"),
        ({"path": "/a/../b"}, "dot segments"),
        ({"path": "/a'b"}, "path"),
        ({"port": 0}, "port 0"),
        ({"protocol": "udp"}, "protocol 'udp'"),
        ({"tls": "yes"}, "tls 'yes'"),
        ({"tls": "passthrough"}, "passthrough is for protocol tcp"),
        ({"protocol": "tcp", "path": "/x"}, "no paths"),
        ({"host": "*.a.test", "tls": "acme"}, "wildcards"),
        ({"host": "", "tls": "acme"}, "one host name"),
        ({"host": "", "tls": "own"}, "needs a host"),
        ({"request_headers": {"a b": "x"}}, "header name"),
        ({"response_headers": {"a": "x\nserver evil"}}, "control characters"),
        ({"rate_limit": -1}, "rate_limit"),
        ({"timeout": 0}, "timeout"),
        ({"max_concurrency": -1}, "max_concurrency"),
    ],
)
def test_a_wrong_route_is_refused_with_the_service_and_the_reason(route: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        routes.build([backend(**route)])
    assert "shop/web" in str(raised.value)


@pytest.mark.parametrize("server", [Server("a b", "10.0.0.1"), Server("a", "evil.test"), Server("a", "10.0.0.1", 257)])
def test_a_wrong_server_is_refused(server: Server) -> None:
    with pytest.raises(UserError, match="shop/web"):
        routes.build([Backend("shop/web", (RouteSpec("web.test", port=80),), (server,))])
