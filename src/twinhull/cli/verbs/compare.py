"""`compare` and `advise`: what is asked, how far it is, and what came out."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from twinhull.cli import output
from twinhull.cli.parse import UsageError, usage
from twinhull.errors import NotFoundError

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments
    from twinhull.client import Client
    from twinhull.compare.journal import Journal
    from twinhull.compare.model import Results, Run, Turn
    from twinhull.compare.run import Asked
    from twinhull.compare.service import Copy, Source
    from twinhull.spec.app import AppSpec
    from twinhull.spec.instance import InstanceSpec

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
            _say(f"run {journal.run.id}: {journal.run.title}, {' and '.join(journal.run.subjects)}, seed {journal.run.seed}")
        status, results = 0, runner.results()
        try:
            if not results.complete:
                runner.template = _template(journal.run, client)
                results = runner.take(_ignore if quiet else _progress)
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


def _template(run: Run, client: Client) -> InstanceSpec | None:
    """Of a service. It isn't in the journal: the environment may hold what isn't for everybody."""
    from twinhull.compare import service

    return service.again(client, run.service).template if run.service else None


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
    word = args.place("image")
    copy, source = _copy(args, client, word) if word else (None, None)
    image = copy.template.image if copy else word or str((definition or {}).get("image", ""))
    if not image:
        raise usage(args.command, "compare needs IMAGE or SERVICE", "see: twinhull compare --help")
    if args.number("rounds") == 0:
        raise usage(args.command, "--rounds 0: use 1 or more")
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
        words=_words(args, source),
    )
    if copy is None or source is None:
        return _of_instance(asked, client)
    told = {"app": copy.app, "mark": copy.mark, "remarks": list(copy.remarks), **asdict(source)}
    for remark in copy.remarks:
        _say(remark)
    return replace(asked, workload=workload.over(copy.workload, definition or {}), service=told)


def _words(args: Arguments, source: Source | None) -> tuple[str, ...]:
    """Of the command line that says the same again, from any folder."""
    load = ("--workload", os.path.abspath(args.text("workload"))) if args.has("workload") else ()
    if source is None:
        return (*((args.place("image"),) if args.place("image") else ()), *load)
    files = [word for name in source.files for word in ("-f", name)] + [word for name in source.env_files for word in ("--env-file", name)]
    folder = ("--project-directory", source.folder) if source.folder else ()
    return (*files, *folder, *(("-p", source.project) if source.project else ()), source.service, *load)


def _copy(args: Arguments, client: Client, word: str) -> tuple[Copy | None, Source | None]:
    """The service of this name with where it is described: of the compose file that is named, or that is here. Else none."""
    from twinhull.compare import service

    app, source = _app(args, client, word)
    if app is None or word not in app.services:
        return None, None
    return service.copy(client, app, word), source


def _app(args: Arguments, client: Client, word: str) -> tuple[AppSpec | None, Source | None]:
    """The application that is meant; none where no file is here. Raises UserError for one that is named and isn't right."""
    from twinhull.cli import appfile
    from twinhull.compare import service
    from twinhull.compose import ComposeError, resolve

    named = bool(args.many("file") or args.has("project_name") or args.has("project_directory"))
    here = bool(args.many("file") or args.has("project_directory")) or appfile.is_here()
    if not (named or here):
        return None, None
    project, folder = args.text("project_name"), os.path.abspath(args.text("project_directory")) if args.has("project_directory") else ""
    env_files = tuple(map(os.path.abspath, args.many("env_file")))
    try:
        if here:
            files = [Path(name) for name in args.many("file")]
            where = Path(folder) if folder else None
            loaded = resolve(files, project=project, env_files=list(map(Path, env_files)), environment=os.environ, folder=where)
            source = service.Source(word, project, tuple(map(os.path.abspath, loaded.files)), env_files, folder)
        else:
            source = service.Source(word, project)
        app = service.read(source, client)
    except ComposeError as error:
        if named:
            raise UsageError(error.message, error.hint) from None
        return None, None
    if named and word not in app.services:
        raise NotFoundError(f"there is no service {word}", f"the application has: {', '.join(app.services) or 'none'}")
    return app, source


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

    word, trust, starts = args.place("instance"), args.text("trust", "own"), args.number("starts") or 0.0
    with Client() as client:
        app, _ = _app(args, client, word)
        if app is not None and word in app.services:
            about, key = advice.of_service(app.name, app.services[word], trust, starts), (app.name, word)
        else:
            view = client.inspect(word)
            about, key = advice.posture(view.name, view.runtime, view.spec, trust, starts), ("", "")
        path = _found(args.text("from")) if args.has("from") else journal.last(*key)
        with journal.Journal.reopen(path) as opened:
            results: Results = Runner(client, opened, _say).results()
        found = advice.advise(results, about)
    output.write(output.pretty(advice.plain(found)) + "\n" if args.switch("json") else advice.text(found))
    return 0
