"""From words to values by the rows of a command. Pure: no environment, no files.

Docker's syntax: `--flag=value` or `--flag value`, short flags in one word (`-itd`, `-p80:80`), `--` ends the options, and for commands with
`options_first` the first positional argument does too. The last value of a flag that isn't `repeat` wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from twinhull.cli import values
from twinhull.cli.option import GLOBAL, HELP
from twinhull.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twinhull.cli.option import Argument, Command, Option

    Value = bool | int | float | str | list[str]

_CONVERT: dict[str, Callable[[str], bool | int | float | str]] = {
    "switch": values.boolean,
    "text": str,
    "integer": values.integer,
    "number": values.number,
    "size": values.size,
    "duration": values.duration,
    "count": values.count,
}


class UsageError(UserError):
    """The command line itself is wrong: exit code 2 (125 for run and exec)."""


class Arguments(NamedTuple):
    """What a command was given. The getters state the type the option's kind promises."""

    command: Command
    options: dict[str, Value]
    places: dict[str, list[str]]

    def has(self, name: str) -> bool:
        """Whether the option was given at all."""
        return name in self.options

    def switch(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        return bool(self.options.get(name, default))

    def text(self, name: str, default: str = "") -> str:
        """A text, or the default."""
        return str(self.options.get(name, default))

    def number(self, name: str) -> float | None:
        """A number, size (bytes) or duration (seconds); None if it wasn't given."""
        value = self.options.get(name)
        return value if isinstance(value, int | float) else None

    def many(self, name: str) -> list[str]:
        """All values of a repeated option."""
        value = self.options.get(name, [])
        return value if isinstance(value, list) else [str(value)]

    def place(self, name: str, default: str = "") -> str:
        """The one value of a positional argument."""
        found = self.places.get(name)
        return found[0] if found else default

    def all(self, name: str) -> list[str]:
        """All values of a positional argument."""
        return self.places.get(name, [])


def parse(command: Command, words: Sequence[str]) -> Arguments:
    """Values of a command's options and arguments. Raises UsageError."""
    known = _spellings(command)
    options: dict[str, Value] = {}
    positional: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            positional += rest
            break
        if word.startswith("--"):
            _long(command, known, word, rest, options)
        elif word.startswith("-") and len(word) > 1:
            _short(command, known, word, rest, options)
        else:
            positional.append(word)
            if command.options_first:
                positional += rest
                break
    if options.get("help"):
        return Arguments(command, options, {})
    found = Arguments(command, options, _place(command, positional))
    _require(found)
    return found


def _spellings(command: Command) -> dict[str, Option]:
    """Every spelling → its row. -h is help wherever it isn't something else."""
    known = {"-h": HELP}
    for option in (*GLOBAL, *command.options):
        for spelling in option.spellings:
            known[spelling] = option
    return known


def _long(command: Command, known: dict[str, Option], word: str, rest: list[str], options: dict[str, Value]) -> None:
    flag, equals, value = word.partition("=")
    option = known.get(flag)
    if option is None:
        raise _unknown(command, known, flag)
    if equals:
        _store(command, option, flag, value, options)
    elif option.kind == "switch":
        _store(command, option, flag, "true", options)
    else:
        _store(command, option, flag, _next(command, option, flag, rest), options)


def _short(command: Command, known: dict[str, Option], word: str, rest: list[str], options: dict[str, Value]) -> None:
    """A cluster: switches up to one that takes a value, which is what is left of the word, or the next one."""
    letters = word[1:]
    while letters:
        flag, letters = f"-{letters[0]}", letters[1:]
        option = known.get(flag)
        if option is None:
            raise _unknown(command, known, flag if len(word) == 2 else f"{flag} in {word}")
        if option.kind != "switch":
            value = letters.removeprefix("=") if letters else _next(command, option, flag, rest)
            _store(command, option, flag, value, options)
            return
        if letters.startswith("="):
            _store(command, option, flag, letters[1:], options)
            return
        _store(command, option, flag, "true", options)


def _next(command: Command, option: Option, flag: str, rest: list[str]) -> str:
    if not rest:
        raise usage(command, f"{flag} needs a value: {flag} {option.metavar or 'VALUE'}")
    return rest.pop(0)


def _store(command: Command, option: Option, flag: str, text: str, options: dict[str, Value]) -> None:
    if option.choices and text not in option.choices:
        raise usage(command, f"{flag} {text!r}: use one of {', '.join(option.choices)}")
    try:
        value = _CONVERT[option.kind](text)
    except ValueError as error:
        raise usage(command, f"{flag} {text!r}: {error}") from error
    if not option.repeat:
        options[option.name] = value
        return
    earlier = options.setdefault(option.name, [])
    if isinstance(earlier, list):
        earlier.append(str(value))


def _place(command: Command, words: list[str]) -> dict[str, list[str]]:
    """Positional words to the command's arguments, each as many as it may have while the later ones get their least."""
    places: dict[str, list[str]] = {}
    rest = words
    for index, argument in enumerate(command.arguments):
        if len(rest) < argument.least:
            raise usage(command, f"{_title(command)} needs {_upper(argument)}")
        spare = len(rest) - sum(later.least for later in command.arguments[index + 1 :])
        take = max(spare if argument.most == 0 else min(spare, argument.most), argument.least)
        places[argument.name], rest = rest[:take], rest[take:]
    if rest:
        raise usage(command, f"{_title(command)} takes no further argument: {rest[0]!r}")
    return places


def _require(found: Arguments) -> None:
    wanted = found.command.needs_one_of
    if wanted and not any(found.places.get(name) or found.options.get(name) for name in wanted):
        raise usage(found.command, f"{_title(found.command)} needs {' or '.join(_either(found.command, name) for name in wanted)}")


def _either(command: Command, name: str) -> str:
    return name.upper() if any(argument.name == name for argument in command.arguments) else f"--{name}"


def _upper(argument: Argument) -> str:
    return argument.name.upper() + (" (one or more)" if argument.most == 0 and argument.least else "")


def _title(command: Command) -> str:
    return command.words


def usage(command: Command, message: str, hint: str = "") -> UsageError:
    """A UsageError that says where help is."""
    return UsageError(message, hint or f"see: twinhull {command.words} --help")


def _unknown(command: Command, known: dict[str, Option], flag: str) -> UsageError:
    from twinhull.cli import foreign
    from twinhull.cli.suggest import did_you_mean

    near = foreign.option(flag) or (did_you_mean(flag, known) if flag.startswith("--") else "")
    return usage(command, f"{_title(command)}: unknown option {flag}", near)
