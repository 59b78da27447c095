"""The threads that speak to the kernel, with what each of them uses.

*quick* does everything that an instance's start or a change of endpoints waits for, one job at a time; *slow* deletes links, which
waits for RCU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from twinhull.home import Home
from twinhull.network.ports import Kernel, enable_forwarding
from twinhull.network.table import Table

T = TypeVar("T")


class Workers:
    """`kernel` and `table` are for quick jobs, `slow_kernel` for slow ones."""

    kernel: Kernel
    table: Table
    slow_kernel: Kernel

    def __init__(self, home: Home) -> None:
        self._home = home
        self._quick = ThreadPoolExecutor(1, "network-quick")
        self._slow = ThreadPoolExecutor(1, "network-slow")

    async def open(self) -> None:
        """Let this network namespace route; put the base table right."""
        await self.quick(self._open)

    def _open(self) -> None:
        enable_forwarding()
        self.kernel, self.slow_kernel = Kernel(self._home), Kernel(self._home)
        self.table = Table(self._home.nft_table, f"th{self._home.tag}")
        self.table.open()

    async def close(self, *, remove: bool) -> None:
        """Finish what is under way; with `remove` the table goes, too."""
        await self.quick(self._close, remove)
        self._quick.shutdown()
        self._slow.shutdown()

    def _close(self, remove: bool) -> None:
        self.table.close(remove=remove)
        for link in (self.kernel, self.slow_kernel):
            link.close()

    async def quick(self, function: Callable[..., T], *arguments: object) -> T:
        """Call in the quick thread."""
        return await asyncio.get_running_loop().run_in_executor(self._quick, function, *arguments)

    async def slow(self, function: Callable[..., T], *arguments: object) -> T:
        """Call in the slow thread."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, function, *arguments)
