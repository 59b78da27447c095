"""Rows of external secrets."""

from __future__ import annotations

from twinhull.cli.option import FORCE, FORMAT, JSON, NO_TRUNC, QUIET, Argument, Command, Option

_SECRET = Argument("secret", complete="secrets", most=0)

COMMANDS = (
    Command(
        "secret create",
        "keep a secret for the compose files that call it external",
        "secrets:create",
        (Option("--replace", "also if there is one; applications take the new content at their next up", kind="switch"),),
        (
            Argument("name", "what `secrets: {NAME: {external: true}}` says"),
            Argument("file", "its content, as it is (default and -: stdin)", least=0, complete="files"),
        ),
        (
            ("twinhull secret create db-password password.txt", ""),
            ("twinhull secret create --replace db-password < password.txt", "then: twinhull up"),
        ),
    ),
    Command(
        "secret ls",
        "list secrets, and which services use them",
        "secrets:listing",
        (FORMAT, JSON, QUIET, NO_TRUNC),
        (),
        (("twinhull secret ls", ""),),
        aliases=("secret list",),
    ),
    Command(
        "secret inspect",
        "everything about secrets as JSON, but never their content",
        "secrets:inspect",
        (Option("--format", "a template such as '{{.used_by}}'", short="-f", metavar="FORMAT"), JSON),
        (_SECRET,),
        (("twinhull secret inspect db-password", ""),),
    ),
    Command(
        "secret rm",
        "remove secrets; what runs with them keeps its copy until its application is removed",
        "secrets:remove",
        (FORCE._replace(help="also one that an application uses, and don't mind a missing one"),),
        (_SECRET,),
        (("twinhull secret rm db-password", ""),),
        aliases=("secret remove",),
    ),
)
