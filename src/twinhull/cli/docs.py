"""docs/cli.md, generated from the option table: `python -m twinhull.cli.docs > docs/cli.md`. A test compares."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from twinhull.cli import help as help_texts
from twinhull.cli import table
from twinhull.cli.template import HELP

if TYPE_CHECKING:
    from twinhull.cli.option import Command, Option

_HEAD = """# The command line

<!-- Generated from src/twinhull/cli/table by `python -m twinhull.cli.docs`; don't edit. -->

Verbs and flags are those of Docker and Podman. Options are written `--flag value` or `--flag=value`; short ones may be joined
(`-itd`, `-p8080:80`); `--` ends them. Sizes are powers of 1024 (`512m`, `1.5g`), durations `1m30s` or seconds.

Exit codes: 0; 1 for a failure; 2 for bad usage; `run`, `exec`, `attach`: the program's own, 125 for Twinhull's errors (bad usage too),
126 if the program can't be run, 127 if it isn't there; 130 after ctrl-c; 141 when the reader of its output has gone.

`TWINHULL_HOME` moves all of a daemon's things to one folder, `TWINHULL_HOST` and `TWINHULL_TOKEN` name another daemon, `NO_COLOR`
switches colours off.
"""


def text() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, module in table.GROUPS:
        parts.append(f"## {title}\n")
        parts += [_command(command) for command in table.rows(module) if not command.hidden]
    parts.append("## Templates\n\n```\n" + HELP + "```\n")
    return "\n".join(parts)


def _command(command: Command) -> str:
    parts = [f"### twinhull {command.words}\n", f"`{help_texts.synopsis(command)}`: {command.summary}.\n"]
    if command.aliases:
        parts.append(f"Also `{'`, `'.join(f'twinhull {alias}' for alias in command.aliases)}`.\n")
    if command.options:
        parts.append("\n".join(["| option | |", "| --- | --- |", *map(_row, command.options)]) + "\n")
    if command.notes:
        parts.append(command.notes + "\n")
    if command.examples:
        lines = [f"{line}{f'   # {told}' if told else ''}" for line, told in command.examples]
        parts.append("\n".join(["```", *lines, "```"]) + "\n")
    return "\n".join(parts)


def _row(option: Option) -> str:
    cell = help_texts.left(option).strip().replace("|", "\\|")
    return f"| `{cell}` | {help_texts.right(option).replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    sys.stdout.write(text())
