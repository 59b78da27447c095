"""`daemon`, `daemon stop` and `daemon status`. The daemon's modules are loaded here only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinhull.cli import output

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments


def run(args: Arguments) -> int:
    """In the foreground, or in the background once it answers."""
    from twinhull import home

    if args.switch("detach"):
        from twinhull.cli.progress import working
        from twinhull.daemon import control

        with working("starting the daemon"):
            control.detach(home.current())
        return 0
    from twinhull.daemon import main

    return main.run(home.current())


def stop(args: Arguments) -> int:
    """End it, and say what becomes of the workloads."""
    from twinhull import home
    from twinhull.cli.progress import working
    from twinhull.daemon import control

    with working("stopping the daemon"):
        control.stop(home.current(), all=args.switch("all"))
    return 0


def status(args: Arguments) -> int:
    """0 if it runs, else 1."""
    from twinhull import home
    from twinhull.daemon import control

    here = home.current()
    pid = control.status(here)
    found: dict[str, Any] = {"running": pid is not None, "pid": pid, "socket": str(here.socket)}
    form = output.chosen(args)
    if form == "table":
        print(
            f"the daemon runs (pid {pid}) and listens on {here.socket}"
            if pid
            else "the daemon doesn't run; start it: twinhull daemon --detach"
        )
    else:
        output.write((output.pretty(found) if form == "json" else output.compiled(form).render(found)) + "\n")
    return 0 if pid else 1
