"""`compose -f FILE -p NAME VERB …`: the options that docker compose takes before the verb, moved behind it. Pure."""

from __future__ import annotations

from twinhull.cli.option import Argument, Command, Option
from twinhull.cli.parse import parse
from twinhull.cli.table.compose import FILES

_LOOKS = (Option("--ansi", "", metavar="WHEN"), Option("--progress", "", metavar="TYPE"), Option("--compatibility", "", kind="switch"))
"""Of docker compose; they change nothing here: colours and progress go by the terminal."""
_FRONT = Command("compose", "", "", (*FILES, *_LOOKS), (Argument("command", most=0),), options_first=True)


def moved(words: list[str]) -> list[str]:
    """`-f a.yaml -p x logs -f web` → `logs --file=a.yaml --project-name=x -f web`: long, since a verb may use the letter otherwise.

    Raises UsageError.
    """
    found = parse(_FRONT, words)
    if found.switch("help"):
        return ["--help"]
    verb, *rest = found.all("command")
    files = [f"{option.flag}={value}" for option in FILES if found.has(option.name) for value in found.many(option.name)]
    return [verb, *files, *rest]
