"""From backends to pools and maps: which request belongs to whom. Pure.

A *pool* is one `backend` of the proxy: a service under one set of route settings. Hosts and paths lead to pools by maps, so that a changed
path needs no new process. Of all routes whose host and path match, the one with the most specific host wins (exact, then the longest
wildcard, then any), then the longest path. Paths match whole segments: /api is /api and /api/x, never /apix.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from twinhull.errors import ConflictError, UserError
from twinhull.gateway.base import Backend, Server
from twinhull.spec.app import RouteSpec

REDIRECT = "redirect"
"""In place of a pool's name: the same address with https."""
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&()*+,;=:@/-]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")
_ADDRESS = re.compile(r"[A-Za-z0-9@/._:\[\]-]*")
_PROTOCOLS = ("http", "h2c", "tcp")
_TLS = ("", "acme", "own", "passthrough")


@dataclass(frozen=True, slots=True)
class Pool:
    """`route` is its settings: host always "", path the prefix to strip or "/"."""

    name: str
    service: str
    route: RouteSpec
    servers: tuple[Server, ...] = ()
    activator: str = ""


@dataclass(frozen=True, slots=True)
class Maps:
    """Of one entrance (clear or TLS): key → pool. exact: "host/path/"; wild: regular expressions in order; any: "/path/"."""

    exact: dict[str, str] = field(default_factory=dict)
    wild: dict[str, str] = field(default_factory=dict)
    any: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Routing:
    """Everything the proxy is to know. certificates: host → "acme" or "own". sni: host, ".suffix" or "" → pool."""

    pools: dict[str, Pool] = field(default_factory=dict)
    clear: Maps = field(default_factory=Maps)
    tls: Maps = field(default_factory=Maps)
    sni: dict[str, str] = field(default_factory=dict)
    certificates: dict[str, str] = field(default_factory=dict)

    @property
    def needs_tls(self) -> bool:
        """Whether anything is to be had on the TLS port."""
        return bool(self.certificates or self.sni)


def build(backends: Iterable[Backend]) -> Routing:
    """Raises UserError for a route that can't be, ConflictError where two services claim the same."""
    claims = _Claims()
    for backend in backends:
        for route in backend.routes:
            claims.add(backend, check(backend, route))
    return Routing(claims.pools, _maps(claims.keys, "clear"), _maps(claims.keys, "tls"), _sni(claims.keys), claims.certificates)


def check(backend: Backend, route: RouteSpec) -> RouteSpec:
    """The route in its one spelling. Raises UserError naming the service and what is wrong."""
    route = dataclasses.replace(route, host=route.host.lower().rstrip("."), path=_whole(route.path))
    if route.protocol == "tcp":
        route = dataclasses.replace(route, tls="passthrough")
    for wrong in _complaints(backend, route):
        raise UserError(f"route of {backend.name}: {wrong}")
    return route


def _complaints(backend: Backend, route: RouteSpec) -> Iterable[str]:
    app, _, service = backend.name.partition("/")
    if not (_NAME.fullmatch(app) and _NAME.fullmatch(service)):
        yield f"name {backend.name!r} is not APP/SERVICE"
    if route.host and not (len(route.host) <= 253 and _HOST.fullmatch(route.host)):
        yield f"host {route.host!r} is not a host name, *.name, or empty"
    if not _PATH.fullmatch(route.path):
        yield f"path {route.path!r} does not begin with / or has characters that a path must encode"
    if any(segment in (".", "..") for segment in route.path.split("/")):
        yield f"path {route.path!r} has dot segments"
    if not 0 < route.port < 65536:
        yield f"port {route.port} is not between 1 and 65535"
    if route.protocol not in _PROTOCOLS:
        yield f"protocol {route.protocol!r} is not one of {', '.join(_PROTOCOLS)}"
    if route.tls not in _TLS:
        yield f"tls {route.tls!r} is not one of {', '.join(filter(None, _TLS))} or empty"
    yield from _tls_complaints(route)
    yield from _value_complaints(route)
    yield from _server_complaints(backend)
    if not _ADDRESS.fullmatch(backend.activator):
        yield f"its activator's address {backend.activator!r} is not one word"


def _tls_complaints(route: RouteSpec) -> Iterable[str]:
    if route.tls == "passthrough" and route.protocol != "tcp":
        yield "tls passthrough is for protocol tcp only: what isn't decrypted can't be routed by path"
    if route.protocol == "tcp" and route.path != "/":
        yield "protocol tcp has no paths"
    if route.tls == "acme" and (not route.host or route.host.startswith("*")):
        yield f"tls acme needs one host name, not {route.host or 'any'}: the proof over HTTP covers no wildcards (use tls: own)"
    if route.tls == "own" and not route.host:
        yield "tls own needs a host"


def _value_complaints(route: RouteSpec) -> Iterable[str]:
    for kind in (route.request_headers, route.response_headers):
        for name, value in kind.items():
            if not _TOKEN.fullmatch(name):
                yield f"header name {name!r} is not a token"
            if not _VALUE.fullmatch(value):
                yield f"header {name}: its value has control characters"
    if not 0 <= route.rate_limit <= 1_000_000:
        yield f"rate_limit {route.rate_limit:g} is not between 0 and 1,000,000 requests a second"
    if not 0 < route.timeout <= 86_400:
        yield f"timeout {route.timeout:g} is not between 0 and 86,400 seconds"
    if not 0 <= route.max_concurrency <= 1_000_000:
        yield f"max_concurrency {route.max_concurrency} is not between 0 and 1,000,000"


def _server_complaints(backend: Backend) -> Iterable[str]:
    for server in backend.servers:
        if not _NAME.fullmatch(server.name):
            yield f"instance name {server.name!r} has other characters than letters, digits, _, . and -"
        if not 0 <= server.weight <= 256:
            yield f"weight {server.weight} of {server.name} is not between 0 and 256"
        try:
            ipaddress.ip_address(server.address)
        except ValueError:
            yield f"address {server.address!r} of {server.name} is not an IP address"


def _whole(path: str) -> str:
    """Without repeated and trailing slashes; "" is "/"."""
    return re.sub(r"/+", "/", path).rstrip("/") or "/"


def _pool(backend: Backend, route: RouteSpec) -> Pool:
    """Routes of a service that differ in host and path only share one, so that its limits per instance hold over all of them."""
    kept = dataclasses.replace(
        route,
        host="",
        path=route.path if route.strip else "/",
        strip=route.strip and route.path != "/",
        tls="passthrough" * (route.tls == "passthrough"),
    )
    digest = hashlib.sha256(repr(kept).encode()).hexdigest()[:6]
    return Pool(f"{backend.name.replace('/', ':')}:{digest}", backend.name, kept, backend.servers, backend.activator)


@dataclass(slots=True)
class _Claims:
    """What has been given away while building. keys: (entrance, host, path) → pool; entrances: clear, tls (decrypted), sni (not)."""

    pools: dict[str, Pool] = field(default_factory=dict)
    keys: dict[tuple[str, str, str], str] = field(default_factory=dict)
    certificates: dict[str, str] = field(default_factory=dict)
    _entrance: dict[str, str] = field(default_factory=dict)

    def add(self, backend: Backend, route: RouteSpec) -> None:
        """Raises ConflictError."""
        pool = _pool(backend, route)
        self.pools[pool.name] = pool
        entrance = {"": "clear", "passthrough": "sni"}.get(route.tls, "tls")
        other = self.keys.setdefault((entrance, route.host, route.path), pool.name)
        if other != pool.name:
            where = {"clear": "http://", "tls": "https://", "sni": "tls:"}[entrance] + (route.host or "*") + route.path
            raise ConflictError(
                f"{where} is claimed by {self.pools[other].service} and {pool.service}", "give one of them another host or path"
            )
        if entrance != "clear":
            self._enter(route, entrance)
        if entrance == "tls":
            self._certify(route)

    def _enter(self, route: RouteSpec, entrance: str) -> None:
        if self._entrance.setdefault(route.host, entrance) != entrance:
            host = route.host or "any host"
            raise ConflictError(f"{host} on the TLS port is to be passed through and to be decrypted", "one host can't be both")

    def _certify(self, route: RouteSpec) -> None:
        if self.certificates.setdefault(route.host, route.tls) != route.tls:
            raise ConflictError(f"{route.host} is to have a certificate of its own and one by ACME", "say the same tls in all its routes")


def _maps(claims: dict[tuple[str, str, str], str], entrance: str) -> Maps:
    found = {(host, path): pool for (kind, host, path), pool in claims.items() if kind == entrance}
    if entrance == "clear":
        for kind, host, path in claims:
            if kind == "tls":
                found.setdefault((host, path), REDIRECT)
    maps = Maps()
    for (host, path), pool in sorted(found.items(), key=lambda item: (-len(item[0][0]), -len(item[0][1]), item[0])):
        whole = path.rstrip("/") + "/"
        if host.startswith("*."):
            maps.wild[f"^[^/]+{re.escape(host[1:])}{re.escape(whole)}"] = pool
        elif host:
            maps.exact[host + whole] = pool
        else:
            maps.any[whole] = pool
    return maps


def _sni(claims: dict[tuple[str, str, str], str]) -> dict[str, str]:
    return {host.removeprefix("*"): pool for (kind, host, _), pool in claims.items() if kind == "sni"}
