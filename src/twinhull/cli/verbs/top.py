"""`top` without an instance: the services of all applications, how many instances each has and why, and what it bears."""

from __future__ import annotations

import sys
from time import sleep
from typing import TYPE_CHECKING, Any

from twinhull.cli import output
from twinhull.cli.columns import Column
from twinhull.cli.output import Sheet
from twinhull.cli.parse import usage
from twinhull.client import thin

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments

    Item = dict[str, Any]

_HOME_AND_CLEAR = "\x1b[H\x1b[J"
_BAD = ("failing", "waiting")


def top(args: Arguments) -> int:
    """Processes of an instance, or the services of all applications: a table drawn anew each second on a terminal, else one a second."""
    if args.place("instance"):
        if args.switch("no_stream"):
            raise usage(args.command, "--no-stream is for the table of services: the processes of an instance are shown once anyway")
        from twinhull.cli.verbs import listing

        return listing.top(args)
    while True:
        rows = services()
        if not args.switch("no_stream") and sys.stdout.isatty() and output.chosen(args) == "table":
            output.write(_HOME_AND_CLEAR)
        output.rows(args, sheet(), rows)
        if args.switch("no_stream"):
            return 0
        sleep(1)


def services() -> list[Item]:
    """A row for each service of each application. Figures that nobody has are None: of a service without scale, or without a route."""
    apps: list[Item] = thin.call("GET", "/v1/apps")
    scales = {(each["app"], each["service"]): each for each in thin.call("GET", "/v1/scale")}
    traffic = {each["name"]: each for each in thin.call("GET", "/v1/traffic")}
    return [
        _row(app["name"], service, scales.get((app["name"], service["name"])), traffic.get(f"{app['name']}/{service['name']}"))
        for app in apps
        for service in app["services"]
    ]


def _row(app: str, service: Item, scale: Item | None, traffic: Item | None) -> Item:
    return {
        "app": app,
        "service": service["name"],
        "runtime": service["runtime"],
        "state": service["state"],
        "desired": service["desired"],
        "ready": service["ready"],
        "reason": service["reason"] or (scale["reason"] if scale else ""),
        **{key: scale[key] if scale else None for key in ("min", "max", "targets", "decided_by", "waiting", "panic")},
        **{key: traffic[key] if traffic else None for key in ("rate", "sessions", "queue", "p95")},
    }


def sheet() -> Sheet:
    """Its columns."""
    return Sheet(
        (
            Column("App", "APP", lambda item: item["app"]),
            Column("Service", "SERVICE", lambda item: item["service"]),
            Column("Runtime", "RUNTIME", lambda item: item["runtime"]),
            Column("State", "STATE", lambda item: item["state"], colour=_colour),
            Column("Ready", "READY", lambda item: f"{item['ready']}/{item['desired']}"),
            Column("Bounds", "MIN-MAX", lambda item: "-" if item["max"] is None else f"{item['min']}-{item['max']}"),
            Column("Rate", "REQ/S", lambda item: _number(item["rate"])),
            Column("P95", "P95", lambda item: f"{item['p95'] * 1000:.0f}ms" if item["p95"] else "-"),
            Column("Open", "OPEN", lambda item: _number(item["sessions"])),
            Column("Waiting", "WAITING", waiting),
            Column("Target", "TARGET", targets),
            Column("Reason", "REASON", lambda item: item["reason"], flexible=True),
        ),
        lambda item: f"{item['app']}/{item['service']}",
    )


def targets(item: Item) -> str:
    """Each with its average over the window and what one instance is to bear: "rps 240/50 cpu 31/70"."""
    found = [(each["target"].partition(":")[0], each["stable"], each["value"]) for each in item["targets"] or ()]
    return " ".join(f"{kind} {_number(stable, '?')}/{_number(value)}" for kind, stable, value in found) or "-"


def waiting(item: Item) -> str:
    """Requests that wait for an instance: in the gateway, and in the activator."""
    known = [item[key] for key in ("queue", "waiting") if item[key] is not None]
    return str(sum(known)) if known else "-"


def _number(value: float | None, unknown: str = "-") -> str:
    return unknown if value is None else f"{value:.4g}"


def _colour(item: Item) -> str:
    if item["state"] == "up":
        return "green"
    return "red" if item["state"] in _BAD else "yellow"
