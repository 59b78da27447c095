"""`network …`."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

from twinhull.cli import body, output, remote, sheets
from twinhull.cli.parse import usage
from twinhull.cli.picking import pick
from twinhull.client import thin
from twinhull.errors import NotFoundError

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments


def create(args: Arguments) -> int:
    """Make one and print its id."""
    spec: dict[str, Any] = {"name": args.place("name"), "internal": args.switch("internal"), "labels": body.pairs(args, "label")}
    spec |= {name: args.options[name] for name in ("subnet", "mtu") if args.has(name)}
    for text in args.many("opt"):
        key, _, value = text.partition("=")
        if key.rpartition(".")[2] != "mtu" or not (value.isascii() and value.isdigit()):  # com.docker.network.driver.mtu too
            raise usage(args.command, f"--opt {text}: only mtu=BYTES is understood")
        spec["mtu"] = int(value)
    print(thin.call("POST", "/v1/networks", body=spec)["id"])
    return 0


def listing(args: Arguments) -> int:
    """The table of networks."""
    views = pick(args, thin.call("GET", "/v1/networks"), ("name", "label", "id", "internal"))
    return output.rows(args, sheets.networks(time(), full=args.switch("no_trunc")), views)


def inspect(args: Arguments) -> int:
    """JSON."""
    from twinhull.cli.verbs.listing import inspect_all

    return inspect_all(args, args.all("network"), lambda ref: thin.call("GET", remote.named("networks", ref)))


def remove(args: Arguments) -> int:
    """Remove."""

    def one(ref: str) -> str:
        try:
            thin.call("DELETE", remote.named("networks", ref))
        except NotFoundError:
            if not args.switch("force"):
                raise
        return ref

    return remote.each(args.all("network"), one)


def prune(args: Arguments) -> int:
    """Remove those without instances."""
    if not remote.confirm(args, "This removes all networks without instances."):
        return 1
    return remote.told(args, thin.call("POST", "/v1/networks/prune"))
