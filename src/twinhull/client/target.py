"""Where the daemon is: TWINHULL_HOST, else the UNIX socket of TWINHULL_HOME. Light: for the thin transport too."""

from __future__ import annotations

import os
from collections.abc import Mapping

from twinhull.errors import UserError

_SYSTEM_SOCKET = "/run/twinhull/twinhull.sock"
_HINT = "TWINHULL_HOST is unix:///path/to/socket or https://host:port"
DEFAULT_PORT = 7443
MAX_SOCKET_PATH = 107
"""Bytes of a UNIX socket's path that fit into sockaddr_un."""


class Target:
    """One daemon's address: `socket` for a UNIX socket, else host, port, token and CA file for TLS."""

    __slots__ = ("ca", "host", "port", "socket", "token")

    def __init__(self, *, socket: str = "", host: str = "", port: int = DEFAULT_PORT, token: str = "", ca: str = "") -> None:
        self.socket = socket
        self.host = host
        self.port = port
        self.token = token
        self.ca = ca

    def __repr__(self) -> str:
        return f"Target({self.name})"

    @property
    def name(self) -> str:
        """For messages; never has the token."""
        return self.socket or f"https://{self.authority}"

    @property
    def authority(self) -> str:
        """The Host header's value."""
        if self.socket:
            return "twinhull"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def current(environ: Mapping[str, str] = os.environ) -> Target:
    """The target that the environment names. Must agree with `home.current().socket`, which is too heavy to import here."""
    url = environ.get("TWINHULL_HOST", "")
    if url:
        return parse(url, environ.get("TWINHULL_TOKEN", ""), environ.get("TWINHULL_CA", ""))
    home = environ.get("TWINHULL_HOME", "")
    return Target(socket=os.path.join(os.path.abspath(home), "run", "twinhull.sock") if home else _SYSTEM_SOCKET)


def choose(host: str = "", token: str = "", ca: str = "") -> Target:
    """From a client's arguments: "" is what the environment says, a path is a socket."""
    if not host:
        return current()
    if host.startswith("/"):
        return Target(socket=host)
    return parse(host, token or os.environ.get("TWINHULL_TOKEN", ""), ca or os.environ.get("TWINHULL_CA", ""))


def parse(url: str, token: str = "", ca: str = "") -> Target:
    """From a URL. Raises UserError."""
    scheme, _, rest = url.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        return Target(socket=rest)
    if scheme != "https" or not rest.rstrip("/"):
        raise UserError(f"{url!r} names no daemon", _HINT)
    host, port = _authority(rest.rstrip("/"), url)
    if not token:
        raise UserError(f"{url} needs a token", "set TWINHULL_TOKEN")
    if any(not 33 <= ord(letter) <= 126 for letter in token):
        raise UserError("the token has characters that a header can't carry")
    return Target(host=host, port=port, token=token, ca=ca)


def _authority(text: str, url: str) -> tuple[str, int]:
    """Host and port of "name", "name:port", "[v6]" or "[v6]:port"."""
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        bad = not bracket or (tail and not tail.startswith(":"))
        port = tail[1:]
    else:
        host, _, port = text.partition(":")
        bad = False
    if bad or not host or any(mark in host for mark in "/?#@ ") or (port and not (port.isascii() and port.isdigit())):
        raise UserError(f"{url!r} names no daemon", _HINT)
    number = int(port or DEFAULT_PORT)
    if not 0 < number < 65536:
        raise UserError(f"{url!r}: port {number} is out of range", _HINT)
    return host, number
