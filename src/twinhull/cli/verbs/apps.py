"""`up`, `down` and what else is done to an application as a whole."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace
from time import time
from typing import TYPE_CHECKING

from twinhull.cli import apps, columns, human, output, remote
from twinhull.cli.columns import Column
from twinhull.cli.output import Sheet
from twinhull.cli.parse import usage
from twinhull.cli.progress import working
from twinhull.cli.style import paint
from twinhull.client.sync import Client
from twinhull.engine.apps.base import UpOptions
from twinhull.errors import NotFoundError
from twinhull.spec.selection import meant, used

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from twinhull.cli.parse import Arguments
    from twinhull.engine.apps.base import AppView
    from twinhull.spec.app import AppSpec

_LONGEST_CAUSE = 200
"""Characters that the daemon takes."""


def up(args: Arguments) -> int:
    """Make it so; in the foreground until ctrl-c, which stops it again."""
    services = args.all("service")
    found = apps.spec(args, services)
    names = meant(found, services, alone=args.switch("no_deps"))
    spec = _scaled(args, found, names)
    options = _options(args, spec)
    with Client() as client:
        if args.switch("dry_run"):
            _tell_others(spec, names)
            return _dry_run(args, client, spec, options)
        make_folders(spec, names)
        prepare_images(args, spec, names)
        before = apps.present(client, spec.name)
        with working(f"bringing {spec.name} up"):
            client.app_up(spec, options)
        done = apps.ready if args.switch("wait") else apps.started
        about = names if services else ()
        view = apps.follow(client, spec.name, done, before=before, timeout=args.number("wait_timeout"), services=about)
        if args.switch("wait") or args.switch("detach"):
            return _told(args, view)
    return _foreground(args, spec.name)


def _options(args: Arguments, spec: AppSpec) -> UpOptions:
    services = tuple(args.all("service"))
    recreate = (services or tuple(spec.services)) if args.switch("force_recreate") else ()
    orphans, renew = args.switch("remove_orphans"), args.switch("renew_anon_volumes")
    return UpOptions(cause(services), orphans, services, recreate, renew_volumes=renew, no_deps=args.switch("no_deps"))


def cause(services: Sequence[str]) -> str:
    """What `history` says of an `up`."""
    return " ".join(("up", *services))[:_LONGEST_CAUSE]


def _scaled(args: Arguments, spec: AppSpec, names: Collection[str]) -> AppSpec:
    services = dict(spec.services)
    for name, count in _counts(args, args.many("scale")).items():
        if name not in names:
            raise NotFoundError(
                f"--scale {name}: " + ("it isn't among those to bring up" if name in services else "there is no such service")
            )
        services[name] = replace(services[name], replicas=count)
    return replace(spec, services=services)


def _counts(args: Arguments, words: list[str]) -> dict[str, int]:
    found = {}
    for word in words:
        name, equals, count = word.partition("=")
        if not (name and equals and count.isascii() and count.isdigit()):
            raise usage(args.command, f"{word!r} is not SERVICE=COUNT")
        found[name] = int(count)
    return found


def _dry_run(args: Arguments, client: Client, spec: AppSpec, options: UpOptions) -> int:
    steps = client.app_plan(spec, options)
    if args.switch("json"):
        output.write(output.pretty([asdict(step) for step in steps]) + "\n")
    elif not steps:
        print("nothing to do")
    else:
        rows = [["ACTION", "SUBJECT", "REASON"], *([step.action, step.subject, step.reason] for step in steps)]
        output.write("".join(f"{line}\n" for line in columns.aligned(rows)))
    return 0


def _tell_others(spec: AppSpec, names: Collection[str]) -> None:
    if others := [name for name in spec.services if name not in names]:
        print(f"{paint('note:', 'yellow', sys.stderr)} left as they are: {', '.join(others)}", file=sys.stderr)


def make_folders(spec: AppSpec, names: Collection[str]) -> None:
    """Bind mounts of these services that the file says shall be made."""
    _, sources = used(spec.services[name] for name in names)
    for path in spec.host_paths:
        if path in sources and not os.path.lexists(path):
            os.makedirs(path)


def prepare_images(args: Arguments, spec: AppSpec, names: Collection[str]) -> None:
    """Build or fetch those of these services, as the options say."""
    from twinhull.cli.verbs import services as verbs

    for service in [service for service in spec.services.values() if service.name in names]:
        image = service.template.image
        here = remote.image_exists(image)
        build = service.build is not None and not args.switch("no_build")
        if build and (args.switch("build") or service.pull_policy == "build" or not here):
            verbs.build_service(service)
        elif not build and _pulls(args, service.pull_policy, here=here):
            verbs.pull_image(image, quiet=args.switch("quiet_pull"))


def _pulls(args: Arguments, policy: str, *, here: bool) -> bool:
    when = args.text("pull") or policy
    return when in ("always", "newer", "daily", "weekly") or (when not in ("never", "build") and not here)


def _told(args: Arguments, view: AppView) -> int:
    if args.switch("json"):
        output.write(output.pretty(asdict(view)) + "\n")
    else:
        print(apps.summary(view))
    return 0


def _foreground(args: Arguments, name: str) -> int:
    from twinhull.cli.verbs import services as verbs

    try:
        verbs.follow_logs(name, args.all("service"), verbs.Look.of(args))
    except KeyboardInterrupt:
        print(f"\nstopping {name} (ctrl-c again: leave it running)", file=sys.stderr)
        with Client() as client:
            before = client.app_stop(name, *args.all("service"))
            apps.follow(client, name, lambda view: view.settled, before=before)
    return 0


def down(args: Arguments) -> int:
    """Stop and remove all of it."""
    name = apps.name(args)
    with Client() as client, working(f"removing {name}"):
        kept = client.app_down(name, volumes=args.switch("volumes"), timeout=args.number("timeout"))
    if args.switch("json"):
        output.write(output.pretty({"removed": name, "volumes": args.switch("volumes"), "kept": list(kept)}) + "\n")
        return 0
    print(f"{name} is removed" + ("" if args.switch("volumes") else "; its volumes are kept (down -v removes them)"))
    for each in kept:
        print(f"{each}; it stays", file=sys.stderr)
    return 0


def scale(args: Arguments) -> int:
    """Set numbers of instances, and wait until they are ready; or show why one is as it is."""
    if args.all("service=count")[:1] == ["explain"]:
        from twinhull.cli.verbs import scaling

        return scaling.explain(args)
    counts = _counts(args, args.all("service=count"))
    name = apps.name(args)
    with Client() as client:
        return _changed(args, client, name, client.app_scale(name, counts))


def rollback(args: Arguments) -> int:
    """To an earlier revision, and wait until it is ready."""
    name, text = apps.name(args), args.place("revision")
    if text and not (text.isascii() and text.isdigit()):
        raise usage(args.command, f"{text!r} is not a revision's number")
    with Client() as client:
        return _changed(args, client, name, client.app_rollback(name, int(text or 0)))


def isolate(args: Arguments) -> int:
    """Into another hull, and wait until that is done."""
    name = apps.name(args)
    with Client() as client:
        return _changed(args, client, name, client.app_isolate(name, args.place("service"), args.place("runtime")))


def _changed(args: Arguments, client: Client, name: str, before: AppView) -> int:
    if not args.switch("no_wait"):
        return _told(args, apps.follow(client, name, apps.ready, before=before))
    if args.switch("json"):
        return _told(args, before)
    return 0


def rollout(args: Arguments) -> int:
    """Show it, or turn it."""
    verb, name, services = args.place("verb"), apps.name(args), args.all("service")
    if verb not in ("status", "pause", "resume", "abort"):
        raise usage(args.command, f"rollout {verb}: use status, pause, resume or abort")
    with Client() as client:
        view = client.app(name) if verb == "status" else client.app_rollout(name, verb, *services)
    rows = [
        {"service": service.name, **asdict(service.rollout)}
        for service in view.services
        if service.rollout is not None and (not services or service.name in services)
    ]
    return output.rows(args, _ROLLOUTS, rows)


def ls(args: Arguments) -> int:
    """All applications."""
    with Client() as client:
        return output.rows(args, _apps(time()), [asdict(view) for view in client.apps()])


def history(args: Arguments) -> int:
    """The revisions, the newest first."""
    with Client() as client:
        found = client.app_history(apps.name(args))
    return output.rows(args, _revisions(time()), [asdict(each) for each in reversed(found)])


def _apps(now: float) -> Sheet:
    return Sheet(
        (
            Column("Name", "NAME", lambda item: item["name"]),
            Column("State", "STATE", lambda item: item["state"], colour=lambda item: "green" if item["state"] == "up" else "yellow"),
            Column("Services", "SERVICES", lambda item: len(item["services"])),
            Column("Instances", "INSTANCES", lambda item: sum(len(service["members"]) for service in item["services"])),
            Column("Revision", "REVISION", lambda item: item["revision"]),
            Column("Updated", "UPDATED", lambda item: human.ago(item["updated_at"], now)),
            Column("Folder", "FOLDER", lambda item: item["folder"], flexible=True),
        ),
        lambda item: item["name"],
    )


def _revisions(now: float) -> Sheet:
    return Sheet(
        (
            Column("Number", "REVISION", lambda item: f"{item['number']}{' *' if item['current'] else ''}"),
            Column("At", "MADE", lambda item: human.ago(item["at"], now)),
            Column("Cause", "CAUSE", lambda item: item["cause"]),
            Column("Services", "SERVICES", lambda item: " ".join(f"{k}@{v[:7]}" for k, v in item["services"].items()), flexible=True),
        ),
        lambda item: str(item["number"]),
    )


_ROLLOUTS = Sheet(
    (
        Column("Service", "SERVICE", lambda item: item["service"]),
        Column("Status", "STATUS", lambda item: item["status"]),
        Column("Updated", "UPDATED", lambda item: f"{item['updated']}/{item['total']}"),
        Column("Share", "TRAFFIC", lambda item: f"{item['share']} %"),
        Column("Old", "OLD", lambda item: item["old"]),
        Column("New", "NEW", lambda item: item["new"]),
        Column("Reason", "REASON", lambda item: item["reason"].partition("\n")[0], flexible=True),
    ),
    lambda item: item["service"],
)
"""`rollout status`."""
