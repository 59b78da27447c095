"""Rows of volumes."""

from __future__ import annotations

from twinhull.cli.option import FILTER, FORCE, FORMAT, JSON, NO_TRUNC, QUIET, REMOVED, Argument, Command, Option

_VOLUME = Argument("volume", complete="volumes")

COMMANDS = (
    Command(
        "volume create",
        "make a volume",
        "volumes:create",
        (
            Option("--label", "attach a label", metavar="KEY[=VALUE]", repeat=True),
            Option("--opt", "an option of the driver", short="-o", metavar="KEY=VALUE", repeat=True),
            Option("--driver", "local", short="-d", metavar="NAME", default="local"),
            Option("--name", "the same as NAME", metavar="NAME"),
        ),
        (Argument("name", "its name (default: one is made up)", least=0),),
        (("twinhull volume create data", ""),),
    ),
    Command(
        "volume ls",
        "list volumes",
        "volumes:listing",
        (FILTER, FORMAT, JSON, QUIET, NO_TRUNC),
        (),
        (("twinhull volume ls", ""),),
        aliases=("volume list",),
        notes="Filters: name, label, driver, dangling.",
    ),
    Command(
        "volume inspect",
        "everything about volumes as JSON",
        "volumes:inspect",
        (Option("--format", "a template such as '{{.mountpoint}}'", short="-f", metavar="FORMAT"), JSON),
        (_VOLUME._replace(most=0),),
        (("twinhull volume inspect data", ""),),
    ),
    Command(
        "volume rm",
        "remove volumes and their data",
        "volumes:remove",
        (FORCE._replace(help="a missing one is no error"),),
        (_VOLUME._replace(most=0),),
        (("twinhull volume rm data", ""),),
        aliases=("volume remove",),
    ),
    Command(
        "volume prune",
        "remove volumes that nothing uses",
        "volumes:prune",
        (Option("--all", "also those with a name", short="-a", kind="switch"), FORCE._replace(help="don't ask"), REMOVED),
        (),
        (("twinhull volume prune -f", ""),),
    ),
)
