"""The hop between a pool and its activator: requests take it that nobody but the activator can take. Pure.

If a daemon ends while it holds a request, HAProxy closes the client's connection without a word, unless the request is the first on it
(the client is to repeat it, which for a POST it won't). Behind this hop each request is the first on its connection, so there is always an
answer, which the pool passes on: 503 with Retry-After. Nothing is sent twice but what may be, where an instance gave no answer.
It is HTTP/1.1, for gRPC too: to HAProxy no HTTP/2 request is the first. A body that is still on its way (beyond what the sockets' buffers
take) ends with the connection in any case.
Instances that serve are asked directly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from twinhull.gateway import pages
from twinhull.gateway.routes import Pool

REPEATED = "  http-request disable-l7-retry unless { method GET HEAD OPTIONS TRACE PUT DELETE }"
"""RFC 9110, section 9.2.2: of these the same twice is as once, so a lost answer may be asked for again."""
SUFFIX = ".asleep"
_ONCE = "pool-max-conn 0 max-reuse 0"
"""A connection for each request, for the next one is to go to an instance itself."""


def hops(pools: Iterable[Pool], patience: float) -> list[list[str]]:
    """Sections of the configuration. patience: seconds that the slowest service may be silent; each pool's own decides."""
    found = {_name(pool): pool for pool in pools if pool.activator and _is_http(pool)}
    return [_hop(name, pool, patience) for name, pool in sorted(found.items())]


def sockets(pools: Iterable[Pool]) -> frozenset[str]:
    """Names of the hops' sockets, in the workers' root folder. HAProxy makes them, and leaves them there when it has closed them."""
    return frozenset(_socket(pool) for pool in pools if pool.activator and _is_http(pool))


def way(pool: Pool) -> str:
    """A server's address and options: of the hop to a pool's activator, or where there is none, of the activator."""
    return f"unix@/{_socket(pool)} {_ONCE}" if _is_http(pool) else f"{pool.activator} {_ONCE}"


def _hop(name: str, pool: Pool, patience: float) -> list[str]:
    return [
        f"listen {name}",
        f"  bind unix@empty/{_socket(pool)} mode 666",
        "  no log",
        "  unique-id-format %[req.hdr(x-request-id),url_enc]",
        # Made while there is a request to make it from.
        "  http-request set-var(txn.id) unique-id",
        f"  timeout server {max(1, round(patience * 1000))}ms",
        "  retry-on conn-failure empty-response junk-response",
        REPEATED,
        pages.WISH,
        "  http-request set-var(txn.asked) date(0,ms)",
        "  http-response set-header X-Twinhull-Wake %[date(0,ms),sub(txn.asked)]",
        # No answer from an activator: whoever it stands in for isn't available.
        pages.rule(502, 503),
        f"  http-after-response set-status 503 if {{ status 502 }} {pages.IS_OWN}",
        f"  server activator {pool.activator} {_ONCE}" + " proto h2" * (pool.route.protocol == "h2c"),
    ]


def _name(pool: Pool) -> str:
    """The same for all pools of a service's port: an old worker's pool finds its activator through the new worker."""
    return f"{pool.service.replace('/', ':')}:{pool.route.port}:{pool.route.protocol}"


def _socket(pool: Pool) -> str:
    """In the workers' root folder, where nobody but root gets to. Short, as a socket's address has to be."""
    return f"{hashlib.sha256(_name(pool).encode()).hexdigest()[:16]}{SUFFIX}"


def _is_http(pool: Pool) -> bool:
    return pool.route.protocol != "tcp"
