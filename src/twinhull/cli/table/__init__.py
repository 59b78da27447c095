"""The table of all commands, by the module that holds the rows, so that a hot verb loads its own rows only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twinhull.cli.option import Command

_HOT = {
    **dict.fromkeys(("run", "create", "exec", "attach"), "run"),
    **dict.fromkeys(("start", "stop", "restart", "kill", "pause", "unpause", "rm", "wait", "ps", "logs", "cp"), "instances"),
    **dict.fromkeys(("stats", "top", "inspect", "port", "rename", "update", "diff", "commit", "export"), "instances"),
    "version": "system",
}
"""Verb → module, for what must start fast; checked against the rows by a test."""

GROUPS = (
    ("Run", "run"),
    ("Instances", "instances"),
    ("Applications", "compose"),
    ("Images", "images"),
    ("Networks", "networks"),
    ("Volumes", "volumes"),
    ("Secrets", "secrets"),
    ("Snapshots", "snapshots"),
    ("Compare", "compare"),
    ("System", "system"),
)
"""Title in `--help` → module with the rows, in the order shown."""

PREFIXES = {
    "container": "",
    "instance": "",
    "compose": "compose",
    "app": "compose",
    "image": "image",
    "network": "network",
    "volume": "volume",
    "secret": "secret",
    "snapshot": "snapshot",
    "system": "system",
    "daemon": "daemon",
}
"""First words of two-word commands → the prefix of their rows: `container stop` is `stop`."""


def rows(module: str) -> tuple[Command, ...]:
    """The commands of one module of this package."""
    commands: tuple[Command, ...] = import_module(f"twinhull.cli.table.{module}").COMMANDS
    return commands


def every() -> tuple[Command, ...]:
    """All commands, in the order of `GROUPS`."""
    return tuple(command for _, module in GROUPS for command in rows(module))


def find(words: str) -> Command | None:
    """The command of these words ("stop", "image ls", an alias), or None."""
    hot = _HOT.get(words)
    commands = rows(hot) if hot else every()
    for command in commands:
        if words == command.words or words in command.aliases:
            return command
    return None


def names(*, hidden: bool = False) -> list[str]:
    """All words and aliases."""
    return [words for command in every() if hidden or not command.hidden for words in (command.words, *command.aliases)]
