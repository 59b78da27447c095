"""Rows of networks."""

from __future__ import annotations

from twinhull.cli.option import FILTER, FORCE, FORMAT, JSON, NO_TRUNC, QUIET, REMOVED, Argument, Command, Option

_NETWORK = Argument("network", complete="networks")

COMMANDS = (
    Command(
        "network create",
        "make a network",
        "networks:create",
        (
            Option("--subnet", "addresses, e.g. 10.89.1.0/24 (default: one that is free)", metavar="CIDR"),
            Option("--internal", "no way out of the machine", kind="switch"),
            Option("--label", "attach a label", metavar="KEY[=VALUE]", repeat=True),
            Option("--mtu", "size of the largest packet", kind="integer", metavar="BYTES", default="1500"),
            Option("--opt", "mtu=BYTES", short="-o", metavar="KEY=VALUE", repeat=True),
            Option("--driver", "bridge", short="-d", metavar="NAME", choices=("bridge",), default="bridge"),
        ),
        (Argument("name"),),
        (("twinhull network create --internal backend", "instances reach each other and nothing else"),),
    ),
    Command(
        "network ls",
        "list networks",
        "networks:listing",
        (FILTER, FORMAT, JSON, QUIET, NO_TRUNC),
        (),
        (("twinhull network ls", ""),),
        aliases=("network list",),
        notes="Filters: name, label.",
    ),
    Command(
        "network inspect",
        "everything about networks as JSON",
        "networks:inspect",
        (Option("--format", "a template such as '{{.subnet}}'", short="-f", metavar="FORMAT"), JSON),
        (_NETWORK._replace(most=0),),
        (("twinhull network inspect default", ""),),
    ),
    Command(
        "network rm",
        "remove networks",
        "networks:remove",
        (FORCE._replace(help="a missing one is no error"),),
        (_NETWORK._replace(most=0),),
        (("twinhull network rm backend", ""),),
        aliases=("network remove",),
    ),
    Command(
        "network prune",
        "remove networks without instances",
        "networks:prune",
        (FORCE._replace(help="don't ask"), REMOVED),
        (),
        (("twinhull network prune -f", ""),),
    ),
)
