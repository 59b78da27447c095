"""`secret …`. A content is read from a file or stdin, never from an argument: those are seen by everybody on the machine."""

from __future__ import annotations

import sys
from time import time
from typing import TYPE_CHECKING

from twinhull.cli import output, remote, sheets
from twinhull.client import thin
from twinhull.errors import UserError

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments

_ENOUGH = 1024 * 1024 + 1
"""Bytes read: one more than the daemon takes, so that it says what is wrong with more."""


def create(args: Arguments) -> int:
    """Keep it and print its id."""
    name = args.place("name")
    content = _content(name, args.place("file") or "-")
    print(thin.call("POST", "/v1/secrets", {"name": name, "replace": args.switch("replace")}, content)["id"])
    return 0


def _content(name: str, file: str) -> bytes:
    if file == "-":
        if sys.stdin.isatty():
            raise UserError("stdin is a terminal", f"name a file, or send it in: twinhull secret create {name} < FILE")
        return sys.stdin.buffer.read(_ENOUGH)
    try:
        with open(file, "rb") as source:
            return source.read(_ENOUGH)
    except OSError as error:
        raise UserError(f"read {file}: {error.strerror}") from None


def listing(args: Arguments) -> int:
    """The table of secrets."""
    return output.rows(args, sheets.secrets(time(), full=args.switch("no_trunc")), thin.call("GET", "/v1/secrets"))


def inspect(args: Arguments) -> int:
    """JSON."""
    from twinhull.cli.verbs.listing import inspect_all

    return inspect_all(args, args.all("secret"), lambda ref: thin.call("GET", remote.named("secrets", ref)))


def remove(args: Arguments) -> int:
    """Remove them."""

    def one(ref: str) -> str:
        thin.call("DELETE", remote.named("secrets", ref), {"force": args.switch("force")})
        return ref

    return remote.each(args.all("secret"), one)
