"""`scale explain`: what the autoscaler saw, what each target asked for, and which bound had the last word."""

from __future__ import annotations

from dataclasses import asdict
from time import time
from typing import TYPE_CHECKING

from twinhull.cli import apps, columns, human, output
from twinhull.cli.parse import usage
from twinhull.cli.style import printable
from twinhull.client.sync import Client

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments
    from twinhull.engine.apps.base import ScaleView, TargetView


def explain(args: Arguments) -> int:
    """As it was decided last."""
    services = args.all("service=count")[1:]
    if len(services) != 1:
        raise usage(args.command, "explain takes one service")
    with Client() as client:
        view = client.app_scale_explain(apps.name(args), services[0])
    if args.switch("json"):
        output.write(output.pretty(asdict(view)) + "\n")
        return 0
    output.write("".join(f"{printable(line)}\n" for line in lines(view, time())))
    return 0


def lines(view: ScaleView, now: float) -> list[str]:
    """For people."""
    panic = ", in panic" if view.panic else ""
    waiting = f", {view.waiting} waiting" if view.waiting else ""
    found = [
        f"{view.app}/{view.service}: {view.desired} wanted, {view.ready} ready{waiting} (min {view.min}, max {view.max}{panic})",
        f"decided by {view.decided_by}{f': {_without(view.reason, view.decided_by)}' if view.reason else ''}",
        f"last used {human.ago(view.last_used, now)}",
    ]
    if view.granted >= 0:
        found.append(f"budget: {view.granted} granted{f'; {view.budget}' if view.budget else ''}")
    if view.cpus or view.memory:
        found.append(f"each has {view.cpus:g} CPUs, {human.binary_size(view.memory)}")
    if view.wake_at:
        found.append(f"decided anew in {max(0.0, view.wake_at - now):.0f} s: a schedule or window ends")
    if view.targets:
        head = ["TARGET", "VALUE", "STABLE", "PANIC", "LATEST", "AGE", "WISH", "NOTE"]
        found += ["", *columns.aligned([head, *map(_target, view.targets)])]
    if view.bounds:
        rows = [[bound.name, f"{bound.before} → {bound.after}", bound.reason] for bound in view.bounds]
        found += ["", *columns.aligned([["STEP", "INSTANCES", "REASON"], *rows])]
    return found


def _without(reason: str, name: str) -> str:
    return reason.removeprefix(f"{name}: ")


def _target(target: TargetView) -> list[str]:
    numbers = [target.value, target.stable, target.panic, target.latest]
    age = "-" if target.age is None else f"{target.age:.1f} s"
    wish = "-" if target.wish is None else str(target.wish)
    return [target.target, *("-" if each is None else f"{each:.4g}" for each in numbers), age, wish, target.note]
