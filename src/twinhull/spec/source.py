"""Where the number of a `queue` or `query` target comes from: `x-twinhull.scale.target.*.source`, a URL. Pure.

    nats://[USER[:PASSWORD]@]HOST[:4222]/STREAM/CONSUMER       messages that a JetStream consumer hasn't acknowledged yet
    redis://[[USER]:PASSWORD@]HOST[:6379]/[DATABASE/]LIST      the length of a list
    http[s]://[USER:PASSWORD@]HOST[:PORT]/[PATH]?query=PROMQL  an instant query to Prometheus, or whatever speaks its API

`?secret=NAME` takes the password from a secret of the application, so that it needn't stand in the file.
HOST is a service of the application, or any name or address that the machine knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from twinhull.errors import UserError

_PORTS = {"nats": 4222, "redis": 6379, "http": 80, "https": 443}
_KINDS = {"nats": "queue", "redis": "queue", "http": "query", "https": "query"}
_HINTS = {
    "queue": "nats://HOST/STREAM/CONSUMER or redis://HOST/LIST, with ?secret=NAME for a password",
    "query": "http://HOST:9090/?query=PROMQL",
}
_NAME = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]{1,255}")
"""What JetStream allows as the name of a stream or consumer; anything else could change the request."""


@dataclass(frozen=True, slots=True)
class Source:
    """scheme: nats, redis, http or https. path: (stream, consumer), (database, list) or (path, query). secret: "" none."""

    scheme: str
    host: str
    port: int
    path: tuple[str, str]
    user: str = ""
    password: str = field(default="", repr=False)
    secret: str = ""

    def __str__(self) -> str:
        """For messages: without user and password."""
        return f"{self.scheme}://{self.host}:{self.port}/{'/'.join(self.path) if self.scheme in ('nats', 'redis') else ''}"


def shown(text: str) -> str:
    """A source without what may be a password, for messages."""
    return re.sub(r"//[^/]*@", "//", text)


def parse(kind: str, text: str) -> Source:
    """kind: queue or query. Raises UserError."""
    hint = _HINTS[kind]
    try:
        url = urlsplit(text.partition("?")[0])
        host, port = url.hostname or "", url.port or _PORTS.get(url.scheme, 0)
    except ValueError as error:
        raise UserError(f"source of a {kind}: {error}", hint) from None
    if _KINDS.get(url.scheme) != kind or not host or re.search(r"[\s\x00-\x1f\x7f]", host):
        raise UserError(f"source of a {kind}: {shown(text)} is none", hint)
    options = _options(text.partition("?")[2])
    paths = {"nats": _consumer, "redis": _list}
    path = paths[url.scheme](url.path) if url.scheme in paths else (url.path, options.get("query", ""))
    if path is None or (kind == "query" and not path[1]):
        raise UserError(f"source of a {kind}: {shown(text)} doesn't say which", hint)
    return Source(url.scheme, host, port, path, unquote(url.username or ""), unquote(url.password or ""), options.get("secret", ""))


def _options(text: str) -> dict[str, str]:
    """The query comes last and has all that follows, so that PromQL may be written as it is, with its + and &."""
    rest, has_query, query = text.partition("query=")
    options = dict(part.partition("=")[::2] for part in rest.split("&") if part)
    return {name: unquote(value) for name, value in (options | ({"query": query} if has_query else {})).items()}


def _consumer(path: str) -> tuple[str, str] | None:
    parts = [unquote(part) for part in path.removeprefix("/").split("/")]
    return (parts[0], parts[1]) if len(parts) == 2 and all(_NAME.fullmatch(part) for part in parts) else None


def _list(path: str) -> tuple[str, str] | None:
    first, _, rest = path.removeprefix("/").partition("/")
    database, key = (first, rest) if rest and first.isascii() and first.isdigit() else ("0", path.removeprefix("/"))
    return (database, unquote(key)) if key and len(database) < 6 else None
