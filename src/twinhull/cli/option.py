"""The rows of the option table: what a command, an argument and an option are.

Plain data, so that parsing, help, docs/cli.md and completion are all read off the same rows (docs/adr/0001-one-option-table.md).
NamedTuples and not dataclasses: `dataclasses` alone costs 10 ms of the CLI's start.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["switch", "text", "integer", "number", "size", "duration", "count"]
"""switch: a boolean (`--tty`, `--tty=false`); count: a limit that may be -1; the others take a value."""

Complete = Literal["", "instances", "running", "images", "volumes", "networks", "secrets", "services", "apps", "files", "folders"]
"""What a shell completes for a value."""


class Option(NamedTuple):
    """One flag. `spec`: the field of InstanceSpec it fills ("resources.memory"), "" if it is the CLI's own."""

    flag: str
    help: str
    short: str = ""
    kind: Kind = "text"
    metavar: str = ""
    repeat: bool = False
    choices: tuple[str, ...] = ()
    default: str = ""
    """Shown in help; the code behind the command applies it."""
    complete: Complete = ""
    aliases: tuple[str, ...] = ()
    spec: str = ""

    @property
    def name(self) -> str:
        """The key of its value: "--env-file" → "env_file"."""
        return self.flag.lstrip("-").replace("-", "_")

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every way to write it, the canonical one first."""
        return (self.flag, *((self.short,) if self.short else ()), *self.aliases)


class Argument(NamedTuple):
    """One positional place. `most` 0: any number. `name` is shown in upper case."""

    name: str
    help: str = ""
    least: int = 1
    most: int = 1
    complete: Complete = ""


class Command(NamedTuple):
    """One command of one or two words. `handler`: "module:function" below twinhull.cli.verbs."""

    words: str
    summary: str
    handler: str
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    """(command line, what it does)."""
    aliases: tuple[str, ...] = ()
    """Other words for the same command, e.g. "ls" or "image ls"."""
    notes: str = ""
    own_exit_codes: bool = False
    """Its exit codes 1 and 2 are the workload's, so the CLI's own errors are 125 (run, exec)."""
    options_first: bool = False
    """Options end at the first positional argument: what follows belongs to the workload."""
    needs_one_of: tuple[str, ...] = ()
    hidden: bool = False


FORMAT = Option("--format", "table, json, or a template such as '{{.ID}}\\t{{.Name}}' (see: twinhull help templates)", metavar="FORMAT")
JSON = Option("--json", "the same as --format json", kind="switch")
QUIET = Option("--quiet", "only ids or names", short="-q", kind="switch")
NO_TRUNC = Option("--no-trunc", "don't shorten anything", kind="switch")
FILTER = Option("--filter", "only what matches KEY=VALUE; may be repeated", short="-f", metavar="KEY=VALUE", repeat=True)
FORCE = Option("--force", "don't ask, and don't mind if it is in use or missing", short="-f", kind="switch")
DETACH_KEYS = Option("--detach-keys", "keys that leave it running", metavar="KEYS", default="ctrl-p,ctrl-q")
SIG_PROXY = Option("--sig-proxy", "pass signals on to it (--sig-proxy=false: don't)", kind="switch", default="true")
REMOVED = JSON._replace(help="what was removed, for programs")
HELP = Option("--help", "show this help", kind="switch")
DEBUG = Option("--debug", "show the traceback of an error", kind="switch")
GLOBAL = (HELP, DEBUG)
"""Understood by every command."""
