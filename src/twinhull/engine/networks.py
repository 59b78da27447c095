"""The networks of one engine: their names, numbers and subnets, who uses them, and their kernel objects through the network layer."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from twinhull.engine.base import NetworkSpec, NetworkView
from twinhull.engine.events import Events
from twinhull.engine.live import Live
from twinhull.engine.names import check as check_name
from twinhull.errors import ConflictError, NotFoundError
from twinhull.network import addresses
from twinhull.network.host import NetworkHost
from twinhull.spec.network import NetworkRecord
from twinhull.spec.validate import DEFAULT_NETWORK
from twinhull.store.db import Database, NetworkRow

_adapter: TypeAdapter[NetworkRecord] = TypeAdapter(NetworkRecord)


@dataclass(eq=False)
class Networks:
    """`records` by id, shared with whoever looks networks up. pools: where subnets are taken from, empty: the built-in ones."""

    host: NetworkHost
    database: Database
    events: Events
    lives: dict[str, Live]
    pools: tuple[str, ...] = ()
    records: dict[str, NetworkRecord] = field(default_factory=dict)
    reserved: Callable[[str], set[str]] = lambda _network_id: set()
    """Virtual addresses of services on a network: it is in use as long as there are any."""
    _naming: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One network at a time is given its name, number and subnet."""

    def load(self) -> None:
        """From the database."""
        for row in self.database.networks():
            self.records[row.id] = _adapter.validate_json(row.record)

    async def ensure_default(self) -> None:
        """The network of instances that name none."""
        if not any(network.name == DEFAULT_NETWORK for network in self.records.values()):
            await self.create(NetworkSpec(DEFAULT_NETWORK))

    async def create(self, spec: NetworkSpec) -> NetworkView:
        """Write it down and make it. Nothing is left after a failure."""
        async with self._naming:
            record = await self._record(spec)
            self.database.add_network(NetworkRow(record.id, record.name, record.number, _adapter.dump_json(record).decode()))
            try:
                await self.host.ensure(record)
            except BaseException:
                await asyncio.shield(self.host.destroy(record))
                self.database.remove_network(record.id)
                raise
            self.records[record.id] = record
        self.events.emit("network", "create", record.id, record.name)
        return self._view(record)

    async def _record(self, spec: NetworkSpec) -> NetworkRecord:
        name = check_name(spec.name)
        if any(network.name == name for network in self.records.values()):
            raise ConflictError(f"a network named {name} exists")
        number = next(n for n in range(1, 1 << 16) if n not in {network.number for network in self.records.values()})
        subnet = await self._subnet(spec.subnet)
        return NetworkRecord(
            id=secrets.token_hex(32),
            name=name,
            number=number,
            subnet=subnet,
            gateway=addresses.gateway_of(subnet),
            internal=spec.internal,
            mtu=spec.mtu,
            labels=spec.labels,
            created_at=time.time(),
        )

    async def _subnet(self, wanted: str) -> str:
        taken = {network.subnet: network.name for network in self.records.values()}
        return await (self.host.check_subnet(wanted, taken) if wanted else self.host.free_subnet(taken, self.pools))

    def views(self) -> tuple[NetworkView, ...]:
        """All, the oldest first."""
        return tuple(self._view(record) for record in sorted(self.records.values(), key=lambda record: record.number))

    def view(self, ref: str) -> NetworkView:
        """By name or id."""
        return self._view(self._find(ref))

    async def remove(self, ref: str) -> None:
        """Raises ConflictError while anything uses it."""
        record = self._find(ref)
        if record.name == DEFAULT_NETWORK:
            raise ConflictError("the default network can't be removed")
        if users := self._view(record).instances:
            raise ConflictError(f"network {record.name} is used by {', '.join(users)}", "remove these instances first")
        if served := self.reserved(record.id):
            raise ConflictError(f"network {record.name} is used by {len(served)} services of an application", "twinhull down")
        self.database.remove_network(record.id)
        self.records.pop(record.id)
        await self.host.destroy(record)
        self.events.emit("network", "destroy", record.id, record.name)

    async def prune(self) -> tuple[str, ...]:
        """Remove those that nothing uses; their names."""
        kept = {DEFAULT_NETWORK} | {record.name for record in self.records.values() if self.reserved(record.id)}
        unused = [view.name for view in self.views() if not view.instances and view.name not in kept]
        for name in unused:
            await self.remove(name)
        return tuple(unused)

    def _find(self, ref: str) -> NetworkRecord:
        for record in self.records.values():
            if ref == record.name or (len(ref) >= 4 and record.id.startswith(ref)):
                return record
        raise NotFoundError(f"no such network: {ref}", "twinhull network ls lists all")

    def _view(self, record: NetworkRecord) -> NetworkView:
        instances = {
            live.record.name: endpoint.address
            for live in self.lives.values()
            for endpoint in live.endpoints
            if endpoint.network_id == record.id
        }
        return NetworkView(
            name=record.name,
            id=record.id,
            created_at=record.created_at,
            subnet=record.subnet,
            gateway=record.gateway,
            bridge=self.host.bridge(record),
            internal=record.internal,
            subnet6=record.subnet6,
            labels=record.labels,
            instances=instances,
        )
