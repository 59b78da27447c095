"""`config`: the compose files resolved, or what is in them, or what can't be honoured."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from twinhull.cli import appfile, output
from twinhull.cli.parse import usage
from twinhull.cli.style import paint, printable

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments
    from twinhull.compose import Loaded
    from twinhull.spec.app import AppSpec

_LISTS = ("services", "images", "volumes", "networks", "profiles", "hash")


def config(args: Arguments) -> int:
    """Print the resolved file. 2: it is malformed; 1: with --check, something in it would change its meaning here."""
    chosen = [name for name in _LISTS if args.has(name)]
    if len(chosen) > 1:
        raise usage(args.command, f"--{chosen[0]} and --{chosen[1]} exclude each other")
    services = args.all("service")
    loaded = appfile.resolve(args, services, interpolate=not args.switch("no_interpolate"))
    if args.switch("no_interpolate"):
        return _print(args, loaded)
    spec = appfile.spec(loaded)
    if args.switch("check"):
        return _check(args, spec)
    if args.switch("quiet"):
        return 0
    if chosen:
        lines = _lines(args, chosen[0], loaded, spec)
        output.write(output.pretty(lines) + "\n" if _json(args) else "".join(f"{printable(line)}\n" for line in lines))
        return 0
    return _print(args, loaded)


def _json(args: Arguments) -> bool:
    return args.switch("json") or args.text("format") == "json"


def _print(args: Arguments, loaded: Loaded) -> int:
    from twinhull.compose import render
    from twinhull.compose.tree import plain

    if args.switch("quiet"):
        return 0
    raw = args.switch("no_interpolate")
    value = {"name": loaded.name, **plain(loaded.tree)} if raw else render.resolved(loaded)
    services = args.all("service")
    if services:
        value["services"] = {name: service for name, service in value.get("services", {}).items() if name in services}
    output.write(render.text(value, "json" if _json(args) else "yaml"))
    return 0


def _check(args: Arguments, spec: AppSpec) -> int:
    fatal = [note for note in spec.notes if note.fatal]
    if _json(args):
        rows = [{"where": note.where, "key": note.key, "text": note.text, "refused": note.fatal} for note in spec.notes]
        output.write(output.pretty(rows) + "\n")
    elif not args.switch("quiet"):
        for note in sorted(spec.notes, key=lambda note: not note.fatal):
            colour = "red" if note.fatal else "yellow"
            print(f"{paint('refused' if note.fatal else 'note', colour, sys.stdout)} {printable(f'{note.where}: {note.key}: {note.text}')}")
        print(f"{spec.name}: {len(spec.services)} services, {len(fatal)} things refused, {len(spec.notes) - len(fatal)} notes")
    return 1 if fatal else 0


def _lines(args: Arguments, what: str, loaded: Loaded, spec: AppSpec) -> list[str]:
    match what:
        case "services":
            return list(spec.services)
        case "images":
            return list(dict.fromkeys(service.template.image for service in spec.services.values()))
        case "volumes":
            return list(loaded.tree.sub("volumes"))
        case "networks":
            return list(loaded.tree.sub("networks"))
        case "profiles":
            return list(loaded.profiles)
        case _:
            return _hashes(args, spec)


def _hashes(args: Arguments, spec: AppSpec) -> list[str]:
    from twinhull.spec.app import fingerprint

    wanted = args.text("hash")
    names = list(spec.services) if wanted == "*" else wanted.split(",")
    for name in names:
        if name not in spec.services:
            raise usage(args.command, f"there is no service {name!r}")
    return [f"{name} {fingerprint(spec.services[name], '')}" for name in names]
