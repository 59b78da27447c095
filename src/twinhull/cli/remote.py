"""What the verbs ask of the daemon: thin calls under names that say what they do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from twinhull.client import thin
from twinhull.errors import NotFoundError, TwinhullError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from twinhull.cli.parse import Arguments
    from twinhull.client.thin import Query


_FATAL = 'time="'
"""How skopeo and buildah begin a line of their log: what it says comes with the error, if it is one."""


def instance_path(ref: str, tail: str = "") -> str:
    """/v1/instances/REF[/TAIL]."""
    return named("instances", ref) + (f"/{tail}" if tail else "")


def named(kind: str, ref: str) -> str:
    """/v1/KIND/REF. Raises UserError for an empty name, which would address the whole collection."""
    if not ref:
        raise UserError("a name is empty")
    return f"/v1/{kind}/{thin.quote(ref)}"


def inspect(ref: str) -> dict[str, Any]:
    """One instance's view."""
    found: dict[str, Any] = thin.call("GET", instance_path(ref))
    return found


def filters(args: Arguments) -> Query:
    """--filter as query. Raises UserError for one without a value."""
    for text in args.many("filter"):
        if "=" not in text:
            raise UserError(f"--filter {text}: use KEY=VALUE")
    return {"filter": args.many("filter")}


def each(refs: Iterable[str], action: Callable[[str], str]) -> int:
    """Do it to each, print what it returns (if anything), and go on after errors; the worst of their exit codes."""
    from twinhull.cli.main import exit_code, report

    refs, status = list(refs), 0
    for ref in refs:
        try:
            told = action(ref)
        except TwinhullError as error:
            if len(refs) == 1 and error.message.startswith("no such instance"):
                raise  # it may be a service's name: see cli/main.py
            report(error)
            status = max(status, exit_code(error, None))
            if "start it with" in error.hint:
                break  # no daemon: every further one would say the same
        else:
            if told:
                print(told, flush=True)
    return status


def image_exists(ref: str) -> bool:
    """Whether it is in the local store."""
    try:
        thin.call("GET", "/v1/images/inspect", {"ref": ref})
    except NotFoundError:
        return False
    return True


def pull(ref: str, *, tls_verify: bool, quiet: bool) -> None:
    """Fetch an image, telling on stderr how it goes."""
    follow(f"fetching {ref}", thin.sse("POST", "/v1/images/pull", {"ref": ref, "tls_verify": tls_verify}), quiet=quiet)


def follow(title: str, events: Iterator[tuple[str, Any]], *, quiet: bool = False) -> str:
    """Show a long task's lines on stderr; the value of its last "id: …" line, else its last line."""
    from twinhull.cli.progress import working

    last = ""
    with working(title) as progress:
        for name, data in events:
            if name == "done":
                break
            last = str(data.get("line", "")) if isinstance(data, dict) else str(data)
            if not quiet and not last.startswith(("id: ", _FATAL)):
                progress.line(last)
    return last.removeprefix("id: ")


def told(args: Arguments, names: Iterable[str]) -> int:
    """Print names: a line each, or a JSON list with --json."""
    from twinhull.cli.output import pretty, write

    found = list(names)
    write(pretty(found) + "\n" if args.switch("json") else "".join(f"{name}\n" for name in found))
    return 0


def confirm(args: Arguments, question: str) -> bool:
    """Ask on a terminal unless --force; without a terminal --force is needed."""
    if args.switch("force"):
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} There is no terminal to ask on", "use --force")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
