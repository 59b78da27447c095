"""Ports come and go: what is made for each in the ruleset, among the resolvers and in the kernel, and unmade after a failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

from twinhull.home import Home
from twinhull.network import dns, rules
from twinhull.network.conntrack import Flows
from twinhull.network.ports import Port
from twinhull.network.rules import Part
from twinhull.network.workers import Workers

T = TypeVar("T")


class Attachments:
    """All ports of one daemon."""

    def __init__(self, home: Home, workers: Workers, resolvers: dns.Resolvers, flows: Flows) -> None:
        self._home = home
        self._workers = workers
        self._resolvers = resolvers
        self._flows = flows
        self._views: dict[int, dns.View] = {}
        self._busy: dict[int, asyncio.Lock] = {}

    @property
    def views(self) -> set[str]:
        """Names of the views that ports use beside their network's own."""
        return {view.name for view in self._views.values()}

    async def attach(
        self, ports: Sequence[Port], servers: Sequence[str], undo: Callable[[T], None], function: Callable[..., T], *arguments: object
    ) -> T:
        """Admit the ports and make them; after a failure or cancellation nothing of them is left."""
        async with AsyncExitStack() as stack:
            await self._take(stack, ports)
            job: asyncio.Future[T] | None = None
            try:
                elements = await self.parts(ports, servers)
                await self._workers.quick(self._workers.table.replace, elements)
                job = asyncio.ensure_future(self._workers.quick(function, *arguments))
                return await asyncio.shield(job)
            except BaseException:
                await asyncio.shield(self._abandon(ports, job, undo))
                raise

    async def _abandon(self, ports: Sequence[Port], job: asyncio.Future[T] | None, undo: Callable[[T], None]) -> None:
        """A thread can't be interrupted: wait for what it makes, and unmake it."""
        if job:
            with contextlib.suppress(Exception):
                undo(await job)
        await self._withdraw(ports)

    async def detach(self, ports: Sequence[Port]) -> None:
        """Remove these ports wherever they are. Takes some 40 ms; a later `attach` of the same number waits for it."""
        async with AsyncExitStack() as stack:
            await self._take(stack, ports)
            await self._withdraw(ports)

    async def _take(self, stack: AsyncExitStack, ports: Sequence[Port]) -> None:
        for number in sorted({port.number for port in ports}):
            await stack.enter_async_context(self._busy.setdefault(number, asyncio.Lock()))

    async def _withdraw(self, ports: Sequence[Port]) -> None:
        gone = {view.name for port in ports if (view := self._views.pop(port.number, None))}
        await self._workers.quick(self._workers.table.replace, {f"port {port.number}": () for port in ports})
        await self._flows.sever({port.interface.address for port in ports})
        await self._resolvers.retire(gone - {view.name for view in self._views.values()})
        await self._workers.slow(self._workers.slow_kernel.remove, ports)

    async def parts(self, ports: Sequence[Port], servers: Sequence[str]) -> dict[str, frozenset[Part]]:
        """What the ports contribute to the ruleset, by owner; starts their resolver if they need one of their own."""
        view = dns.View.of(ports, tuple(servers))
        elements: dict[str, frozenset[Part]] = {}
        for port in ports:
            names = (self._home.ifname(kind, port.number) for kind in ("v", "t"))
            elements[f"port {port.number}"] = frozenset().union(*(rules.of_endpoint(name, port.interface.address) for name in names))
        if view is None or view == dns.View((view.records[0],)):
            return elements
        self._views |= {port.number: view for port in ports}
        listening = await self._resolvers.ensure(view)
        for port in ports:  # whichever of its gateways the instance asks, it is answered by its own view
            elements[f"port {port.number}"] |= rules.of_resolver(port.interface.address, view.gateway, listening)
        return elements
