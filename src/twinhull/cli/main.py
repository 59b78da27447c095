"""`twinhull`: the words of the command line to a command, its outcome to an exit code.

The only place that ends the process. Exit codes: 0; what `run` and `exec` pass on from the workload; 125 for their own errors (126 and 127
where the program can't be run or isn't there); 2 for what can't be right whatever the machine's state (bad usage, a malformed file, a name
that can't be one); 1 for other failures; 130 after ctrl-c; 141 when whoever read our output has gone.
Only light modules are imported on the way to a hot verb: see docs/adr/0001-one-option-table.md.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from twinhull.cli import table
from twinhull.cli.parse import UsageError, parse
from twinhull.errors import CannotRunError, ConflictError, NotFoundError, TwinhullError, UnsupportedError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twinhull.cli.option import Command
    from twinhull.cli.parse import Arguments

FAILED, USAGE, OWN_ERROR, INTERRUPTED, BROKEN_PIPE = 1, 2, 125, 130, 141


def main() -> int:
    """The entry point: status of the command line of this process."""
    _complete_standard_streams()
    try:
        status = dispatch(sys.argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        return _quiet_end()
    except KeyboardInterrupt:
        return INTERRUPTED
    if "threading" not in sys.modules:
        # nothing is left that the interpreter's teardown would do for us: it takes a fifth of a hot verb's time (7 of 38 ms)
        os._exit(status)
    return status


def dispatch(words: Sequence[str]) -> int:
    """Run one command line; errors become messages and exit codes here."""
    rest = list(words)
    debug = rest[:1] == ["--debug"]
    command: Command | None = None
    try:
        command, rest = resolve(rest[1:] if debug else rest)
        args = parse(command, rest)
        debug = debug or args.switch("debug")
        return _help(command.words) if args.switch("help") else handler(command)(args)
    except BrokenPipeError:
        raise
    except Exception as error:
        if command is not None and (instead := _about_services(error, command)):
            return dispatch([*(["--debug"] if debug else []), *instead, *rest])
        if debug:
            import traceback

            traceback.print_exc()
        else:
            report(error)
        return exit_code(error, command)


def resolve(words: list[str]) -> tuple[Command, list[str]]:
    """The command that the words begin with, and the words left. Raises UsageError with the nearest one."""
    if not words or words[0] in ("-h", "--help"):
        return _known("help"), words[:0]
    if words[0] in ("-v", "-V", "--version"):
        return _known("version"), words[1:]
    prefix = table.PREFIXES.get(words[0])
    if prefix is not None:
        two = _two_words(words, prefix)
        if two:
            return two
    command = table.find(words[0])
    if command is None:
        raise _unknown(words[0])
    return command, words[1:]


def _two_words(words: list[str], prefix: str) -> tuple[Command, list[str]] | None:
    """`image ls …`, `container stop …`; None where the first word is a command of its own (`daemon --detach`)."""
    second = words[1] if len(words) > 1 else ""
    if second.startswith("-") and prefix == "compose" and second not in ("-h", "--help"):
        from twinhull.cli.front import moved

        return _two_words([words[0], *moved(words[1:])], prefix)
    if not second or second.startswith("-"):
        if table.find(words[0]):
            return None
        return _known("help"), [words[0]]
    command = table.find(f"{words[0]} {second}") or table.find(f"{prefix} {second}".strip())
    if command is None:
        raise _unknown(f"{words[0]} {second}")
    return command, words[2:]


def _about_services(error: Exception, command: Command) -> list[str]:
    """A verb about instances that finds none of that name, or is given none, is about the services of the compose file here, if any."""
    words = ["compose", command.words.rpartition(" ")[2]]
    missing = isinstance(error, NotFoundError) and "no such instance" in error.message
    nothing = isinstance(error, UsageError) and " needs " in error.message
    if not (missing or nothing) or command.words.startswith("compose") or table.find(" ".join(words)) is None:
        return []
    from twinhull.cli.appfile import is_here

    return words if is_here() else []


def handler(command: Command) -> Callable[[Arguments], int]:
    """The function behind a command, its module loaded now."""
    module, _, function = command.handler.partition(":")
    found: Callable[[Arguments], int] = getattr(import_module(f"twinhull.cli.verbs.{module}"), function)
    return found


def report(error: Exception) -> None:
    """Message and hint, a line each, on stderr."""
    from twinhull.cli.style import paint, printable

    if isinstance(error, TwinhullError):
        message, hint = error.message, error.hint
    else:
        message, hint = f"{type(error).__name__}: {error}", "a bug in twinhull, or a broken machine: --debug shows where"
    print(f"{paint('twinhull:', 'red', sys.stderr)} {printable(message, newlines=True)}", file=sys.stderr)
    if hint:
        print(f"  {printable(hint, newlines=True)}", file=sys.stderr)


def exit_code(error: Exception, command: Command | None) -> int:
    """See the module's docstring."""
    if isinstance(error, CannotRunError):
        return error.exit_code
    if command is not None and command.own_exit_codes:
        return OWN_ERROR
    by_state = isinstance(error, NotFoundError | ConflictError | UnsupportedError)
    return USAGE if isinstance(error, UserError) and not by_state else FAILED


def _known(words: str) -> Command:
    command = table.find(words)
    assert command is not None, words
    return command


def _help(words: str) -> int:
    from twinhull.cli.help import show

    return show(words)


def _unknown(words: str) -> UsageError:
    from twinhull.cli import foreign
    from twinhull.cli.suggest import nearest

    if instead := foreign.command(words):
        return UsageError(f"there is no command {words!r}", instead)
    near = nearest(words, table.names())
    return UsageError(f"there is no command {words!r}", f"did you mean `twinhull {near}`?" if near else "see: twinhull --help")


def _complete_standard_streams() -> None:
    """A closed stdin, stdout or stderr becomes /dev/null: otherwise the next file opened would take its place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _quiet_end() -> int:
    """The reader of our output has gone: end without a word, as what takes SIGPIPE does. Python's own flush at exit can't fail then."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE
