"""What is asked about instances and printed: ps, inspect, top, port, diff; and commit."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

from twinhull.cli import output, remote, sheets
from twinhull.client import thin
from twinhull.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinhull.cli.parse import Arguments


def ps(args: Arguments) -> int:
    """The table of instances, the newest first."""
    last = 1 if args.switch("latest") else int(args.number("last") or 0)
    given = remote.filters(args)
    # a state or exit code asked for is asked of all, as in Docker
    every = args.switch("all") or last > 0 or any(text.startswith(("status=", "exited=")) for text in args.many("filter"))
    views = thin.call("GET", "/v1/instances", {"all": every, **given})
    views.sort(key=lambda view: -view["created_at"])
    return output.rows(args, sheets.instances(time(), full=args.switch("no_trunc")), views[:last] if last else views)


def inspect(args: Arguments) -> int:
    """JSON of whatever bears the name: instances first, then images, networks, volumes."""
    kind = args.text("type").replace("container", "instance")
    return inspect_all(args, args.all("name"), lambda ref: _find(ref, kind))


def inspect_all(args: Arguments, refs: list[str], find: Callable[[str], Any]) -> int:
    """Print what is found, and report what isn't; a list as long as what was found."""
    found: list[Any] = []
    if "{{" in args.text("format"):
        output.compiled(args.text("format"))  # a wrong template fails before anything is asked

    def one(ref: str) -> str:
        found.append(find(ref))
        return ""

    status = remote.each(refs, one)
    if "{{" in args.text("format"):
        from twinhull.cli.dockerview import Named

        found = [Named(each) if "argv" in each else each for each in found]
    if found or output.chosen(args) != "table":
        output.objects(args, found)
    else:
        print("[]")
    return status


def _find(ref: str, kind: str) -> Any:
    for name, read in (("instance", remote.inspect), ("image", _image), ("network", _network), ("volume", _volume)):
        if kind in ("", name):
            try:
                return read(ref)
            except NotFoundError:
                continue
    raise NotFoundError(f"there is no {kind or 'instance, image, network or volume'} {ref}")


def _image(ref: str) -> Any:
    return thin.call("GET", "/v1/images/inspect", {"ref": ref})


def _network(ref: str) -> Any:
    return thin.call("GET", remote.named("networks", ref))


def _volume(ref: str) -> Any:
    return thin.call("GET", remote.named("volumes", ref))


def top(args: Arguments) -> int:
    """Processes inside."""
    found = thin.call("GET", remote.instance_path(args.place("instance"), "top"))
    return output.rows(args, sheets.processes(found), found)


def port(args: Arguments) -> int:
    """Published ports; with PORT only its addresses."""
    ref = args.place("instance")
    mappings = [mapping for mapping in remote.inspect(ref).get("ports") or () if mapping.get("host_port")]
    wanted = args.place("port")
    if wanted:
        inside, _, protocol = wanted.partition("/")
        mappings = [m for m in mappings if str(m["container_port"]) == inside and m["protocol"] == (protocol or "tcp")]
        if not mappings:
            raise NotFoundError(f"{ref} publishes no port {inside}/{protocol or 'tcp'}", f"see: twinhull port {ref}")
    if output.chosen(args) == "table":
        lines = [
            sheets.host_address(m) if wanted else f"{m['container_port']}/{m['protocol']} -> {sheets.host_address(m)}" for m in mappings
        ]
        output.write("".join(f"{line}\n" for line in lines))
        return 0
    return output.rows(args, sheets.published(), mappings)


def diff(args: Arguments) -> int:
    """A, C or D and the path, a line each."""
    found = thin.call("GET", remote.instance_path(args.place("instance"), "diff"))
    if output.chosen(args) == "table":
        from twinhull.cli.style import printable

        output.write("".join(f"{change['kind']} {printable(change['path'])}\n" for change in found))
        return 0
    return output.rows(args, sheets.changes(), found)


def commit(args: Arguments) -> int:
    """An image of the instance's root."""
    from twinhull.cli.progress import working

    query = {"tag": args.place("image"), "message": args.text("message"), "change": args.many("change")}
    with working(f"writing {args.place('image') or 'the image'}"):
        view = thin.call("POST", remote.instance_path(args.place("instance"), "commit"), query)
    print(view["id"])
    return 0
