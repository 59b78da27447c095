"""`compare` and `advise`: what is asked, how far it is, and what came out."""

from __future__ import annotations

import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from twinhull.cli import output
from twinhull.cli.parse import usage
from twinhull.errors import NotFoundError

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments
    from twinhull.client import Client
    from twinhull.compare.journal import Journal
    from twinhull.compare.model import Results, Turn
    from twinhull.compare.run import Asked

_INTERRUPTED = 130


def compare(args: Arguments) -> int:
    """Measure, then report; after ctrl-c report what there is."""
    from twinhull.client import Client
    from twinhull.compare import report
    from twinhull.compare.run import Runner

    targets = [report.target(Path(text)) for text in args.many("output")]
    quiet = args.switch("quiet")
    with Client() as client, _journal(args, client) as journal:
        runner = Runner(client, journal, _say)
        if not quiet:
            _say(f"run {journal.run.id}: {journal.run.image}, {' and '.join(journal.run.subjects)}, seed {journal.run.seed}")
        status = 0
        try:
            results = runner.results() if runner.results().complete else runner.take(_ignore if quiet else _progress)
        except KeyboardInterrupt:
            results, status = runner.results(), _INTERRUPTED
        if not quiet:
            _clear()
        for write, path in targets:
            write(results, path)
        if status:
            _say(f"interrupted; go on with: twinhull compare --resume {journal.run.id}")
        if not quiet:
            output.write(report.summary(results))
    return status


def _journal(args: Arguments, client: Client) -> Journal:
    """A new run's, or that of the one to go on with."""
    from twinhull.compare import journal
    from twinhull.compare.run import begin

    if args.has("resume"):
        return journal.Journal.reopen(_found(args.text("resume")))
    return journal.Journal.create(begin(client, _asked(args, client)))


def _found(word: str) -> Path:
    from twinhull.compare import journal

    if word == "last":
        return journal.last()
    path = journal.folder() / word / journal.NAME
    if not path.exists():
        known = [found.parent.name for found in journal.runs()]
        raise NotFoundError(f"there is no run {word}", f"there are: {', '.join(known)}" if known else "begin with: twinhull compare IMAGE")
    return path


def _asked(args: Arguments, client: Client) -> Asked:
    from twinhull.compare import workload
    from twinhull.compare.run import Asked

    definition = workload.read(Path(args.text("workload"))) if args.has("workload") else None
    image = args.place("image") or str((definition or {}).get("image", ""))
    if not image:
        raise usage(args.command, "compare needs IMAGE", "see: twinhull compare --help")
    defaults = Asked("")
    seed = args.number("seed")
    asked = Asked(
        image=image,
        runtimes=_list(args.text("runtimes", "container,vm")),
        profile=args.text("profile", "quick"),
        against=tuple(word for text in args.many("against") for word in ([text] if "=" in text else _list(text))),
        only=tuple(word for text in args.many("only") for word in _list(text)),
        rounds=int(args.number("rounds") or 0),
        seed=secrets.randbelow(1 << 16) if seed is None else int(seed),
        workload=definition,
        tools=args.text("tools", defaults.tools),
    )
    return _of_instance(asked, client)


def _of_instance(asked: Asked, client: Client) -> Asked:
    """A word that names no image, but an instance: its image with its command."""
    try:
        client.image(asked.image)
    except NotFoundError as missing:
        try:
            view = client.inspect(asked.image)
        except NotFoundError:
            raise missing from None
        definition = {"command": list(view.argv), "memory": str(view.spec.resources.memory), **(asked.workload or {})}
        return replace(asked, image=view.image, workload=definition)
    return asked


def _list(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _say(text: str) -> None:
    from twinhull.cli.style import printable

    _clear()
    print(printable(text), file=sys.stderr, flush=True)


def _progress(number: int, count: int, seconds: float, turn: Turn) -> None:
    minutes, rest = divmod(round(seconds), 60)
    what = f"{turn.measure}, {turn.subject}" + (f", round {turn.round}" if turn.round else ", warm-up")
    text = f"{number}/{count} · {minutes}:{rest:02} left · {what}"
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif number * 10 // count != (number - 1) * 10 // count:
        print(text, file=sys.stderr, flush=True)


def _ignore(number: int, count: int, seconds: float, turn: Turn) -> None:
    """No progress."""


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def advise(args: Arguments) -> int:
    """Which hull, and why."""
    from twinhull.client import Client
    from twinhull.compare import advice, journal
    from twinhull.compare.run import Runner

    path = _found(args.text("from", "last"))
    with Client() as client:
        view = client.inspect(args.place("instance"))
        with journal.Journal.reopen(path) as opened:
            results: Results = Runner(client, opened, _say).results()
        found = advice.advise(results, advice.posture(view, args.text("trust", "own"), args.number("starts") or 0.0))
    output.write(output.pretty(advice.plain(found)) + "\n" if args.switch("json") else advice.text(found))
    return 0
