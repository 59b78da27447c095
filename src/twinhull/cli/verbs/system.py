"""The machine and the CLI itself: df, prune, info, version, doctor, help, login."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from twinhull import __version__
from twinhull.cli import output, remote, sheets
from twinhull.client import thin
from twinhull.errors import TwinhullError, UserError

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments


def usage(args: Arguments) -> int:
    """`system df`."""
    return output.rows(args, sheets.usage(), thin.call("GET", "/v1/system/df"))


def prune(args: Arguments) -> int:
    """`system prune`."""
    what = [
        "instances that don't run",
        "networks that nothing uses",
        "images that nothing uses" if args.switch("all") else "images without a name",
    ]
    what += ["volumes that nothing uses, with their data"] if args.switch("volumes") else []
    if not remote.confirm(args, f"This removes all {', '.join(what)}."):
        return 1
    found = thin.call("POST", "/v1/system/prune", {"all": args.switch("all"), "volumes": args.switch("volumes")})
    if args.switch("json"):
        output.write(output.pretty(found) + "\n")
        return 0
    return remote.told(args, [f"{kind} {name}" for kind, names in found.items() for name in names])


def info(args: Arguments) -> int:
    """`info`: indented lines for people."""
    return _show(args, thin.call("GET", "/v1/info"))


def version(args: Arguments) -> int:
    """The CLI's and the daemon's; without a daemon the CLI's alone."""
    found: dict[str, Any] = {"client": __version__}
    try:
        ping = thin.call("GET", "/v1/ping")
        found |= {"daemon": ping["version"], "api": ping["api"], "pid": ping["pid"]}
    except TwinhullError as error:
        found["daemon"] = None
        if output.chosen(args) == "table":
            print(f"twinhull {__version__} (no daemon: {error.message})")
            return 0
    if output.chosen(args) == "table":
        print(f"twinhull {__version__} (daemon {found['daemon']}, API {found['api']})")
        return 0
    return _show(args, found)


def _show(args: Arguments, found: dict[str, Any]) -> int:
    form = output.chosen(args)
    if form == "table":
        output.write("".join(f"{line}\n" for line in _lines(found, "")))
    elif form == "json":
        output.write(output.pretty(found) + "\n")
    else:
        output.write(output.compiled(form).render(found) + "\n")
    return 0


def _lines(found: dict[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for key, value in found.items():
        title = str(key).replace("_", " ")
        if isinstance(value, dict):
            lines += [f"{indent}{title}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{title}: {_plain(value)}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return {True: "yes", False: "no", None: "-"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)


def doctor(args: Arguments) -> int:
    """Checks of this machine."""
    from argparse import Namespace

    from twinhull.doctor import main

    return int(main(Namespace(json=args.switch("json"))))


def show_help(args: Arguments) -> int:
    """Help of a command or topic, or the list of commands."""
    from twinhull.cli.help import show

    return show(" ".join(args.all("command")))


def login(args: Arguments) -> int:
    """Registries' credentials are skopeo's business."""
    verb = args.command.words
    raise UserError(
        f"twinhull has no {verb}: it uses the credentials of skopeo, podman and docker",
        f"use: skopeo {verb} {' '.join(args.all('registry')) or 'REGISTRY'}",
    )


def warn(text: str) -> None:
    """A line on stderr that is no error."""
    from twinhull.cli.style import printable

    print(f"twinhull: {printable(text)}", file=sys.stderr)
