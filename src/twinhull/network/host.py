"""The network of one daemon: networks, ports, names and published ports, in the network namespace that the daemon runs in.

Laws:
- `open`, then `sync` with all that should be, then anything else. What outlives the daemon (veths, taps, rules, dnsmasq)
  is not touched in between, so that traffic goes on.
- Every call is idempotent and may be repeated after a failure; `detach`, `unpublish`, `remove_names` and `destroy` never
  fail because something is gone already.
- A daemon that is killed leaves no namespace and no tap that nobody uses; its bridges, rules and names are put right by the next `sync`.

Threads: the event loop does no rtnetlink, no nftables and no ctnetlink; see workers.py and conntrack.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from twinhull.errors import ConflictError, PermanentError, UserError
from twinhull.home import Home
from twinhull.instance.base import Interface
from twinhull.network import addresses, dns, netns, rules, service
from twinhull.network.attachments import Attachments
from twinhull.network.conntrack import Flows, Stale
from twinhull.network.names import Entries, Owner, Place
from twinhull.network.ports import Port
from twinhull.network.publishing import Reservations
from twinhull.network.rules import Element, Part
from twinhull.network.workers import Workers
from twinhull.spec.instance import PortMapping
from twinhull.spec.network import NetworkRecord
from twinhull.spec.service import ServiceRecord

Name = tuple[str, str, str]
"""(network id, name, address)"""

_ID = re.compile(r"[a-z0-9]{1,64}")
_CHECK_EVERY = 5.0
"""Seconds between two looks whether somebody flushed the ruleset."""


@dataclass(frozen=True, slots=True)
class Attached:
    """All that the network holds for a running instance. `mappings` have their host ports chosen; `address` is what they lead to."""

    id: str
    name: str
    ports: tuple[Port, ...] = ()
    names: tuple[Name, ...] = ()
    address: str = ""
    mappings: tuple[PortMapping, ...] = ()
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What `sync` found."""

    removed: tuple[str, ...] = ()
    """Interfaces that nobody expected."""
    missing: tuple[str, ...] = ()
    """Instances with an interface that is gone: they can't be running, or must be attached again."""
    conflicts: tuple[tuple[str, str], ...] = ()
    """(instance, service or network id, why its ports or its bridge couldn't be had back)."""


def interface(record: NetworkRecord, address: str, *, ifname: str = "eth0", mac: str = "", default: bool = True, mtu: int = 0) -> Interface:
    """How a port on the network looks inside. Pure.

    The default route goes through the interface with `default`, unless its network is internal; the network's own subnet is
    reached through the gateway in any case.
    """
    way_out = default and not record.internal
    return Interface(
        ifname=ifname,
        mac=mac or addresses.mac_of(address),
        address=address,
        gateway=record.gateway,
        mtu=mtu or record.mtu,
        default=way_out,
        routes=() if way_out else (str(ipaddress.IPv4Network(record.subnet)),),
    )


class NetworkHost:
    """See the module's laws."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._workers = Workers(home)
        self._resolvers = dns.Resolvers(home)
        self._flows = Flows()
        self._attachments = Attachments(home, self._workers, self._resolvers, self._flows)
        self._reserved = Reservations()
        self._records: dict[str, NetworkRecord] = {}
        self._services: dict[str, ServiceRecord] = {}
        self._opened = False

    # the whole

    async def open(self) -> None:
        """Sysctls, the base table, folders. Nothing that a predecessor left is touched."""
        await self._workers.open()
        await self._flows.open()
        await self._resolvers.open()
        self._opened = True

    async def close(self, *, remove: bool = False) -> None:
        """Let go, also after a failed `open`. With `remove` everything of this home is removed: for when no workload is left."""
        if not self._opened:
            return
        self._opened = False
        if remove:
            await self._remove_leftovers((), ())
        await self._resolvers.close(remove=remove)
        self._reserved.close()
        await self._flows.close()
        await self._workers.close(remove=remove)

    async def supervise(self) -> None:
        """Restart resolvers that died and write the rules again if somebody flushed them; for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resolvers.supervise(), name="network-resolvers")
            group.create_task(self._watch_table(), name="network-rules")

    async def _watch_table(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_EVERY)
            with contextlib.suppress(PermanentError):  # tried again at the next look
                await self._workers.quick(self._workers.table.repair)

    async def foreign_policies(self) -> tuple[str, ...]:
        """Other nftables chains that drop forwarded or incoming traffic by default, for `doctor`."""
        return await self._workers.quick(self._workers.table.foreign_policies)

    async def sync(
        self, networks: Sequence[NetworkRecord], instances: Sequence[Attached], services: Sequence[ServiceRecord] = ()
    ) -> SyncReport:
        """Exactly these: removes every interface, rule, name and process of this home that isn't expected, restores what is missing."""
        ports = [port for attached in instances for port in attached.ports]
        removed = await self._remove_leftovers(networks, ports)
        refused = await self._restore_bridges(networks)
        usable = [record for record in networks if record.id not in refused]
        served = [found for record in services if (found := self._usable(record, refused))]
        missing = await self._workers.quick(self._restore_ports, usable, instances)
        self._restore_names(instances, served)
        refused |= await self._restore_rules(usable, [attached for attached in instances if attached.id not in missing], served)
        return SyncReport(tuple(removed), tuple(missing), tuple(refused.items()))

    async def _remove_leftovers(self, networks: Sequence[NetworkRecord], ports: Sequence[Port]) -> list[str]:
        leftovers = await self._workers.quick(self._workers.kernel.leftovers, networks, ports)
        for leftover in leftovers:
            await self._workers.slow(self._workers.slow_kernel.delete, leftover)
        return [leftover.name for leftover in leftovers]

    async def _restore_bridges(self, networks: Sequence[NetworkRecord]) -> dict[str, str]:
        refused = {}
        self._records = {}
        for record in networks:
            try:
                await self._workers.quick(self._workers.kernel.ensure_bridge, record)
            except ConflictError as error:
                refused[record.id] = error.message
                continue
            self._records[record.id] = record
            self._resolvers.names.add_network(record)
        return refused

    def _restore_ports(self, networks: Sequence[NetworkRecord], instances: Sequence[Attached]) -> list[str]:
        usable = {record.id for record in networks}
        missing = []
        for attached in instances:
            found = [port.record.id in usable and self._workers.kernel.restore(port) for port in attached.ports]
            if not all(found):
                missing.append(attached.id)
        return missing

    def _usable(self, record: ServiceRecord, refused: dict[str, str]) -> ServiceRecord | None:
        """Without the networks that couldn't be had back."""
        found = replace(record, sides=tuple(side for side in record.sides if side.network_id in self._records))
        try:
            service.check(found, self._records)
        except UserError as error:
            refused[record.id] = error.message
            return None
        return found

    def _restore_names(self, instances: Sequence[Attached], services: Sequence[ServiceRecord]) -> None:
        owned: dict[Owner, Entries] = {}
        for attached in instances:
            owned["instance", attached.id] = self._entries([name for name in attached.names if name[0] in self._records])
        for record in services:
            owned["service", record.id] = service.names(record, self._numbers())
        self._resolvers.names.reset(owned, self._numbers().values())

    async def _restore_rules(
        self, networks: Sequence[NetworkRecord], instances: Sequence[Attached], services: Sequence[ServiceRecord]
    ) -> dict[str, str]:
        views = [dns.View.of(attached.ports, attached.dns) for attached in instances]
        await self._resolvers.keep({view.name for view in (*map(_own_view, networks), *views) if view})
        owned: dict[str, frozenset[Part]] = {}
        refused = {}
        for record in networks:
            owned[f"network {record.id}"] = await self._network_elements(record)
        for attached in instances:
            owned |= await self._attachments.parts(attached.ports, attached.dns)
            try:
                chosen = self._reserved.reserve(attached.id, attached.name, attached.mappings)
                owned[f"published {attached.id}"] = _published(attached.address, chosen)
            except UserError as error:
                refused[attached.id] = error.message
        for served in services:
            ports: tuple[PortMapping, ...] = ()
            try:
                ports = self._reserved.reserve(served.id, served.id, served.ports)
            except UserError as error:
                refused[served.id] = error.message
            owned[f"service {served.id}"] = service.parts(served, ports)
        await self._workers.quick(self._workers.table.reset, owned)
        self._services = {served.id: served for served in services}
        for served in services:
            self._flows.forget_soon(served.id, service.stale(served, self._reserved.mappings(served.id)))
        return refused

    # networks

    async def free_subnet(self, taken: Iterable[str] = (), pools: Sequence[str] = ()) -> str:
        """A subnet that overlaps nothing in this network namespace, nor `taken` (subnets of networks without a bridge now)."""
        occupied = await self._workers.quick(self._workers.kernel.occupied)
        return addresses.choose_subnet([*occupied, *taken], pools or addresses.POOLS)

    async def check_subnet(self, subnet: str, taken: Mapping[str, str]) -> str:
        """A subnet that somebody asked for, in its usual form. `taken`: subnet → its network's name.

        Raises UserError or ConflictError.
        """
        text = str(addresses.parse_subnet(subnet))
        others = await self._workers.quick(self._workers.kernel.occupied) | {key: f"network {name}" for key, name in taken.items()}
        other = addresses.overlapping(text, others)
        if other:
            raise ConflictError(f"subnet {text} overlaps {other} of {others[other]}", "choose another one")
        return text

    async def ensure(self, record: NetworkRecord) -> None:
        """Make the network, or put it right. Raises ConflictError if its subnet is in use by others."""
        await self._workers.quick(self._workers.kernel.ensure_bridge, record)
        self._records[record.id] = record
        self._resolvers.names.add_network(record)
        elements = await self._network_elements(record)
        await self._workers.quick(self._workers.table.replace, {f"network {record.id}": elements})

    async def destroy(self, record: NetworkRecord) -> None:
        """Remove the network and all that hangs on it. Its instances are the caller's business."""
        self._records.pop(record.id, None)
        await self._workers.quick(self._workers.table.replace, {f"network {record.id}": ()})
        gone = set(self._resolvers.using(record))
        await self._resolvers.keep({_own_view(other).name for other in self._records.values()} | self._attachments.views - gone)
        self._resolvers.names.remove_network(record)
        await self._workers.slow(self._workers.slow_kernel.remove_named, self._workers.kernel.bridge_name(record))

    def bridge(self, record: NetworkRecord) -> str:
        """The name of the network's bridge."""
        return self._home.ifname("b", record.number)

    # ports

    async def attach_netns(
        self, ports: Sequence[Port], *, dns: Sequence[str] = (), sysctls: Mapping[str, str] | None = None, netns_fd: int | None = None
    ) -> netns.Netns:
        """A network namespace with these ports, ready to be joined by path until `close`. Without ports: loopback only.

        `dns`: servers to ask for other names instead of the host's. `sysctls`: further ones of the namespace ("net.…").
        `netns_fd`: an existing namespace to equip, for one that belongs to another user namespace.
        """
        settings = netns.INSTANCE_SYSCTLS | dict(sysctls or {})
        return await self._attachments.attach(ports, dns, _close_netns, self._workers.kernel.attach_netns, ports, settings, netns_fd)

    async def attach_taps(self, ports: Sequence[Port], *, dns: Sequence[str] = (), ready: Sequence[int] = ()) -> tuple[int, ...]:
        """One tap descriptor (vnet header, non-blocking, close-on-exec) per port; a tap lives as long as its descriptor.

        `ready`: descriptors of taps that are there already and are down, one per port; they get the ports' names. The caller keeps its own.
        """
        return await self._attachments.attach(ports, dns, _close_taps, self._workers.kernel.attach_taps, ports, ready)

    async def detach(self, ports: Sequence[Port]) -> None:
        """Remove these ports wherever they are, and end this machine's connections to them.

        Takes some 40 ms; a later `attach` of the same number waits for it.
        """
        await self._attachments.detach(ports)

    async def _network_elements(self, record: NetworkRecord) -> frozenset[Element]:
        port = await self._resolvers.ensure(_own_view(record))
        return rules.of_network(record, port)

    # names

    async def set_names(self, instance_id: str, entries: Sequence[Name]) -> None:
        """Exactly these names for the instance; of several names with one address, the first one is what a reverse lookup gives."""
        self._resolvers.names.replace(("instance", _checked_id(instance_id)), self._entries(entries))

    async def remove_names(self, instance_id: str) -> None:
        """Forget the instance's names on all networks."""
        self._resolvers.names.replace(("instance", _checked_id(instance_id)), {})

    def _entries(self, names: Sequence[Name]) -> dict[Place, list[str]]:
        found: dict[Place, list[str]] = {}
        for network_id, name, address in names:
            if network_id not in self._records:
                raise UserError(f"network {network_id} isn't there")
            found.setdefault((self._records[network_id].number, address), []).append(name)
        return found

    def _numbers(self) -> dict[str, int]:
        return {key: record.number for key, record in self._records.items()}

    # services

    async def set_service(self, record: ServiceRecord) -> tuple[PortMapping, ...]:
        """Exactly this service: new connections go to these endpoints by turns, existing ones stay where they are.

        One transaction, made anew at every change of endpoints. Host port 0 becomes a free one; returns the ports as chosen.
        UDP flows to endpoints that left are forgotten some milliseconds later. An endpoint that serves published ports must have its
        default route on the network of the first side. Raises ConflictError or UserError, and then all is as before.
        Cancelled, it goes on in the background.
        """
        return await asyncio.shield(asyncio.ensure_future(self._set_service(record)))

    async def _set_service(self, record: ServiceRecord) -> tuple[PortMapping, ...]:
        service.check(record, self._records)
        names = service.names(record, self._numbers())
        before = self._reserved.mappings(record.id)
        chosen = self._reserved.reserve(record.id, record.id, record.ports)
        try:
            await self._workers.quick(self._workers.table.replace, {f"service {record.id}": service.parts(record, chosen)})
        except BaseException:
            self._reserved.reserve(record.id, record.id, before)
            raise
        left = service.left(self._services.get(record.id), record)
        self._services[record.id] = record
        self._resolvers.names.replace(("service", record.id), names)
        opened = any(mapping.protocol == "udp" for mapping in {*chosen} - {*before})  # who asked before they were, met nobody
        if opened or self._flows.forgetting(record.id) or await self._reached("udp", left):
            self._flows.forget_soon(record.id, service.stale(record, {*before, *chosen}))
        return chosen

    async def _reached(self, protocol: str, addresses: Collection[str]) -> bool:
        """Whether there may be flows to one of them."""
        if not addresses:
            return False
        found = await self._workers.quick(self._workers.table.reached, protocol)
        return found is None or not found.isdisjoint(addresses)

    async def remove_service(self, service_id: str) -> None:
        """Forget the service: its names, addresses and ports. Nothing happens without it."""
        self._resolvers.names.replace(("service", service_id), {})
        await self._workers.quick(self._workers.table.replace, {f"service {service_id}": ()})
        if gone := self._services.pop(service_id, None):
            self._flows.forget_soon(service_id, service.stale(service.emptied(gone), self._reserved.mappings(service_id)))
        self._reserved.release(service_id)

    async def connections(self, address: str, *, own: bool = False) -> int:
        """TCP connections to this address that aren't over, for an endpoint that takes no new ones: 0 means drained.

        own: also if only programs of this machine came. Where somebody came it costs the machine some milliseconds: ask a few times a
        second, not more.
        """
        return await self._flows.connections(address) if own or await self._reached("tcp", (address,)) else 0

    async def led_to(self, address: str) -> tuple[int, float]:
        """(open TCP connections that virtual addresses and published ports lead to this one, seconds since the last that is over; inf)."""
        return await self._flows.led_to(address) if await self._reached("tcp", (address,)) else (0, math.inf)

    # published ports

    async def publish(self, instance_id: str, address: str, mappings: Sequence[PortMapping], *, name: str = "") -> tuple[PortMapping, ...]:
        """Exactly these ports of this machine lead to the instance; host port 0 becomes a free one. All or nothing.

        `address`: the instance's on the network with its default route. `name`: how conflicts call it. Raises ConflictError or UserError.
        """
        before = self._reserved.mappings(instance_id)
        chosen = self._reserved.reserve(instance_id, name or instance_id[:12], mappings)
        try:
            await self._publish(instance_id, _published(address, chosen), [*before, *chosen])
        except BaseException:
            self._reserved.release(instance_id)
            raise
        return chosen

    async def unpublish(self, instance_id: str) -> None:
        """Take all published ports of the instance back."""
        before = self._reserved.mappings(instance_id)
        await self._publish(instance_id, frozenset(), before)
        self._reserved.release(instance_id)

    async def _publish(self, instance_id: str, elements: frozenset[Part], mappings: Iterable[PortMapping]) -> None:
        await self._workers.quick(self._workers.table.replace, {f"published {instance_id}": elements})
        udp = frozenset(mapping.host_port for mapping in mappings if mapping.protocol == "udp")
        if udp:
            await self._flows.forget(Stale(ports=udp))


def _close_netns(held: netns.Netns) -> None:
    held.close()


def _close_taps(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _own_view(record: NetworkRecord) -> dns.View:
    return dns.View((record,))


def _published(address: str, mappings: Iterable[PortMapping]) -> frozenset[Part]:
    sets = (
        rules.of_publication(address, mapping.container_port, mapping.host_ip, mapping.host_port, mapping.protocol) for mapping in mappings
    )
    return frozenset[Part]().union(*sets)


def _checked_id(instance_id: str) -> str:
    if not _ID.fullmatch(instance_id):
        raise UserError(f"instance id {instance_id!r}: lower-case letters and digits only")
    return instance_id
