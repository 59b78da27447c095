"""What the verbs of applications have in common: which one is meant, and how its changes are shown while they go on."""

from __future__ import annotations

import os
import queue
import sys
import threading
from contextlib import closing, suppress
from dataclasses import asdict, replace
from time import monotonic
from typing import TYPE_CHECKING

from twinhull.cli import appfile
from twinhull.cli.parse import UsageError
from twinhull.cli.sheets import host_address
from twinhull.cli.style import paint, printable
from twinhull.client.sync import Client
from twinhull.errors import NotFoundError, TwinhullError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from twinhull.cli.parse import Arguments
    from twinhull.engine.apps.base import AppView, Happened, MemberView, RolloutView, ServiceView
    from twinhull.spec.app import AppSpec

_UNDONE = ("rolled-back", "failed")
_FAILED = ("failing", "waiting")
_TOLD_AFTER, _GIVEN_UP_AFTER = 3.0, 60.0
"""Seconds that a service fails without a break."""
_VERBS = {
    "CreateNetwork": "network", "RemoveNetwork": "remove", "CreateVolume": "volume", "RemoveVolume": "remove", "Create": "create",
    "Start": "start", "Restart": "restart", "Stop": "stop", "Remove": "remove", "RunHook": "hook", "Serve": "serve", "Drain": "drain",
    "tell": "",
}  # fmt: skip


class NotReadyError(TwinhullError):
    """The application isn't as it should be, and won't be by itself."""


def name(args: Arguments) -> str:
    """The application that is meant: -p, COMPOSE_PROJECT_NAME, else what the compose file here says."""
    given = args.text("project_name") or (os.environ.get("COMPOSE_PROJECT_NAME", "") if not args.many("file") else "")
    return given or appfile.resolve(args).name


def spec(args: Arguments, services: Sequence[str] = ()) -> AppSpec:
    """The compose file's application. What can't be honoured is said; raises UsageError where that changes the meaning."""
    found = appfile.spec(appfile.resolve(args, services))
    for note in found.notes:
        if note.fatal:
            raise UsageError(f"{note.where}: {note.key}: {note.text}", "twinhull config --check lists all that can't be honoured")
        print(f"{paint('note:', 'yellow', sys.stderr)} {printable(f'{note.where}: {note.key}: {note.text}')}", file=sys.stderr)
    for service in services:
        if service not in found.services:
            raise NotFoundError(f"there is no service {service}", f"the file has: {', '.join(found.services) or 'none'}")
    return found


class Progress:
    """Shows an application's happenings, each once, on stderr."""

    def __init__(self, since: int = 0) -> None:
        self._last = since
        self._begin = monotonic()

    def show(self, view: AppView) -> None:
        """What is new."""
        for each in view.log:
            if each.number > self._last:
                self._last = each.number
                print(self._line(each), file=sys.stderr, flush=True)

    def _line(self, each: Happened) -> str:
        verb = _VERBS.get(each.action, each.action.lower())
        colour = "red" if each.failed else "green" if each.action in ("Serve", "Start") else "dim"
        head = f"{monotonic() - self._begin:6.1f}s  {paint(f'{verb:<8}', colour, sys.stderr)} {printable(each.subject):<20}"
        return f"{head} {printable(each.reason, newlines=True)}".rstrip()


def last_number(view: AppView | None) -> int:
    """Of the happenings so far."""
    return view.log[-1].number if view and view.log else 0


def follow(
    client: Client,
    app: str,
    done: Callable[[AppView], bool],
    *,
    before: AppView | None,
    timeout: float | None = None,
    services: Collection[str] = (),
) -> AppView:
    """Show what happens from `before` on, until `done`. Raises NotReadyError if nothing happens by itself any more before, after `timeout`
    seconds, and where a service has failed for a minute, though it is tried again and again (with a timeout: that counts).

    services: those that it is about (none: all); nobody waits for others, or is blamed for them. The view has all of them.
    """
    progress, undone, trouble = Progress(last_number(before)), _undone(before), Trouble()
    end = monotonic() + timeout if timeout else None
    for whole in _views(client, app):
        progress.show(whole)
        view = narrowed(whole, services) if services else whole
        if done(view):
            _refuse_undone(view, undone)
            return whole
        bad = [service for service in view.services if service.state in _FAILED]
        hint = f"why: twinhull compose logs -p {app} {bad[0].name}" if bad else ""
        if view.settled and bad:
            raise NotReadyError(_trouble(bad), hint)
        if end and monotonic() > end:
            raise NotReadyError(f"application {app} isn't ready after {timeout:g} s: {_trouble(bad or list(view.services))}", hint)
        if (lasting := trouble.lasting(view, monotonic())) and not end:
            raise NotReadyError(
                f"{_trouble(lasting)}; it is tried again meanwhile", f"why: twinhull compose logs -p {app} {lasting[0].name}"
            )
    raise NotReadyError(f"application {app} has gone meanwhile")


def _views(client: Client, app: str) -> Iterator[AppView]:
    """After every change, and the last one again each second, so that whoever counts time isn't held up where nothing changes."""
    found: queue.Queue[AppView | BaseException | None] = queue.Queue()

    def read() -> None:
        try:
            with closing(client.app_watch(app)) as stream:
                for view in stream:
                    found.put(view)
            found.put(None)
        except BaseException as error:
            found.put(error)

    threading.Thread(target=read, daemon=True).start()
    last: AppView | None = None
    while True:
        with suppress(queue.Empty):
            item = found.get(timeout=1)
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return
            last = item
        if last is not None:
            yield last


class Trouble:
    """How long services have been failing without a break. They are told once, so that nobody waits without knowing for what."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def lasting(self, view: AppView, now: float) -> list[ServiceView]:
        """Those that have failed for too long. now: seconds of a clock that doesn't jump."""
        failing = {each.name: each for each in view.services if each.state == "failing"}
        # one that is started anew, to fail again, hasn't recovered meanwhile
        going_on = {each.name for each in view.services if each.state in ("failing", "starting")}
        self._since = {name: since for name, since in self._since.items() if name in going_on} | {
            name: self._since.get(name, now) for name in failing
        }
        for name, since in self._since.items():
            if now - since >= _TOLD_AFTER and name in failing and name not in self._told:
                self._told.add(name)
                print(f"{paint('waiting:', 'yellow', sys.stderr)} {printable(_trouble([failing[name]]))}", file=sys.stderr, flush=True)
        return [failing[name] for name, since in self._since.items() if name in failing and now - since >= _GIVEN_UP_AFTER]


def _undone(view: AppView | None) -> dict[tuple[str, float], RolloutView]:
    """The changes that were taken back or have failed, by service and beginning."""
    rollouts = [(service.name, service.rollout) for service in view.services] if view else []
    return {(name, rollout.since): rollout for name, rollout in rollouts if rollout is not None and rollout.status in _UNDONE}


def _refuse_undone(view: AppView, known: Collection[tuple[str, float]]) -> None:
    """Raises NotReadyError if another change than those was taken back."""
    for (name, since), rollout in _undone(view).items():
        if (name, since) not in known:
            raise NotReadyError(f"the update of service {name} {rollout.status.replace('-', ' ')}: {rollout.reason}")


def narrowed(view: AppView, services: Collection[str]) -> AppView:
    """As if there were only these. What is under way elsewhere doesn't count once they are as they should be."""
    chosen = tuple(each for each in view.services if each.name in services)
    good = all(each.state in ("up", "completed") for each in chosen)
    return replace(view, services=chosen, settled=view.settled or good, started=view.started or good)


def ready(view: AppView) -> bool:
    """Everything is as it should be, and no change is under way."""
    return view.settled and not any(service.state in (*_FAILED, "updating", "starting") for service in view.services)


def started(view: AppView) -> bool:
    """Every instance runs, ready or not, and no change is under way."""
    return view.started and (view.settled or not any(service.state in ("updating", "scaling-down") for service in view.services))


def _trouble(services: Sequence[ServiceView]) -> str:
    return "; ".join(f"service {each.name} is {each.state}{f': {each.reason}' if each.reason else ''}" for each in services)


def present(client: Client, app: str) -> AppView | None:
    """The application, if there is one of this name."""
    try:
        return client.app(app)
    except NotFoundError:
        return None


def service(view: AppView, wanted: str) -> ServiceView:
    """A service of an application. Raises NotFoundError."""
    for each in view.services:
        if each.name == wanted:
            return each
    known = sorted(each.name for each in view.services)
    raise NotFoundError(f"application {view.name} has no service {wanted}", f"it has: {', '.join(known) or 'none'}")


def members(view: AppView, services: Sequence[str] = (), *, running: bool = False) -> list[tuple[ServiceView, MemberView]]:
    """The instances of the services (all if none is named). Raises NotFoundError."""
    for name in services:
        service(view, name)
    return [
        (each, member)
        for each in view.services
        for member in each.members
        if (not services or each.name in services) and (not running or member.state == "running")
    ]


def summary(view: AppView) -> str:
    """A table of services for people, and where the application is found."""
    rows = [("SERVICE", "RUNTIME", "READY", "STATE", "WHERE")]
    for service in view.services:
        ports = [host_address(asdict(mapping)) for mapping in service.ports if mapping.host_port]
        state = f"{service.state}: {service.reason}" if service.reason and service.state in _FAILED else service.state
        rows.append((service.name, service.runtime, f"{service.ready}/{service.desired}", state, " ".join((*service.routes, *ports))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("   ".join(printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
