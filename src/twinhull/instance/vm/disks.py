"""Other files behind a running QEMU's disks: the guest keeps its device, what stands behind it is exchanged.

Invariant: the guest has nothing mounted and nothing cached of a disk whose file is exchanged (the agent's RESET sees to that).
Source: QEMU's qapi/block-core.json, `blockdev-reopen` (stable from 6.1 on). Called by `parking.py`.
"""

from __future__ import annotations

from twinhull.instance.vm import qemu
from twinhull.instance.vm.qmp import Monitor

_FDSETS = {"root": 11, "scratch": 12}
"""Numbers that the command line doesn't use."""


async def exchange(monitor: Monitor, name: str, descriptor: int, *, read_only: bool) -> None:
    """Let the disk `name` ("root" or "scratch") stand for another file from now on. Once for each disk."""
    fdset = _FDSETS[name]
    await monitor.execute("add-fd", descriptor=descriptor, fdset_id=fdset)
    for node in qemu.disk_nodes(f"{name}-new", fdset, read_only=read_only):
        await monitor.execute_with("blockdev-add", node)
    await monitor.execute_with("blockdev-reopen", {"options": [qemu.throttle_node(name, f"{name}-new-raw", read_only=read_only)]})
    for node_name in (f"{name}-raw", f"{name}-file"):
        await monitor.execute("blockdev-del", node_name=node_name)
