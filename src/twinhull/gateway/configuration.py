"""HAProxy's configuration and maps from a routing. Pure; written for HAProxy 2.6 and later (Debian 12).

Nothing in the text changes with servers, weights, map entries or certificates: those go through the runtime API. So two texts without
servers differ if and only if a reload is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from twinhull.gateway import asleep, pages
from twinhull.gateway.base import Server
from twinhull.gateway.routes import REDIRECT, Pool, Routing
from twinhull.gateway.settings import Settings

CHALLENGES = "challenges.map"
CERTIFICATES = "certificates.list"
ACTIVATOR = ":activator"
"""A server's name that no instance can have."""
_SERVER = "    server "
"""Deeper than all else, so that these lines are known again."""
_REALM = "twinhull-{tag}"
_LEAST_CLIENT_TIMEOUT = 60


@dataclass(frozen=True, slots=True)
class Ground:
    """What the text depends on besides routes: the home's tag, how many inherited sockets there are, whom the workers run as."""

    tag: str
    http: int
    https: int
    user: str
    group: str


def render(routing: Routing, settings: Settings, ground: Ground, *, servers: bool) -> str:
    """haproxy.cfg. `servers`: with the lines of the servers there are now, as a start or reload wants it."""
    parts = [_global(ground), _defaults(routing, settings), _metrics()]
    if ground.http:
        parts.append(_frontend("http", _binds("HTTP", ground.http), settings))
    if ground.https:
        parts += _tls(routing, settings, ground)
    parts += _no_service()
    parts += [_pool(pool, servers=servers) for pool in sorted(routing.pools.values(), key=lambda pool: pool.name)]
    parts += asleep.hops(routing.pools.values(), _longest(routing))
    return "\n".join("\n".join(part) + "\n" for part in parts)


def without_servers(text: str) -> str:
    """A rendered text as it would be without servers."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(_SERVER))


def maps(routing: Routing) -> dict[str, str]:
    """File name → text, one "KEY VALUE" a line, in the order in which regular expressions are to be tried."""
    tables = {
        "http-exact.map": routing.clear.exact,
        "http-wild.map": routing.clear.wild,
        "http-any.map": routing.clear.any,
        "https-exact.map": routing.tls.exact,
        "https-wild.map": routing.tls.wild,
        "https-any.map": routing.tls.any,
        "sni.map": {host: pool for host, pool in routing.sni.items() if host and not host.startswith(".")},
        "sni-suffix.map": {
            host: routing.sni[host] for host in sorted(routing.sni, key=lambda host: (-len(host), host)) if host.startswith(".")
        },
    }
    return {name: lines(table) for name, table in tables.items()}


def lines(table: dict[str, str]) -> str:
    """A map file's text."""
    return "".join(f"{key} {value}\n" for key, value in table.items())


def error_files() -> dict[str, str]:
    """File name → page."""
    return {f"{status}.page": pages.page(status) for status in pages.TEXTS}


def endpoint(pool: Pool, server: Server) -> str:
    """ADDRESS:PORT of a server in a pool; HAProxy takes the last colon for the port's."""
    return f"{server.address}:{pool.route.port}"


def server_options(pool: Pool) -> str:
    """Everything behind a server's address, the same in the file and for `add server`, which inherits nothing.

    A server that can't be reached ten times in a row is taken out, and comes back with the first connection it accepts; while all is well
    nothing is probed (the engine knows the instances' health). Only connections count, not what is answered: a 503 may be meant for one
    client, whose repetitions would else take the instances away from all others, one after another, the last one included. An instance
    that hangs, or answers errors only, is for its health check to find; what may be repeated is asked of another one meanwhile.
    """
    words = ["check inter 1h fastinter 500ms downinter 500ms rise 1 fall 1", "observe layer4 error-limit 10 on-error mark-down"]
    if pool.route.max_concurrency:
        words.append(f"maxconn {pool.route.max_concurrency}")
    if pool.route.protocol == "h2c":
        words.append("proto h2")
    return " ".join(words)


def quote(text: str) -> str:
    """A value as one word of the configuration that stands for itself, also where a format string is taken."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("%", "%%")
    return f'"{escaped}"'


def _global(ground: Ground) -> list[str]:
    return [
        "global",
        "  master-worker",
        "  mworker-max-reloads 50",
        f"  user {ground.user}",
        f"  group {ground.group}",
        "  chroot empty",
        "  fd-hard-limit 200000",
        "  stats socket unix@sock/admin mode 600 level admin expose-fd listeners",
        "  stats timeout 1m",
        # For the access log alone: requests are written as errors (_logged), so that HAProxy's own notices and warnings stay out of it.
        "  log stdout len 8192 format raw daemon err",
        # Mozilla's "intermediate" level.
        "  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets",
        "  ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM",
        "  tune.ssl.default-dh-param 2048",
    ]


def _defaults(routing: Routing, settings: Settings) -> list[str]:
    return [
        "defaults",
        "  mode http",
        "  option dontlognull",
        "  option http-ignore-probes",
        "  option splice-auto",
        # An idle connection outlives a reload for one more request, whose answer says that it is the last: no request meets a closed door.
        "  option idle-close-on-response",
        "  timeout connect 2s",
        "  timeout http-request 10s",
        "  timeout http-keep-alive 60s",
        f"  timeout client {_milliseconds(_longest(routing))}",
        "  timeout client-fin 30s",
        "  timeout tunnel 1h",
        # A connection that isn't accepted may be tried elsewhere whatever the method; the rest is for requests that may be repeated.
        "  retries 3",
        "  option redispatch 1",
        # A 500 of one instance may be a broken version's: another one is asked. 502, 503, 504 may be overload, which more requests worsen.
        "  retry-on conn-failure empty-response junk-response 0rtt-rejected 500",
        *(pages.rule(status, status) for status in pages.TEXTS),
    ]


def _longest(routing: Routing) -> float:
    """Seconds that anybody may be silent."""
    return max([_LEAST_CLIENT_TIMEOUT, *(pool.route.timeout for pool in routing.pools.values())])


def _metrics() -> list[str]:
    return ["frontend metrics", "  bind unix@sock/metrics mode 600", "  no log", "  http-request use-service prometheus-exporter"]


def _binds(kind: str, count: int, options: str = "") -> list[str]:
    return [f'  bind "fd@${{GATEWAY_{kind}{number}}}"{options}' for number in range(count)]


def _tls(routing: Routing, settings: Settings, ground: Ground) -> Iterable[list[str]]:
    """The TLS port. Where something is passed through, a frontend reads the name first and hands on what is to be decrypted."""
    options = f" ssl crt-list {CERTIFICATES} strict-sni alpn h2,http/1.1"
    if not routing.sni:
        return [_frontend("https", _binds("HTTPS", ground.https, options), settings)]
    inner = f"abns@{_REALM.format(tag=ground.tag)}-https"
    return [
        _passthrough(routing, settings, ground),
        ["backend decrypt", "  mode tcp", f"  server https {inner} send-proxy-v2"],
        _frontend("https", [f"  bind {inner} accept-proxy{options}"], settings),
    ]


def _passthrough(routing: Routing, settings: Settings, ground: Ground) -> list[str]:
    others = routing.sni.get("", "decrypt")
    return [
        "frontend tls",
        *_binds("HTTPS", ground.https),
        "  mode tcp",
        "  no option http-ignore-probes",
        *_logged("tcp-request content", settings),
        f"  log-format {_quoted_format(_TCP_LOG)}",
        "  tcp-request inspect-delay 5s",
        "  tcp-request content set-var(sess.sni) req.ssl_sni,lower",
        # Only a finished hello tells the name; "accept" ends the wait.
        "  tcp-request content accept if { req.ssl_hello_type 1 }",
        "  tcp-request content reject",
        "  use_backend %[var(sess.sni),map_str(sni.map)] if { var(sess.sni),map_str(sni.map) -m found }",
        "  use_backend %[var(sess.sni),map_end(sni-suffix.map)] if { var(sess.sni),map_end(sni-suffix.map) -m found }",
        *(
            f"  use_backend decrypt if {{ var(sess.sni) -m str {host} }}"
            for host in sorted(routing.certificates)
            if host and host[0] != "*"
        ),
        *(
            f"  use_backend decrypt if {{ var(sess.sni) -m end {host[1:]} }}"
            for host in sorted(routing.certificates)
            if host.startswith("*")
        ),
        f"  default_backend {others}",
    ]


def _frontend(kind: str, binds: list[str], settings: Settings) -> list[str]:
    """An entrance for HTTP: who asks, what for, and which pool."""
    own_page = f"{{ status ge 502 }} {pages.IS_OWN}"
    return [
        f"frontend {kind}",
        *binds,
        *_logged("http-request", settings),
        f"  log-format {_quoted_format(_HTTP_LOG.replace('SCHEME', kind))}",
        "  unique-id-format %[uuid()]",
        *(_captures() if settings.access_log else []),
        *_challenge(kind),
        pages.WISH,
        *_client(kind, settings),
        *_routes(kind),
        asleep.REPEATED,
        "  http-after-response set-header X-Request-ID %[unique-id]",
        f"  http-after-response set-header Content-Type text/html if {own_page} {{ var(txn.html) -m found }}",
        f"  http-after-response del-header X-Gateway-Page if {own_page}",
        "  use_backend %[var(txn.pool)]",
        "  default_backend nowhere",
    ]


def _routes(kind: str) -> list[str]:
    """Find the pool. The first line suffices for nearly every request; the others are for other spellings and inexact hosts."""
    unknown = "{ var(txn.pool) -m found }"
    return [
        f"  http-request set-var(txn.pool) base,concat(/),map_beg({kind}-exact.map) unless {{ path -m sub // /. % }}",
        f"  http-request set-var(txn.host) req.hdr(host),host_only,lower unless {unknown}",
        # Decoded and with a slash behind, so that neither %61pi nor api slips past the prefix /api/.
        f"  http-request set-var(txn.path) path,url_dec,concat(/) unless {unknown}",
        '  http-request return status 400 content-type text/plain string "dot segments\\n" if { var(txn.path) -m sub /../ /./ }',
        '  http-request set-var(txn.path) "var(txn.path),regsub(/+,/,g)" if { var(txn.path) -m sub // }',
        f"  http-request set-var(txn.key) var(txn.host),concat(,txn.path) unless {unknown}",
        f"  http-request set-var(txn.pool) var(txn.key),map_beg({kind}-exact.map) unless {unknown}",
        f"  http-request set-var(txn.pool) var(txn.key),map_reg({kind}-wild.map) unless {unknown}",
        f"  http-request set-var(txn.pool) var(txn.path),map_beg({kind}-any.map) unless {unknown}",
    ]


def _no_service() -> Iterable[list[str]]:
    """Where requests go that no service gets."""
    yield ["backend nowhere", '  http-request return status 404 content-type text/plain string "404 page not found\\n"']
    yield [f"backend {REDIRECT}", "  http-request redirect scheme https code 308"]


def _challenge(kind: str) -> list[str]:
    """RFC 8555, section 8.3."""
    if kind != "http":
        return []
    found = f"path,map_str({CHALLENGES})"
    where = "{ path_beg /.well-known/acme-challenge/ }"
    return [f'  http-request return status 200 content-type text/plain lf-string "%[{found}]" if {where} {{ {found} -m found }}']


def _client(kind: str, settings: Settings) -> list[str]:
    """Headers that tell the service who asked. What a client says of itself is believed only where the operator said so."""
    scheme = "https" if kind == "https" else "http"
    fresh = ["  http-request set-header X-Request-ID %[unique-id]"]
    forwarded = [
        "  http-request set-header X-Forwarded-For %[src]",
        f"  http-request set-header X-Forwarded-Proto {scheme}",
        "  http-request set-header X-Forwarded-Host %[req.hdr(host)]",
    ]
    if not settings.trusted_proxies:
        return fresh + forwarded
    trusted = "{ src " + " ".join(settings.trusted_proxies) + " }"
    return [
        f"{fresh[0]} unless {trusted} {{ req.hdr(x-request-id) -m found }}",
        f"  http-request add-header X-Forwarded-For %[src] if {trusted}",
        *(f"{line} unless {trusted}" for line in forwarded),
        f"{forwarded[1]} unless {{ req.hdr(x-forwarded-proto) -m found }}",
        f"{forwarded[2]} unless {{ req.hdr(x-forwarded-host) -m found }}",
    ]


def _pool(pool: Pool, *, servers: bool) -> list[str]:
    route = pool.route
    found = [f"backend {pool.name}", f"  mode {'tcp' if route.protocol == 'tcp' else 'http'}", "  balance roundrobin"]
    found += ["  option tcp-check", "  tcp-check connect linger"]  # a plain end, not a reset that shows up in the service's log
    found += [f"  timeout server {_milliseconds(route.timeout)}", f"  timeout queue {_milliseconds(route.timeout)}"]
    if route.protocol != "tcp":
        found += _http_rules(pool)
    if pool.activator:
        found.append(f"  server {ACTIVATOR} {asleep.way(pool)} backup")
    if servers:
        options = server_options(pool)
        found += [f"{_SERVER}{server.name} {endpoint(pool, server)} weight {server.weight} {options}" for server in pool.servers]
    return found


def _http_rules(pool: Pool) -> list[str]:
    route = pool.route
    # With one instance there is nobody else to ask; what the activator holds, asleep.py asks again.
    rules = ["  http-request disable-l7-retry if { nbsrv lt 2 }"]
    if route.auth:
        # The place of sign-on. Until there is one, a route that asks for it stays shut rather than open.
        rules.append(
            '  http-request return status 403 content-type text/plain string "this route asks for sign-on, which is not set up\\n"'
        )
    if route.rate_limit:
        rules += _rate_limit(route.rate_limit)
    if route.strip:
        # The route matched, so a slash or nothing follows the prefix.
        segments = "".join(f"/+{_literal(segment)}" for segment in route.path.split("/")[1:])
        rules.append(f"  http-request replace-path '^{segments}/*(.*)$' '/\\1'")
    rules += _headers("http-request", route.request_headers)
    rules += _headers("http-response", route.response_headers)
    return rules


def _headers(kind: str, headers: dict[str, str]) -> list[str]:
    """An empty value takes the header away."""
    return [f"  {kind} set-header {name} {quote(value)}" if value else f"  {kind} del-header {name}" for name, value in headers.items()]


def _literal(text: str) -> str:
    """For a regular expression in single quotes, which a path has none of."""
    return "".join(f"[{letter}]" if letter in ".$()*+" else letter for letter in text)


def _rate_limit(rate: float) -> list[str]:
    """Counted per address, per /64 with IPv6 (what a customer of a provider has). Below one a second: one in 1/rate seconds."""
    seconds = 1 if rate >= 1 else math.ceil(1 / rate)
    limit = max(1, round(rate * seconds))
    return [
        f"  stick-table type ipv6 size 100k expire {2 * seconds}s store http_req_rate({seconds}s)",
        "  http-request track-sc0 src,ipmask(32,64)",
        f'  http-request return status 429 content-type application/problem+json hdr Retry-After {seconds} lf-string "{_TOO_MANY}" '
        f"if {{ sc_http_req_rate(0) gt {limit} }}",
    ]


def _logged(kind: str, settings: Settings) -> list[str]:
    """In the access log, as nothing else is: with `kind`'s rule for what is understood, with the option for what fails before."""
    return ["  log global", "  option log-separate-errors", f"  {kind} set-log-level err"] if settings.access_log else []


def _captures() -> list[str]:
    return ["  http-request capture req.hdr(host) len 128", "  http-request capture req.hdr(user-agent) len 200"]


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _quoted_format(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


_TOO_MANY = '{\\"type\\":\\"about:blank\\",\\"title\\":\\"Too Many Requests\\",\\"status\\":429}'
_HTTP_LOG = (
    '{"time":%Ts.%ms,"id":"%ID","client":"%ci","scheme":"SCHEME","host":"%[capture.req.hdr(0),json(utf8s)]",'
    '"method":"%HM","url":"%[capture.req.uri,json(utf8s)]","protocol":"%HV","status":%ST,"service":"%b","instance":"%s",'
    '"bytes_in":%U,"bytes_out":%B,"ms":{"queue":%Tw,"connect":%Tc,"response":%Tr,"total":%Ta},"retries":"%rc","ended":"%ts",'
    '"user_agent":"%[capture.req.hdr(1),json(utf8s)]"}'
)
"""One line a request. service: APP:SERVICE:POOL. Milliseconds are -1 where it didn't come to that; ended: see HAProxy's manual, 8.5."""
_TCP_LOG = (
    '{"time":%Ts.%ms,"client":"%ci","scheme":"tls","host":"%[var(sess.sni),json(utf8s)]","service":"%b","instance":"%s",'
    '"bytes_in":%U,"bytes_out":%B,"ms":{"queue":%Tw,"connect":%Tc,"total":%Tt},"ended":"%ts"}'
)
