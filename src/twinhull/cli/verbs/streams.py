"""What goes on and on: logs, events, stats."""

from __future__ import annotations

import sys
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any

from twinhull.cli import human, output, remote, sheets, values
from twinhull.cli.parse import usage
from twinhull.client import thin
from twinhull.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinhull.cli.parse import Arguments

_STDERR = 2
_HOME_AND_CLEAR = "\x1b[H\x1b[J"


def logs(args: Arguments) -> int:
    """What it wrote, each stream to its own."""
    query = {"follow": args.switch("follow"), **selection(args)}
    if args.switch("json"):
        for _, entry in thin.sse("GET", remote.instance_path(args.place("instance"), "logs"), query):
            output.write(as_json(entry))
        return 0
    show_logs(args.place("instance"), query, timestamps=args.switch("timestamps"))
    return 0


def as_json(entry: dict[str, Any], **more: str) -> str:
    """A line for programs."""
    from json import dumps

    stream = "stderr" if entry.get("stream") in (_STDERR, "stderr") else "stdout"
    return dumps({"at": entry["at"], **more, **entry, "stream": stream}, separators=(",", ":")) + "\n"


def selection(args: Arguments) -> dict[str, Any]:
    """--since, --until and --tail as query."""
    query: dict[str, Any] = {"since": moment(args, "since"), "until": moment(args, "until")}
    tail = args.text("tail", "all")
    if tail not in ("all", "-1"):
        query["tail"] = _lines(args, tail)
    return query


def show_logs(ref: str, query: dict[str, Any], *, timestamps: bool = False) -> None:
    """Write log entries as they come; a partial line (no newline at its end) goes on in the next entry."""
    middle = {1: False, _STDERR: False}
    for _, entry in thin.sse("GET", remote.instance_path(ref, "logs"), query):
        data = data_of(entry)
        stream = entry.get("stream", 1)
        number = stream if isinstance(stream, int) else _STDERR if stream == "stderr" else 1
        if timestamps and not middle[number]:
            data = human.stamp(entry["at"], fraction=True).encode() + b" " + data
        middle[number] = not data.endswith(b"\n")
        _put(number, data)


def data_of(entry: dict[str, Any]) -> bytes:
    """What was written, as bytes."""
    if "base64" in entry:
        from binascii import a2b_base64

        return a2b_base64(entry["base64"])
    return str(entry["text"]).encode("utf-8", "surrogateescape")


def _put(stream: int, data: bytes) -> None:
    """At once, so that `logs -f | grep` sees it."""
    target = (sys.stderr if stream == _STDERR else sys.stdout).buffer
    target.write(data)
    target.flush()


def _lines(args: Arguments, text: str) -> int:
    try:
        return values.integer(text)
    except ValueError as error:
        raise usage(args.command, f"--tail {text}: use a number of lines or all") from error


def moment(args: Arguments, name: str) -> float | None:
    """--since or --until in seconds since 1970; None if it wasn't given."""
    text = args.text(name)
    if not text:
        return None
    try:
        return values.when(text, time())
    except ValueError as error:
        raise usage(args.command, f"--{name} {text}: {error}") from error


def events(args: Arguments) -> int:
    """A line for each event: for people, JSON, or by a template."""
    show = _event_form(args)
    query = {"since": moment(args, "since"), "until": moment(args, "until"), "follow": not args.switch("no_follow"), **remote.filters(args)}
    for _, event in thin.sse("GET", "/v1/events", query):
        output.write(show(event) + "\n")
    return 0


def _event_form(args: Arguments) -> Callable[[dict[str, Any]], str]:
    form = output.chosen(args)
    if form == "table":
        from twinhull.cli.style import printable

        return lambda event: printable(sheets.event_line(event))
    if form == "json":
        from json import dumps

        return lambda event: dumps(event, separators=(",", ":"))
    template = output.compiled(form.removeprefix("table "))
    return lambda event: template.render(output.Fields(sheets.events(), event))


def stats(args: Arguments) -> int:
    """A table that is drawn anew each second on a terminal; once with --no-stream; a block of lines each second elsewhere."""
    return show_stats(args, args.all("instance"))


def show_stats(args: Arguments, refs: list[str]) -> int:
    """The same of these instances (all if none is named)."""
    meter = _Meter(refs, every=args.switch("all"))
    meter.sample()
    live = not args.switch("no_stream")
    sheet = sheets.stats(full=args.switch("no_trunc"))
    while True:
        sleep(1)
        rows = meter.sample()
        if live and sys.stdout.isatty() and output.chosen(args) == "table":
            output.write(_HOME_AND_CLEAR)
        output.rows(args, sheet, rows)
        if not live:
            return 0


class _Meter:
    """Samples of all instances, with rates since the sample before."""

    def __init__(self, refs: list[str], *, every: bool) -> None:
        self._refs = refs
        self._every = every
        self._before: dict[str, tuple[float, dict[str, Any]]] = {}

    def sample(self) -> list[dict[str, Any]]:
        """One row per instance, with `cpu_percent` (100 is one processor) and `host_cpu_percent`."""
        return [row for view in self._views() if (row := self._row(view))]

    def _views(self) -> list[dict[str, Any]]:
        if self._refs:
            return [remote.inspect(ref) for ref in self._refs]
        views: list[dict[str, Any]] = thin.call("GET", "/v1/instances", {"all": self._every})
        return views

    def _row(self, view: dict[str, Any]) -> dict[str, Any] | None:
        """None if it ended meanwhile (or isn't running and wasn't asked for)."""
        head = {"id": view["id"], "name": view["name"], "runtime": view["runtime"]}
        try:
            found: dict[str, Any] = thin.call("GET", remote.instance_path(view["id"], "stats"))
        except (ConflictError, NotFoundError):
            return head | _NOTHING if self._every or self._refs else None
        now = monotonic()
        before = self._before.get(view["id"])
        self._before[view["id"]] = (now, found)
        return head | found | _rates(before, now, found)


_NOTHING: dict[str, Any] = {
    "cpu_ns": 0, "memory": 0, "memory_limit": 0, "pids": 0, "net_rx": 0, "net_tx": 0, "block_read": 0, "block_write": 0,
    "cpu_percent": None, "host_cpu_percent": None,
}  # fmt: skip
"""The row of an instance that doesn't run."""


def _rates(before: tuple[float, dict[str, Any]] | None, now: float, found: dict[str, Any]) -> dict[str, float | None]:
    rates: dict[str, float | None] = {"cpu_percent": None, "host_cpu_percent": None}
    if before is None:
        return rates
    for key, name in (("cpu_ns", "cpu_percent"), ("host_cpu_ns", "host_cpu_percent")):
        spent = found.get(key, 0) - before[1].get(key, 0)
        rates[name] = max(spent, 0) / 1e9 / (now - before[0]) * 100
    return rates
