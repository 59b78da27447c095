"""How QEMU saves a guest and goes on with it: its monitor's commands in their order. The RAM is a file that both sides have.

Source: QEMU's docs/devel/migration and qapi/migration.json. `fd:` for a plain file works from the oldest QEMU on and is deprecated
since 9.1; its successor there is `file:/dev/fdset/N`. Called by `template.py` and `machine.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from twinhull.errors import PermanentError
from twinhull.instance.vm.qmp import Monitor

_POLL = 0.005
_IGNORE_SHARED = ({"capability": "x-ignore-shared", "state": True},)
"""RAM that is shared with a file isn't in the state. There's no way to say so on the command line."""


async def save(monitor: Monitor, state: int) -> None:
    """Write the state of a running guest to a descriptor; afterwards it is stopped, and its RAM's file belongs to that state.

    It isn't stopped before, because a guest that was saved while it ran goes on by itself when it is restored.
    """
    await monitor.execute("migrate-set-capabilities", capabilities=_IGNORE_SHARED)
    await monitor.execute("getfd", descriptor=state, fdname="state")
    await monitor.execute("migrate", uri="fd:state")
    while (progress := await monitor.execute("query-migrate")).get("status") != "completed":
        if progress.get("status") in ("failed", "cancelled"):
            raise PermanentError(f"save a guest: {_reason(progress)}")
        await asyncio.sleep(_POLL)


async def restore(monitor: Monitor, state: int) -> None:
    """Let a QEMU that was started with `-incoming defer` go on from `state`, the number of one of its own descriptors.

    Returns when QEMU reads it. If it can't, it says why on stderr and ends. No packets tell the network that a guest has moved.
    """
    await monitor.execute("migrate-set-capabilities", capabilities=_IGNORE_SHARED)
    await monitor.execute("migrate-set-parameters", announce_rounds=0)
    await monitor.execute("migrate-incoming", uri=f"fd:{state}")


def _reason(progress: dict[str, Any]) -> str:
    return str(progress.get("error-desc") or progress.get("status"))
