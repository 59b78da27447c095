"""What is done to instances by name: start, stop, remove, and so on. Several names: each is tried, and 1 is returned if one failed."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

from twinhull.cli import body, remote
from twinhull.cli.parse import usage
from twinhull.cli.progress import working
from twinhull.client import thin
from twinhull.errors import NotFoundError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinhull.cli.parse import Arguments


def start(args: Arguments) -> int:
    """Start, and with -a or -i connect to the one."""
    refs = args.all("instance")
    if not (args.switch("attach") or args.switch("interactive")):
        return remote.each(refs, _poster("start", "starting"))
    if len(refs) != 1:
        raise usage(args.command, "--attach and --interactive take one instance")
    if args.switch("interactive"):
        from twinhull.cli.verbs.run import attach_to

        _poster("start", "starting")(refs[0])
        return attach_to(args, refs[0], stdin=True)
    return _start_and_follow(args, refs[0])


def stop(args: Arguments) -> int:
    """Its stop signal, then KILL."""
    refs = args.all("instance") or [view["name"] for view in thin.call("GET", "/v1/instances")]
    signal = args.text("signal") or None
    return remote.each(refs, _poster("stop", "stopping", {"timeout": args.number("time"), "signal": signal}))


def restart(args: Arguments) -> int:
    """Stop and start."""
    return remote.each(args.all("instance"), _poster("restart", "restarting", {"timeout": args.number("time")}))


def kill(args: Arguments) -> int:
    """A signal."""
    return remote.each(args.all("instance"), _poster("kill", "killing", {"signal": args.text("signal", "KILL")}))


def pause(args: Arguments) -> int:
    """Freeze."""
    return remote.each(args.all("instance"), _poster("pause", "pausing"))


def unpause(args: Arguments) -> int:
    """Thaw."""
    return remote.each(args.all("instance"), _poster("unpause", "unpausing"))


def rename(args: Arguments) -> int:
    """Another name."""
    thin.call("POST", remote.instance_path(args.place("instance"), "rename"), {"name": args.place("new-name")})
    return 0


def remove(args: Arguments) -> int:
    """Remove; with --force a missing one is no error."""
    force = args.switch("force")
    query = {"force": force, "volumes": args.switch("volumes")}

    def one(ref: str) -> str:
        try:
            with working(f"removing {ref}"):
                thin.call("DELETE", remote.instance_path(ref), query)
        except NotFoundError:
            if not force:
                raise
        return ref

    return remote.each(args.all("instance") or _removable(force), one)


def _removable(running_too: bool) -> list[str]:
    views = thin.call("GET", "/v1/instances", {"all": True})
    return [view["name"] for view in views if running_too or not _runs(view)]


def _runs(view: dict[str, Any]) -> bool:
    return view["state"] in ("running", "paused", "restarting")


def prune(args: Arguments) -> int:
    """Remove all that don't run."""
    if not remote.confirm(args, "This removes all instances that don't run."):
        return 1
    views = thin.call("GET", "/v1/instances", {"all": True, **remote.filters(args)})

    def one(ref: str) -> str:
        try:
            thin.call("DELETE", remote.instance_path(ref))
        except NotFoundError:
            return ""  # somebody else was faster
        return ref

    found = [view["id"] for view in views if not _runs(view)]
    if not args.switch("json"):
        return remote.each(found, one)
    return remote.told(args, filter(None, map(one, found)))


def wait(args: Arguments) -> int:
    """Print each exit code when it comes."""
    query = {"condition": args.text("condition")} if args.has("condition") else None

    def one(ref: str) -> str:
        with working(f"waiting for {ref}"):
            found = thin.call("POST", remote.instance_path(ref, "wait"), query)
        return str(found["code"])

    return remote.each(args.all("instance"), one)


def update(args: Arguments) -> int:
    """New limits or restart policy."""
    change: dict[str, Any] = {}
    if limits := body.resources(args):
        change["resources"] = limits
    if body.restart(args):
        change["restart"] = args.text("restart")
    if not change:
        raise usage(args.command, "nothing to change is given")

    def one(ref: str) -> str:
        thin.call("POST", remote.instance_path(ref, "update"), body=_complete(ref, change))
        return ref

    return remote.each(args.all("instance"), one)


def _complete(ref: str, change: dict[str, Any]) -> dict[str, Any]:
    """The API takes Resources whole: what isn't given stays as it is now."""
    if "resources" not in change:
        return change
    return change | {"resources": remote.inspect(ref)["spec"].get("resources", {}) | change["resources"]}


def _poster(verb: str, doing: str, query: dict[str, Any] | None = None) -> Callable[[str], str]:
    """POST …/verb for one name, with a spinner if it takes long; returns the name."""

    def post(ref: str) -> str:
        with working(f"{doing} {ref}"):
            thin.call("POST", remote.instance_path(ref, verb), query)
        return ref

    return post


def _start_and_follow(args: Arguments, ref: str) -> int:
    """Start and show all it writes; its exit code.

    From its log, so that nothing written before we are connected is missed; but not if the log goes with its instance (--rm).
    """
    view = remote.inspect(ref)
    if _runs(view):
        raise UserError(f"{ref} runs already", f"connect to it: twinhull attach {ref}")
    asked = time()
    _poster("start", "starting")(ref)
    if view["spec"].get("auto_remove"):
        from twinhull.cli.verbs.run import attach_to

        return attach_to(args, view["id"], stdin=False)
    from twinhull.cli.verbs.streams import show_logs

    started = remote.inspect(view["id"])["started_at"]
    show_logs(view["id"], {"follow": True, "since": min(asked, started)})
    return int(thin.call("POST", remote.instance_path(view["id"], "wait"))["code"])
