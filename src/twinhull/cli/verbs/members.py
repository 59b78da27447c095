"""What is done to each instance of an application's services: kill, pause, rm, cp, wait, top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinhull.cli import apps, output, remote, sheets
from twinhull.cli.progress import working
from twinhull.client import thin
from twinhull.client.sync import Client
from twinhull.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinhull.cli.parse import Arguments
    from twinhull.engine.apps.base import MemberView, ServiceView


def _members(args: Arguments, *, running: bool = True) -> list[MemberView]:
    with Client() as client:
        view = client.app(apps.name(args))
    return [member for _, member in apps.members(view, args.all("service"), running=running)]


def chosen(members: list[tuple[ServiceView, MemberView]], service: str, index: float | None) -> MemberView:
    """The instance of a service that is meant: the one with this index, else the first that serves. Raises NotFoundError."""
    found = [member for _, member in members if index in (None, member.slot)]
    if not found:
        raise NotFoundError(f"service {service} has no running instance{f' {index:g}' if index else ''}", "see: twinhull compose ps")
    return min(found, key=lambda each: (not each.serving, each.slot))


def _poster(verb: str, query: dict[str, Any] | None = None) -> Callable[[str], str]:
    def one(ref: str) -> str:
        thin.call("POST", remote.instance_path(ref, verb), query)
        return ref

    return one


def kill(args: Arguments) -> int:
    """A signal to each instance."""
    return remote.each([member.name for member in _members(args)], _poster("kill", {"signal": args.text("signal", "KILL")}))


def pause(args: Arguments) -> int:
    """Freeze."""
    return remote.each([member.name for member in _members(args)], _poster("pause"))


def unpause(args: Arguments) -> int:
    """Thaw what is frozen."""
    paused = [member.name for member in _members(args, running=False) if member.state == "paused"]
    return remote.each(paused, _poster("unpause"))


def wait(args: Arguments) -> int:
    """Print each exit code when it comes."""

    def one(ref: str) -> str:
        with working(f"waiting for {ref}"):
            return str(thin.call("POST", remote.instance_path(ref, "wait"))["code"])

    return remote.each([member.name for member in _members(args, running=False)], one)


def remove(args: Arguments) -> int:
    """Remove what was stopped; with --stop stop it first. It is made anew by the next start or up."""
    name = apps.name(args)
    with Client() as client:
        if args.switch("stop"):
            before = client.app_stop(name, *args.all("service"))
            apps.follow(client, name, lambda view: view.settled, before=before)
        view = client.app(name)
    services = {service.name for service in view.services if service.state == "stopped"}
    found = [member.name for service, member in apps.members(view, args.all("service")) if service.name in services]
    if wrong := [each for each in args.all("service") if each not in services]:
        raise ConflictError(f"not stopped: {', '.join(wrong)}", "stop them first, or use --stop")
    if not found:
        return 0
    if not remote.confirm(args, f"This removes {', '.join(found)}."):
        return 1
    query = {"volumes": args.switch("volumes")}

    def one(ref: str) -> str:
        thin.call("DELETE", remote.instance_path(ref), query)
        return ref

    return remote.each(found, one)


def copy(args: Arguments) -> int:
    """`cp`, where an instance may be called by its service."""
    from twinhull.cli.verbs import copying

    with Client() as client:
        view = client.app(apps.name(args))

    def named(text: str) -> str:
        place = copying.place(text)
        if not place.ref:
            return text
        found = apps.members(view, [place.ref], running=True)
        return f"{chosen(found, place.ref, args.number('index')).name}:{place.path}"

    places = {key: [named(text) for text in words] for key, words in args.places.items()}
    return copying.copy(args._replace(places=places))


def top(args: Arguments) -> int:
    """Processes, an instance after the other."""
    found = [(member.name, thin.call("GET", remote.instance_path(member.id, "top"))) for member in _members(args)]
    if output.chosen(args) == "json":
        output.write(output.pretty([{"instance": name, "processes": processes} for name, processes in found]) + "\n")
        return 0
    for name, processes in found:
        output.write(f"{name}\n")
        output.rows(args, sheets.processes(processes), processes)
        output.write("\n")
    return 0
