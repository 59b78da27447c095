"""`volume …`."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

from twinhull.cli import body, output, remote, sheets
from twinhull.cli.picking import pick
from twinhull.client import thin
from twinhull.errors import NotFoundError

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments


def create(args: Arguments) -> int:
    """Make one and print its name."""
    spec: dict[str, Any] = {"name": args.place("name") or args.text("name"), "driver": args.text("driver", "local")}
    spec |= {"labels": body.pairs(args, "label"), "options": body.pairs(args, "opt")}
    print(thin.call("POST", "/v1/volumes", body=spec)["name"])
    return 0


def listing(args: Arguments) -> int:
    """The table of volumes."""
    views = pick(args, thin.call("GET", "/v1/volumes"), ("name", "label", "driver", "dangling"))
    return output.rows(args, sheets.volumes(time()), views)


def inspect(args: Arguments) -> int:
    """JSON."""
    from twinhull.cli.verbs.listing import inspect_all

    return inspect_all(args, args.all("volume"), lambda ref: thin.call("GET", remote.named("volumes", ref)))


def remove(args: Arguments) -> int:
    """Remove with the data."""
    force = args.switch("force")

    def one(ref: str) -> str:
        try:
            thin.call("DELETE", remote.named("volumes", ref), {"force": force})
        except NotFoundError:
            if not force:
                raise
        return ref

    return remote.each(args.all("volume"), one)


def prune(args: Arguments) -> int:
    """Remove what nothing uses."""
    what = "all volumes" if args.switch("all") else "all volumes without a name"
    if not remote.confirm(args, f"This removes {what} that nothing uses, with their data."):
        return 1
    return remote.told(args, thin.call("POST", "/v1/volumes/prune", {"all": args.switch("all")}))
