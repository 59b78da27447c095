"""Help, rendered from the option table. Pure but for `show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinhull.cli import table

if TYPE_CHECKING:
    from twinhull.cli.option import Argument, Command, Option

_LEFT = 34
"""Cells of the column of flags."""


def show(words: str) -> int:
    """Print help for a command, a first word of commands, a topic, or everything."""
    from twinhull.cli.output import write

    write(text(words))
    return 0


def text(words: str) -> str:
    """The help text. Raises UsageError for an unknown command."""
    if not words:
        return overview()
    if words == "templates":
        from twinhull.cli.template import HELP

        return HELP
    first, _, second = words.partition(" ")
    prefix = table.PREFIXES.get(first)
    command = table.find(words) or (table.find(f"{prefix} {second}".strip()) if prefix is not None and second else None)
    if command:
        return of(command)
    if prefix is not None and not second:
        return group(first)
    from twinhull.cli.parse import UsageError
    from twinhull.cli.suggest import did_you_mean

    raise UsageError(f"there is no command {words!r}", did_you_mean(words, table.names()) or "see: twinhull --help")


def overview() -> str:
    """`twinhull --help`: all commands in groups, a line each."""
    parts = [
        "Twinhull runs the same OCI image as a container or as a virtual machine, by one word.\n",
        "Usage: twinhull COMMAND [OPTIONS] …\n",
    ]
    for title, module in table.GROUPS:
        lines = [_two(_listed(command), command.summary, 28) for command in table.rows(module) if not command.hidden]
        parts.append("\n".join([f"{title}:", *lines]) + "\n")
    parts.append("twinhull COMMAND --help shows a command's options and examples; twinhull help templates, what --format understands.")
    parts.append("TWINHULL_HOME moves everything to one folder; TWINHULL_HOST names another daemon; NO_COLOR switches colours off.\n")
    return "\n".join(parts)


def _listed(command: Command) -> str:
    """The words, and the single word that people type instead if there is one."""
    short = [alias for alias in command.aliases if " " not in alias and command.words != "ps"]
    return f"{command.words}, {short[0]}" if " " in command.words and short else command.words


def group(first: str) -> str:
    """All commands that begin with a word."""
    prefix = table.PREFIXES[first]
    rows = (*table.rows("run"), *table.rows("instances")) if not prefix else table.every()
    found = [(_second(command, prefix), command.summary) for command in rows if not command.hidden]
    lines = [_two(f"{first} {words}" if prefix else words, summary, 20) for words, summary in found if words]
    front = " [-f FILE]… [-p NAME]" if prefix == "compose" else ""
    return "\n".join([f"Usage: twinhull {first}{front} COMMAND …\n", *lines, f"\ntwinhull {first} COMMAND --help shows more.", ""])


def _second(command: Command, prefix: str) -> str:
    """What stands behind the prefix, "" if the command can't be written with it."""
    if not prefix:
        return command.words
    spellings = (command.words, *command.aliases)
    return next((words.removeprefix(f"{prefix} ") for words in spellings if words.startswith(f"{prefix} ")), "")


def of(command: Command) -> str:
    """One command's help."""
    parts = [f"Usage: {synopsis(command)}\n", f"{command.summary[0].upper()}{command.summary[1:]}.\n"]
    if command.aliases:
        parts.append(f"Also: {', '.join(f'twinhull {alias}' for alias in command.aliases)}\n")
    described = [_two(argument.name.upper(), argument.help, _LEFT) for argument in command.arguments if argument.help]
    if described:
        parts.append("\n".join(["Arguments:", *described]) + "\n")
    if command.options:
        parts.append("\n".join(["Options:", *(_two(left(option), right(option), _LEFT) for option in command.options)]) + "\n")
    if command.notes:
        parts.append(_wrap(command.notes, 0) + "\n")
    if command.examples:
        parts.append("\n".join(["Examples:", *_examples(command)]) + "\n")
    return "\n".join(parts)


def synopsis(command: Command) -> str:
    """twinhull run [OPTIONS] IMAGE [COMMAND…]"""
    words = ["twinhull", command.words, *(["[OPTIONS]"] if command.options else []), *map(place, command.arguments)]
    return " ".join(words)


def place(argument: Argument) -> str:
    """NAME, NAME…, [NAME] or [NAME…]."""
    shown = argument.name.upper() + ("…" if argument.most == 0 else "")
    return shown if argument.least else f"[{shown}]"


def left(option: Option) -> str:
    """-m, --memory SIZE"""
    short = f"{option.short}, " if option.short else "    "
    return f"{short}{option.flag}" + (f" {option.metavar}" if option.metavar else "")


def right(option: Option) -> str:
    """Its help, its choices and its default."""
    choices = f" ({', '.join(option.choices)})" if option.choices and option.choices[0] not in option.help else ""
    default = f" [{option.default}]" if option.default and option.kind != "switch" else ""
    also = f" (also {', '.join(option.aliases)})" if option.aliases else ""
    return f"{option.help}{choices}{also}{default}"


def _two(one: str, other: str, width: int) -> str:
    if len(one) <= width - 2:
        return f"  {one:{width}}{other}".rstrip()
    return f"  {one}\n  {'':{width}}{other}".rstrip()


def _examples(command: Command) -> list[str]:
    return [f"  {line}" + (f"\n      {told}" if told else "") for line, told in command.examples]


def _wrap(words: str, indent: int) -> str:
    from textwrap import fill

    return fill(words, 100, initial_indent=" " * indent, subsequent_indent=" " * indent)
