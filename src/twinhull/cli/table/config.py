"""The row of `config`, which reads compose files and needs no daemon."""

from __future__ import annotations

from twinhull.cli.option import JSON, Argument, Command, Option

OPTIONS = (
    Option("--check", "list what can't be honoured, and why; exit code 1 if that would change the meaning", kind="switch"),
    Option("--format", "yaml or json", metavar="FORMAT", choices=("yaml", "json"), default="yaml"),
    JSON,
    Option("--services", "only the names of services, each after those it depends on", kind="switch"),
    Option("--images", "only the names of images", kind="switch"),
    Option("--volumes", "only the names of volumes", kind="switch"),
    Option("--networks", "only the names of networks", kind="switch"),
    Option("--profiles", "only the names of profiles", kind="switch"),
    Option("--hash", "only the fingerprint of a service, or of all ('*')", metavar="SERVICE"),
    Option("--no-interpolate", "leave variables, short forms, include and extends as they are", kind="switch"),
    Option("--quiet", "print nothing, only check", short="-q", kind="switch"),
)
ARGUMENTS = (Argument("service", "all services if none is named", least=0, most=0),)
EXAMPLES = (
    ("twinhull config --check", "what won't be as the file says"),
    ("twinhull config -f compose.yaml -f production.yaml --format json", "the two merged"),
)
NOTES = "Exit codes: 2 if the file is malformed (FILE:LINE is said); with --check, 1 if `up` would refuse it. See docs/compose.md."


def command(files: tuple[Option, ...]) -> Command:
    """The row. `files`: the options that say which application is meant."""
    summary = "show a compose file as it is understood"
    row = Command("config", summary, "config:config", (*files, *OPTIONS), ARGUMENTS, EXAMPLES, notes=NOTES)
    return row._replace(aliases=("compose config",))
