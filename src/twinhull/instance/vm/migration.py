"""How QEMU saves a guest and goes on with it: its monitor's commands in their order. The RAM is a file that both sides have.

Source: QEMU's docs/devel/migration and qapi/migration.json. `fd:` for a plain file works from the oldest QEMU on and is deprecated
since 9.1; its successor there is `file:/dev/fdset/N`. Called by `template.py` and `machine.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from twinhull.errors import PermanentError
from twinhull.instance.vm.qmp import Monitor

_POLL = 0.003
_ENDED = (None, "none", "completed", "failed", "cancelled")
_WHOLE = ({"capability": "x-ignore-shared", "state": False},)
_UNLIMITED = 1 << 40
"""Bytes a second; QEMU's own limit is for networks."""
_IGNORE_SHARED = ({"capability": "x-ignore-shared", "state": True},)
"""RAM that is shared with a file isn't in the state. There's no way to say so on the command line."""


async def save_whole(monitor: Monitor, state: int) -> None:
    """Write a stopped guest to a descriptor with all of its RAM; it may go on afterwards (`cont`)."""
    await monitor.execute("migrate-set-parameters", max_bandwidth=_UNLIMITED)
    await _save(monitor, state, _WHOLE)


async def go_on(monitor: Monitor) -> None:
    """Let a guest run that was stopped to be saved, however far that came; one that runs goes on running.

    While QEMU still saves, a `cont` would be refused, or the guest be stopped once more at the end.
    """
    await monitor.execute("migrate_cancel")
    while (await monitor.execute("query-migrate")).get("status") not in _ENDED:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(_POLL)
    while (await monitor.execute("query-status")).get("status") == "finish-migrate":  # noqa: ASYNC110 - the same
        await asyncio.sleep(_POLL)
    await monitor.execute("cont")


async def save(monitor: Monitor, state: int) -> None:
    """Write the state of a running guest to a descriptor; afterwards it is stopped, and its RAM's file belongs to that state.

    It isn't stopped before, because a guest that was saved while it ran goes on by itself when it is restored.
    """
    await _save(monitor, state, _IGNORE_SHARED)


async def _save(monitor: Monitor, state: int, capabilities: Sequence[dict[str, object]]) -> None:
    await monitor.execute("migrate-set-capabilities", capabilities=capabilities)
    await monitor.execute("getfd", descriptor=state, fdname="state")
    await monitor.execute("migrate", uri="fd:state")
    while (progress := await monitor.execute("query-migrate")).get("status") != "completed":
        if progress.get("status") in ("failed", "cancelled"):
            raise PermanentError(f"save a guest: {_reason(progress)}")
        await asyncio.sleep(_POLL)


async def fill(monitor: Monitor, state: int) -> None:
    """Let a QEMU that waits take all of a guest that `save_whole` wrote, RAM included; returns when it is there, and stopped."""
    await monitor.execute("migrate-set-capabilities", capabilities=_WHOLE)
    await monitor.execute("migrate-incoming", uri=f"fd:{state}")
    await _arrived(monitor)


async def restore(monitor: Monitor, state: int) -> None:
    """Let a QEMU that was started with `-incoming defer` go on from `state`, the number of one of its own descriptors.

    Returns when QEMU reads it. If it can't, it says why on stderr and ends. No packets tell the network that a guest has moved.
    """
    steps = (
        monitor.execute("migrate-set-capabilities", capabilities=_IGNORE_SHARED),
        monitor.execute("migrate-set-parameters", announce_rounds=0),
        monitor.execute("migrate-incoming", uri=f"fd:{state}"),
    )
    for result in await asyncio.gather(*steps, return_exceptions=True):  # QEMU does one after the other; nobody waits in between
        if isinstance(result, BaseException):
            raise result


async def restore_stopped(monitor: Monitor, state: int) -> None:
    """The same for a guest that stood still when it was saved; it runs when this returns.

    A `cont` that comes while QEMU still reads is forgotten: the state says that it stands still.
    """
    await restore(monitor, state)
    await _arrived(monitor)
    await monitor.execute("cont")


async def _arrived(monitor: Monitor) -> None:
    while (await monitor.execute("query-status")).get("status") == "inmigrate":  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(_POLL)


def _reason(progress: dict[str, Any]) -> str:
    return str(progress.get("error-desc") or progress.get("status"))
