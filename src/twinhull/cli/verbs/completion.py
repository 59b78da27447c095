"""Completion scripts, made from the option table; what things are called comes from the hidden `__complete`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from twinhull.cli import table
from twinhull.cli.option import GLOBAL
from twinhull.cli.output import write
from twinhull.cli.parse import usage
from twinhull.client import thin
from twinhull.errors import TwinhullError

if TYPE_CHECKING:
    from twinhull.cli.option import Command, Complete, Option
    from twinhull.cli.parse import Arguments

_NAMED = ("instances", "running", "images", "volumes", "networks", "secrets", "services", "apps")


def script(args: Arguments) -> int:
    """A script for one shell."""
    makers = {"bash": bash, "zsh": zsh, "fish": fish}
    shell = args.place("shell")
    if shell not in makers:
        raise usage(args.command, f"{shell!r}: use bash, zsh or fish")
    write(makers[shell]())
    return 0


def candidates(args: Arguments) -> int:
    """Names of one kind, a line each; nothing without a daemon (a shell that completes isn't told errors)."""
    try:
        write("".join(f"{name}\n" for name in _names(args.place("kind"))))
    except TwinhullError:
        return 1
    return 0


def _names(kind: str) -> list[str]:
    if kind in ("instances", "running"):
        views = thin.call("GET", "/v1/instances", {"all": kind == "instances"})
        return [view["name"] for view in views]
    if kind == "apps":
        return [view["name"] for view in thin.call("GET", "/v1/apps")]
    if kind == "services":
        return _services()
    if kind == "images":
        return [name for view in thin.call("GET", "/v1/images") for name in view["names"]]
    if kind in ("networks", "volumes", "secrets"):
        return [view["name"] for view in thin.call("GET", f"/v1/{kind}")]
    return []


def _services() -> list[str]:
    """Of the compose file here, else of all applications."""
    from twinhull.compose import resolve

    try:
        return list(resolve([], environment=os.environ).spec().services)
    except TwinhullError:
        return [service["name"] for view in thin.call("GET", "/v1/apps") for service in view["services"]]


def _spellings() -> list[tuple[str, Command]]:
    """Every way to write every command, the longest first, so that `image ls` is found before `image`."""
    found = [(words, command) for command in table.every() if not command.hidden for words in (command.words, *command.aliases)]
    found += [(f"container {c.words}", c) for c in (*table.rows("run"), *table.rows("instances")) if " " not in c.words]
    return sorted(set(found), key=lambda item: (-len(item[0].split()), item[0]))


def _first_words() -> list[str]:
    return sorted({words.split()[0] for words, _ in _spellings()})


def _second_words(first: str) -> list[str]:
    return sorted({words.split()[1] for words, _ in _spellings() if words.startswith(f"{first} ")})


def _flags(command: Command) -> list[str]:
    return [spelling for option in (*command.options, *GLOBAL) for spelling in option.spellings]


def _kind(command: Command) -> Complete:
    """What the command's arguments are."""
    return next((argument.complete for argument in command.arguments if argument.complete), "")


def _valued(command: Command) -> list[Option]:
    return [option for option in command.options if option.kind != "switch"]


def bash() -> str:
    """Bash: one function, tables as case branches."""
    branches = "\n".join(_bash_branch(words, command) for words, command in _spellings())
    firsts = " ".join(_first_words())
    seconds = "\n".join(f"        {first}) words='{' '.join(_second_words(first))}' ;;" for first in _first_words() if _second_words(first))
    two = "|".join(f"'{words}'" for words, _ in _spellings() if " " in words)
    return _BASH.format(branches=branches, firsts=firsts, seconds=seconds, two=two)


def _bash_branch(words: str, command: Command) -> str:
    values = [
        f"{'|'.join(option.spellings)}) kind='{option.complete}'; words='{' '.join(option.choices)}' ;;" for option in _valued(command)
    ]
    inner = "\n".join(f"                {value}" for value in values)
    return (
        f"        '{words}')\n            flags='{' '.join(_flags(command))}'; kind='{_kind(command)}'\n"
        + (f'            case "$previous" in\n{inner}\n            esac' if values else "            :")
        + " ;;"
    )


_BASH = """# bash completion for twinhull; made by: twinhull completion bash
_twinhull() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
    local flags='' kind='' words='' first="${{COMP_WORDS[1]}}" second="${{COMP_WORDS[2]}}" command="${{COMP_WORDS[1]}}"
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=( $(compgen -W '{firsts}' -- "$current") ); return
    fi
    if [ "$COMP_CWORD" -eq 2 ]; then
        case "$first" in
{seconds}
        esac
    fi
    case "$first $second" in
        {two}) command="$first $second" ;;
    esac
    case "$command" in
{branches}
    esac
    case "$current" in
        -*) COMPREPLY=( $(compgen -W "$flags" -- "$current") ); return ;;
    esac
    case "$kind" in
        files) COMPREPLY=( $(compgen -f -- "$current") ); compopt -o filenames 2>/dev/null ;;
        folders) COMPREPLY=( $(compgen -d -- "$current") ); compopt -o filenames 2>/dev/null ;;
        ?*) words="$words $(twinhull __complete "$kind" 2>/dev/null)" ;;
    esac
    COMPREPLY+=( $(compgen -W "$words" -- "$current") )
    case "$kind" in images) type __ltrim_colon_completions >/dev/null 2>&1 && __ltrim_colon_completions "$current" ;; esac
}}
complete -F _twinhull twinhull
"""


def zsh() -> str:
    """Zsh, through shtab on an argparse parser made from the table."""
    import shtab

    return str(shtab.complete(parser(), shell="zsh", preamble={"zsh": _zsh_preamble()}))


def _zsh_preamble() -> str:
    return "\n".join(f'_twinhull_{kind}() {{ compadd -- ${{(f)"$(twinhull __complete {kind} 2>/dev/null)"}} }}' for kind in _NAMED)


def parser() -> Any:
    """An argparse parser with the table's commands and options, for shtab; nothing is ever parsed with it."""
    from argparse import ArgumentParser

    top = ArgumentParser(prog="twinhull", add_help=True)
    commands = top.add_subparsers(dest="command")
    groups: dict[str, Any] = {}
    for words, command in sorted(_spellings()):
        first, _, second = words.partition(" ")
        where = commands
        if second:
            if first not in groups:
                groups[first] = commands.choices.get(first) or commands.add_parser(first, help=f"{first} commands")
                groups[first] = groups[first].add_subparsers(dest="subcommand")
            where = groups[first]
        _fill(where.add_parser(second or first, help=command.summary, conflict_handler="resolve"), command)
    return top


def _fill(sub: Any, command: Command) -> None:
    for option in command.options:
        action = sub.add_argument(*option.spellings, help=option.help.replace("%", "%%"), **_argparse_form(option))
        _complete(action, option.complete)
    for argument in command.arguments:
        nargs = "*" if argument.most == 0 else "?" if not argument.least else None
        _complete(sub.add_argument(argument.name, nargs=nargs, help=argument.help or argument.name), argument.complete)


def _argparse_form(option: Option) -> dict[str, Any]:
    if option.kind == "switch":
        return {"action": "store_true"}
    form: dict[str, Any] = {"action": "append" if option.repeat else "store", "metavar": option.metavar or None}
    return form | ({"choices": option.choices} if option.choices else {})


def _complete(action: Any, kind: Complete) -> None:
    import shtab

    if kind == "files":
        action.complete = shtab.FILE
    elif kind == "folders":
        action.complete = shtab.DIRECTORY
    elif kind:
        action.complete = {"zsh": f"_twinhull_{kind}"}


def fish() -> str:
    """Fish, by hand: a line for each flag of each command."""
    lines = ["# fish completion for twinhull; made by: twinhull completion fish", "complete -c twinhull -f"]
    lines += [f"complete -c twinhull -n __fish_use_subcommand -a {first}" for first in _first_words()]
    for first in _first_words():
        if seconds := _second_words(first):
            inner = f"__fish_seen_subcommand_from {first}; and test (count (commandline -opc)) -eq 2"
            lines.append(f"complete -c twinhull -n '{inner}' -a '{' '.join(seconds)}'")
    for words, command in _spellings():
        lines += _fish_command(words, command)
    return "\n".join(lines) + "\n"


def _fish_command(words: str, command: Command) -> list[str]:
    seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in words.split())
    start = f"complete -c twinhull -n '{seen}'"
    lines = []
    for option in command.options:
        short = f" -s {option.short[1]}" if option.short else ""
        value = "" if option.kind == "switch" else f" -r{_fish_values(option.complete, option.choices)}"
        lines.append(f"{start}{short} -l {option.flag.lstrip('-')} -d {_fish_quote(option.help)}{value}")
    if _kind(command):
        lines.append(f"{start}{_fish_values(_kind(command), ())}")
    return lines


def _fish_values(kind: Complete, choices: tuple[str, ...]) -> str:
    if kind in ("files", "folders"):
        return " -F"
    if kind:
        return f" -a '(twinhull __complete {kind} 2>/dev/null)'"
    return f" -a '{' '.join(choices)}'" if choices else ""


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
