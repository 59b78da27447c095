"""`watch`: what changes on disk goes into the services, as their develop.watch says."""

from __future__ import annotations

import fnmatch
import io
import os
import sys
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinhull.cli import apps
from twinhull.cli.style import paint, printable
from twinhull.cli.verbs.apps import cause
from twinhull.client.sync import Client
from twinhull.engine.apps.base import UpOptions
from twinhull.errors import TwinhullError, UserError
from twinhull.instance.base import Process

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twinhull.cli.parse import Arguments
    from twinhull.spec.app import AppSpec, ServiceSpec, WatchRule

_SETTLE = 300
"""Milliseconds in which changes count as one."""


@dataclass(frozen=True, slots=True)
class Change:
    """A file below a rule's path. relative: "" for the path itself."""

    service: ServiceSpec
    rule: WatchRule
    path: str
    relative: str


def watch(args: Arguments) -> int:
    """Until ctrl-c."""
    import watchfiles

    chosen = args.all("service")
    spec = apps.spec(args, chosen)
    services = [service for service in spec.services.values() if service.watch and (not chosen or service.name in chosen)]
    if not services:
        raise UserError("no service has a develop.watch section", "see: docs/compose.md")
    roots = sorted({rule.path for service in services for rule in service.watch})
    for root in roots:
        if not os.path.exists(root):
            raise UserError(f"develop.watch: {root} doesn't exist")
    with Client() as client:
        if not args.switch("no_up"):
            before = client.app_up(spec, UpOptions(cause(chosen), services=tuple(chosen)))
            apps.follow(client, spec.name, apps.started, before=before, services=chosen)
        print(f"watching {', '.join(map(printable, roots))}", file=sys.stderr, flush=True)
        with suppress(KeyboardInterrupt):
            for found in watchfiles.watch(*roots, debounce=_SETTLE, raise_interrupt=True):
                _apply(client, spec, matching(services, (path for _, path in found)))
    return 0


def matching(services: Iterable[ServiceSpec], paths: Iterable[str]) -> list[Change]:
    """The changes that rules are about, in the order of services and paths. Pure."""
    changed = sorted(set(paths))
    return [
        Change(service, rule, path, relative)
        for service in services
        for rule in service.watch
        for path in changed
        if (relative := _below(rule.path, path)) is not None and _wanted(rule, relative)
    ]


def _below(root: str, path: str) -> str | None:
    if path == root:
        return ""
    return os.path.relpath(path, root) if path.startswith(root.rstrip("/") + "/") else None


def _wanted(rule: WatchRule, relative: str) -> bool:
    if any(_matches(pattern, relative) for pattern in rule.ignore):
        return False
    return not rule.include or any(_matches(pattern, relative) for pattern in rule.include)


def _matches(pattern: str, relative: str) -> bool:
    """As in .dockerignore: a pattern matches a path, whatever lies below it, and with ** at any depth."""
    pattern = pattern.strip("/").removeprefix("./")
    parts = relative.split("/")
    heads = ["/".join(parts[: length + 1]) for length in range(len(parts))]
    plain = pattern.removeprefix("**/")
    tails = [part for head in heads for part in ("/".join(head.split("/")[start:]) for start in range(head.count("/") + 1))]
    return any(fnmatch.fnmatchcase(head, pattern) for head in heads) or (
        (plain != pattern or "/" not in pattern) and any(fnmatch.fnmatchcase(tail, plain) for tail in tails)
    )


def _apply(client: Client, spec: AppSpec, changes: list[Change]) -> None:
    """Each service once: rebuilt, or its files brought up to date and then perhaps restarted."""
    for service in {change.service.name: change.service for change in changes}.values():
        own = [change for change in changes if change.service.name == service.name]
        actions = {change.rule.action for change in own}
        try:
            if "rebuild" in actions:
                _rebuild(client, spec, service)
                continue
            _sync(client, spec.name, [change for change in own if change.rule.action.startswith("sync")])
            _run(client, spec.name, [change for change in own if change.rule.action == "sync+exec"])
            if actions & {"restart", "sync+restart"}:
                _tell(service.name, "restart")
                before = client.app_restart(spec.name, service.name)
                apps.follow(client, spec.name, apps.started, before=before)
        except TwinhullError as error:
            print(f"{paint('failed', 'red', sys.stderr)} {service.name}: {printable(error.message, newlines=True)}", file=sys.stderr)


def _rebuild(client: Client, spec: AppSpec, service: ServiceSpec) -> None:
    from twinhull.cli.verbs.services import build_service

    _tell(service.name, "rebuild")
    build_service(service)
    before = client.app_up(spec, UpOptions(f"watch: rebuild {service.name}", services=(service.name,)))
    apps.follow(client, spec.name, apps.ready, before=before, services=(service.name,))


def _sync(client: Client, app: str, changes: list[Change]) -> None:
    """Into every running instance; what is gone here is removed there."""
    for service in {change.service.name for change in changes}:
        for _, member in apps.members(client.app(app), [service], running=True):
            for change in changes:
                target = os.path.normpath(os.path.join(change.rule.target, change.relative)) if change.relative else change.rule.target
                _tell(member.name, f"sync {target}")
                if os.path.lexists(change.path):
                    _put(client, member.id, change.path, target)
                else:
                    _command(client, member.id, ("rm", "-rf", "--", target))


def _put(client: Client, instance: str, path: str, target: str) -> None:
    """A file or a folder with all that is in it, to this very path."""
    folder, name = os.path.split(target)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(path, arcname=name)
    _command(client, instance, ("mkdir", "-p", "--", folder))
    client.archive_in(instance, folder, data.getvalue())


def _run(client: Client, app: str, changes: list[Change]) -> None:
    hooks = {change.rule.exec for change in changes if change.rule.exec is not None}
    for hook in hooks:
        service = next(change.service.name for change in changes if change.rule.exec == hook)
        for _, member in apps.members(client.app(app), [service], running=True):
            _tell(member.name, " ".join(hook.command))
            process = Process(hook.command, hook.env, hook.workdir, hook.user)
            code, out, err = client.exec(member.id, process).communicate()
            sys.stderr.buffer.write(out + err)
            if code:
                raise UserError(f"{member.name}: {' '.join(hook.command)} ended with {code}")


def _command(client: Client, instance: str, argv: tuple[str, ...]) -> None:
    code, _, err = client.exec(instance, Process(argv, (), "/", "0")).communicate()
    if code:
        raise UserError(f"{' '.join(argv)}: {err.decode('utf-8', 'replace').strip()}")


def _tell(subject: str, what: str) -> None:
    print(f"{paint(f'{subject:<20}', 'dim', sys.stderr)} {printable(what)}", file=sys.stderr, flush=True)
