"""What is asked of an application's services by their names: ps, logs, exec, run and their kin."""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import threading
from contextlib import closing, suppress
from dataclasses import asdict, replace
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from twinhull.cli import apps, human, output, remote, sheets
from twinhull.cli.output import Sheet
from twinhull.cli.parse import usage
from twinhull.cli.progress import working
from twinhull.cli.style import coloured, printable
from twinhull.cli.verbs.members import chosen
from twinhull.client import thin
from twinhull.client.sync import Client
from twinhull.errors import NotFoundError, TwinhullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinhull.cli.parse import Arguments
    from twinhull.engine.apps.base import AppView
    from twinhull.spec.app import AppSpec, ServiceSpec

_COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
_STDERR = 2


def _view(args: Arguments) -> AppView:
    with Client() as client:
        return client.app(apps.name(args))


def ps(args: Arguments) -> int:
    """The instances, or the services."""
    view = _view(args)
    chosen, states = args.all("service"), args.many("status")
    if args.switch("services"):
        rows = [asdict(service) for service in view.services if not chosen or service.name in chosen]
        return output.rows(args, _services(), rows)
    ids = [member.id for _, member in apps.members(view, chosen)]
    by_id = {row["id"]: row for row in thin.call("GET", "/v1/instances", {"all": True})}
    rows = [by_id[each] for each in ids if each in by_id and (not states or by_id[each]["state"] in states)]
    return output.rows(args, sheets.instances(time()), rows)


def _services() -> Sheet:
    from twinhull.cli.columns import Column

    return Sheet(
        (
            Column("Name", "SERVICE", lambda item: item["name"]),
            Column("Runtime", "RUNTIME", lambda item: item["runtime"]),
            Column("Ready", "READY", lambda item: f"{item['ready']}/{item['desired']}"),
            Column("State", "STATE", lambda item: item["state"]),
            Column("Image", "IMAGE", lambda item: item["image"], flexible=True),
            Column("Where", "WHERE", lambda item: " ".join(item["routes"])),
            Column("Reason", "REASON", lambda item: item["reason"].partition("\n")[0], flexible=True),
        ),
        lambda item: item["name"],
    )


# output


def logs(args: Arguments) -> int:
    """Of all instances of the services, each line with its instance's name."""
    from twinhull.cli.verbs.streams import selection

    query, look = selection(args), Look.of(args)
    if args.switch("follow"):
        follow_logs(apps.name(args), args.all("service"), look, query=query)
        return 0
    view = _view(args)
    width = _width(view)
    entries = []
    for index, (_, member) in enumerate(apps.members(view, args.all("service"))):
        for _, entry in thin.sse("GET", remote.instance_path(member.id, "logs"), query):
            entries.append((entry["at"], index, member.name, entry))
    for _, index, name, entry in sorted(entries, key=lambda row: row[:2]):
        _print_line(entry, name, index, width, look)
    return 0


class Look(NamedTuple):
    """How lines are shown."""

    prefix: bool
    stamps: bool
    colours: bool
    json: bool

    @classmethod
    def of(cls, args: Arguments) -> Look:
        """As the options say."""
        colours = coloured(sys.stdout) and not args.switch("no_color")
        return cls(not args.switch("no_log_prefix"), args.switch("timestamps"), colours, args.switch("json"))


def follow_logs(name: str, services: list[str], look: Look, *, query: dict[str, Any] | None = None) -> None:
    """All that is written from now on (with `query` from before), instances that come later included, until the app has gone."""
    lines: queue.Queue[tuple[str, int, Any] | None] = queue.Queue(1000)
    known: dict[str, int] = {}
    begun = time()

    def read(member_id: str, member: str, index: int, asked: dict[str, Any]) -> None:
        with suppress(TwinhullError, OSError):
            for _, entry in thin.sse("GET", remote.instance_path(member_id, "logs"), {"follow": True, **asked}):
                lines.put((member, index, entry))

    def watch() -> None:
        with suppress(TwinhullError, OSError), Client() as client, closing(client.app_watch(name)) as stream:
            for view in stream:
                for _, member in apps.members(view, services):
                    if member.id not in known:
                        known[member.id] = len(known)
                        asked = query or {} if member.started_at and member.started_at < begun else {}
                        if query is None and member.started_at < begun:
                            asked = {"since": begun - 60}
                        threading.Thread(target=read, args=(member.id, member.name, known[member.id], asked), daemon=True).start()
        lines.put(None)

    threading.Thread(target=watch, daemon=True).start()
    width = 0
    while (item := lines.get()) is not None:
        member, index, entry = item
        width = max(width, len(member))
        _print_line(entry, member, index, width, look)


def _print_line(entry: dict[str, Any], member: str, index: int, width: int, look: Look) -> None:
    from twinhull.cli.verbs.streams import as_json, data_of

    if look.json:
        output.write(as_json(entry, instance=member))
        return
    head = f"{member:<{width}} | " if look.prefix else ""
    if head and look.colours:
        head = f"\x1b[{_COLOURS[index % len(_COLOURS)]}m{head}\x1b[0m"
    stamp = f"{human.stamp(entry['at'], fraction=True)} " if look.stamps else ""
    data = data_of(entry)
    target = (sys.stderr if entry.get("stream") in (_STDERR, "stderr") else sys.stdout).buffer
    target.write((head + stamp).encode() + data + (b"" if data.endswith(b"\n") else b"\n"))
    target.flush()


# programs inside


def execute(args: Arguments) -> int:
    """A further program in an instance: the one with --index, else the first that serves."""
    from twinhull.cli import body
    from twinhull.cli.session import terminal_size
    from twinhull.cli.verbs.run import exec_in

    found = apps.members(_view(args), [args.place("service")], running=True)
    member = chosen(found, args.place("service"), args.number("index"))
    return exec_in(args, member.id, _with_terminal(args, body.process(_without_env_file(args), body.here(), terminal_size())))


def _without_env_file(args: Arguments) -> Arguments:
    """--env-file is the compose file's here, not the program's."""
    return args._replace(options={name: value for name, value in args.options.items() if name != "env_file"})


def _with_terminal(args: Arguments, process: dict[str, Any]) -> dict[str, Any]:
    """A terminal unless -T, or there is none here; stdin unless --interactive=false."""
    from twinhull.cli.session import terminal_size

    tty = not args.switch("no_tty") and sys.stdin.isatty() and sys.stdout.isatty()
    rows, cols = terminal_size()
    return process | {"tty": tty, "stdin": args.switch("interactive", True)} | ({"rows": rows, "cols": cols} if tty else {})


def run(args: Arguments) -> int:
    """A one-off instance, its dependencies up first."""
    from twinhull.cli import body
    from twinhull.cli.verbs.run import run_spec
    from twinhull.spec.instance import Runtime

    service = args.place("service")
    given = body.additions(args, body.here())
    file = apps.spec(args, [service])
    name, ports = file.name, file.services[service].ports if args.switch("service_ports") else ()
    with Client() as client:
        _bring_up(args, client, file, service)
        spec = client.app_one_off(file, service)
    changes: dict[str, Any] = {"auto_remove": args.switch("rm"), "name": args.text("name") or f"{name}-{service}-run-{os.urandom(3).hex()}"}
    if args.all("command"):
        changes["command"] = tuple(args.all("command"))
    if args.has("entrypoint"):
        changes["entrypoint"] = (args.text("entrypoint"),)
    if args.many("env"):
        changes["env"] = (*spec.env, *body.environment(_without_env_file(args), body.here()))
    for option, field in (("user", "user"), ("workdir", "workdir")):
        if args.has(option):
            changes[field] = args.text(option)
    if args.has("runtime"):
        try:
            changes["runtime"] = Runtime.parse(args.text("runtime"))
        except ValueError as error:
            raise usage(args.command, f"--runtime: {error}") from None
    tty = not args.switch("no_tty") and not args.switch("detach") and sys.stdin.isatty() and sys.stdout.isatty()
    stdin = args.switch("interactive", True) and not args.switch("detach")
    made = asdict(replace(spec, tty=tty, stdin=stdin, **changes))
    made["ports"] = [*map(asdict, ports), *given.get("ports", ())]
    made["mounts"] = [*made["mounts"], *given.get("mounts", ())]
    made["labels"] = made["labels"] | given.get("labels", {})
    return run_spec(args, made, detach=args.switch("detach"))


def _bring_up(args: Arguments, client: Client, spec: AppSpec, service: str) -> None:
    """What the service depends on, unless --no-deps; and the application, if there is none yet."""
    from twinhull.cli.verbs import apps as verbs
    from twinhull.engine.apps.base import UpOptions
    from twinhull.spec.selection import meant

    alone = args.switch("no_deps")
    names = meant(spec, [service], alone=alone)
    verbs.make_folders(spec, names)
    verbs.prepare_images(args, spec, names)
    before = apps.present(client, spec.name)
    client.app_up(spec, UpOptions(f"run {service}", services=(service,), no_deps=alone, one_off=True))
    if needed := names - {service}:
        apps.follow(client, spec.name, apps.ready, before=before, services=needed)


# their life


def start(args: Arguments) -> int:
    """Start what was stopped."""
    return _turn(args, lambda client, name: client.app_start(name, *args.all("service")), apps.started)


def stop(args: Arguments) -> int:
    """End the instances."""
    return _turn(
        args, lambda client, name: client.app_stop(name, *args.all("service"), timeout=args.number("timeout")), lambda view: view.settled
    )


def restart(args: Arguments) -> int:
    """Anew, each service a few at a time."""
    return _turn(args, lambda client, name: client.app_restart(name, *args.all("service"), timeout=args.number("timeout")), apps.ready)


def _turn(args: Arguments, change: Callable[[Client, str], AppView], done: Callable[[AppView], bool]) -> int:
    name = apps.name(args)
    with Client() as client:
        before = change(client, name)
        apps.follow(client, name, done, before=before)
    return 0


# looking


def stats(args: Arguments) -> int:
    """As `stats` of the instances."""
    from twinhull.cli.verbs.streams import show_stats

    refs = [member.id for _, member in apps.members(_view(args), args.all("service"), running=True)]
    if not refs:
        raise NotFoundError("nothing runs", "twinhull up -d")
    return show_stats(args, refs)


def port(args: Arguments) -> int:
    """Where a port is published."""
    name, wanted = args.place("service"), args.place("port")
    service = apps.service(_view(args), name)
    protocol = args.text("protocol", "tcp")
    found = [m for m in service.ports if m.protocol == protocol and (not wanted or str(m.container_port) == wanted)]
    if wanted and not found:
        raise NotFoundError(f"service {name} publishes no port {wanted}/{protocol}")
    if args.switch("json"):
        output.write(output.pretty([asdict(mapping) for mapping in found]) + "\n")
        return 0
    for mapping in found:
        where = sheets.host_address(asdict(mapping))
        print(where if wanted else f"{mapping.container_port}/{mapping.protocol} -> {where}")
    return 0


def images(args: Arguments) -> int:
    """What the services run."""
    from twinhull.cli.columns import Column

    rows = [asdict(service) for service in _view(args).services if not args.all("service") or service.name in args.all("service")]
    sheet = Sheet(
        (
            Column("Service", "SERVICE", lambda item: item["name"]),
            Column("Image", "IMAGE", lambda item: item["image"]),
            Column("ID", "IMAGE ID", lambda item: human.short_id(item["image_id"])),
        ),
        lambda item: human.short_id(item["image_id"]),
    )
    return output.rows(args, sheet, rows)


def events(args: Arguments) -> int:
    """What happens in the application, as it happens."""
    name = apps.name(args)
    with Client() as client:
        for event in client.events(filters={"app": (name,)}):
            if args.switch("json"):
                output.write(output.pretty(asdict(event)).replace("\n", "") + "\n")
            else:
                text = " ".join(f"{key}={value}" for key, value in event.attributes.items())
                output.write(f"{human.stamp(event.at)} {event.action} {printable(text)}\n")
    return 0


# images


def pull_image(image: str, *, quiet: bool = False) -> None:
    """Fetch one."""
    remote.pull(image, tls_verify=True, quiet=quiet)


def pull(args: Arguments) -> int:
    """Fetch those that aren't built here."""
    for service in _wanted(args):
        if service.build is None and service.pull_policy != "never":
            pull_image(service.template.image, quiet=args.switch("quiet"))
    return 0


def build(args: Arguments) -> int:
    """Build those that are built here."""
    extra = dict(text.partition("=")[::2] for text in args.many("build_arg"))
    services = [service for service in _wanted(args) if service.build is not None]
    for service in services:
        assert service.build is not None  # chosen so
        changed = replace(
            service.build,
            args={**service.build.args, **extra},
            no_cache=service.build.no_cache or args.switch("no_cache"),
            pull=service.build.pull or args.switch("pull"),
        )
        build_service(replace(service, build=changed), quiet=args.switch("quiet"))
    if not services:
        print("no service has a build section", file=sys.stderr)
    return 0


def push(args: Arguments) -> int:
    """Push those that are built here."""
    for service in _wanted(args):
        if service.build is not None:
            image = service.template.image
            remote.follow(f"pushing {image}", thin.sse("POST", "/v1/images/push", {"ref": image}), quiet=args.switch("quiet"))
    return 0


def _wanted(args: Arguments) -> list[ServiceSpec]:
    chosen = args.all("service")
    return [service for service in apps.spec(args, chosen).services.values() if not chosen or service.name in chosen]


def build_service(service: ServiceSpec, *, quiet: bool = False) -> None:
    """Build the image of a service, telling how it goes."""
    found = service.build
    assert found is not None  # asked of services with a build only
    with tempfile.TemporaryDirectory(prefix="twinhull-build-") as folder:
        file = found.dockerfile
        if found.inline:
            file = os.path.join(folder, "Containerfile")
            with open(file, "w", encoding="utf-8") as stream:
                stream.write(found.inline)
        body = {
            "context": found.context, "containerfile": file, "tags": [service.template.image, *found.tags], "target": found.target,
            "args": found.args, "labels": found.labels, "secrets": found.secrets, "no_cache": found.no_cache, "pull": found.pull,
        }  # fmt: skip
        with working(f"building {service.name}"):
            remote.follow(f"building {service.name}", thin.sse("POST", "/v1/images/build", None, body), quiet=quiet)


def _width(view: AppView) -> int:
    return max((len(member.name) for _, member in apps.members(view)), default=0)
