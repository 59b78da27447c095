"""`snapshot …`."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from twinhull.cli import output, remote, sheets
from twinhull.client import thin

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments


def create(args: Arguments) -> int:
    """Make one and print its key."""
    print(thin.call("POST", "/v1/snapshots", body={"instance": args.place("instance")})["key"])
    return 0


def listing(args: Arguments) -> int:
    """The table of snapshots."""
    return output.rows(args, sheets.snapshots(time(), full=args.switch("no_trunc")), thin.call("GET", "/v1/snapshots"))


def remove(args: Arguments) -> int:
    """Remove them."""

    def one(ref: str) -> str:
        thin.call("DELETE", remote.named("snapshots", ref))
        return ref

    return remote.each(args.all("snapshot"), one)
