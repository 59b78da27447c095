"""Other files behind a running QEMU's disks: the guest keeps its device, what stands behind it is exchanged.

Invariant: the guest has nothing mounted and nothing cached of a disk whose file is exchanged (the agent's RESET sees to that), and QEMU
has measured the disk when it began: what comes later may be smaller, not larger.
Source: QEMU's qapi/block-core.json, `blockdev-reopen` (stable from 6.1 on). Called by `parking.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

from twinhull.instance.vm import qemu
from twinhull.instance.vm.qmp import Monitor

_FIRST = 10
"""Sets of descriptors below are the command line's."""


@dataclass(eq=False)
class Disks:
    """Of one QEMU. `node`: disk → the name of what stands behind it now."""

    monitor: Monitor
    node: dict[str, str] = field(default_factory=lambda: {"root": "root", "scratch": "scratch"})
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(_FIRST))

    async def exchange(self, disk: str, descriptor: int) -> None:
        """Let a disk ("root" or "scratch") stand for another file from now on. QEMU does one after the other; nobody waits in between."""
        number = next(self.numbers)
        read_only, old, new = disk == "root", self.node[disk], f"{disk}-{number}"
        execute = self.monitor.execute_with
        steps = [self.monitor.execute("add-fd", descriptor=descriptor, fdset_id=number)]
        steps += [execute("blockdev-add", node) for node in qemu.disk_nodes(new, number, read_only=read_only)]
        steps.append(execute("blockdev-reopen", {"options": [qemu.throttle_node(disk, f"{new}-raw", read_only=read_only)]}))
        steps += [execute("blockdev-del", {"node-name": f"{old}-{kind}"}) for kind in ("raw", "file")]
        results = await asyncio.gather(*steps, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self.node[disk] = new
