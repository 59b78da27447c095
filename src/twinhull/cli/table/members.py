"""Rows of what is done to each instance of an application's services."""

from __future__ import annotations

from twinhull.cli.option import JSON, QUIET, Argument, Command, Option

_SERVICES = Argument("service", "all services if none is named", least=0, most=0, complete="services")


def commands(files: tuple[Option, ...]) -> tuple[Command, ...]:
    """The rows. `files`: the options that say which application is meant."""
    # -f is docker compose's --force here
    plain = tuple(option._replace(short="") if option.short == "-f" else option for option in files)
    return (
        Command(
            "compose kill",
            "send a signal to every instance",
            "members:kill",
            (*files, Option("--signal", "which", short="-s", metavar="SIGNAL", default="KILL")),
            (_SERVICES,),
            (("twinhull compose kill -s HUP web", ""),),
        ),
        Command(
            "compose pause",
            "freeze all processes of services",
            "members:pause",
            files,
            (_SERVICES,),
            (("twinhull compose pause worker", "thaw them: twinhull compose unpause worker"),),
        ),
        Command(
            "compose unpause",
            "thaw what was paused",
            "members:unpause",
            files,
            (_SERVICES,),
            (("twinhull compose unpause worker", ""),),
        ),
        Command(
            "compose wait",
            "wait for the instances of services and print their exit codes",
            "members:wait",
            files,
            (_SERVICES._replace(help="", least=1),),
            (("twinhull compose wait migrate", ""),),
        ),
        Command(
            "compose rm",
            "remove the instances of services that were stopped",
            "members:remove",
            (
                *plain,
                Option("--force", "don't ask", short="-f", kind="switch"),
                Option("--stop", "stop them first", short="-s", kind="switch"),
                Option("--volumes", "their anonymous volumes too", short="-v", kind="switch"),
            ),
            (_SERVICES,),
            (("twinhull compose rm -sf worker", "until: twinhull compose start worker"),),
        ),
        Command(
            "compose cp",
            "copy files between here and an instance of a service",
            "members:copy",
            (
                *files,
                Option("--index", "which instance of the service", kind="integer", metavar="N"),
                Option("--archive", "keep numeric owner and group", short="-a", kind="switch"),
                Option("--follow-link", "copy what a symbolic link SOURCE points to", short="-L", kind="switch"),
                QUIET._replace(help="no progress"),
            ),
            (
                Argument("source", "PATH, SERVICE:PATH, or - for a tar on stdin", complete="files"),
                Argument("target", "PATH, SERVICE:PATH, or - for a tar on stdout", complete="files"),
            ),
            (("twinhull compose cp web:/var/log/app.log .", ""),),
            notes="Rules as in `twinhull cp`.",
        ),
        Command(
            "compose top",
            "show the processes of services",
            "members:top",
            (*files, JSON),
            (_SERVICES,),
            (("twinhull compose top", ""),),
        ),
    )
