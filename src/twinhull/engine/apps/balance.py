"""What leads to the instances of a service: virtual addresses, names, published ports, and the gateway's routes.

Everything here is derived from the members that serve, so that it can be made again at any time; only the addresses and host ports chosen
are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from twinhull.activator.base import Activator, Sleeper
from twinhull.engine.apps.sleeping import may_sleep, sleeper
from twinhull.engine.apps.state import App
from twinhull.engine.live import Live
from twinhull.errors import ConflictError, TwinhullError
from twinhull.gateway import routes
from twinhull.gateway.base import Backend, BackendStats, Gateway, Server
from twinhull.network import addresses
from twinhull.network.host import NetworkHost
from twinhull.plan.actions import Drain, Serve
from twinhull.plan.lifecycle import State, is_up
from twinhull.spec.app import AppSpec, RouteSpec, ServiceSpec
from twinhull.spec.instance import PortMapping
from twinhull.spec.network import NetworkRecord
from twinhull.spec.service import ServiceRecord, ServiceSide
from twinhull.store.apps import AppTable, Member

_FAULT_LEAST, _ALL_LEAST = 10, 3
"""Errors that count as a fault, if they are at least half of all answers; requests, if all of them failed."""


@dataclass(eq=False)
class Balance:
    """All services of all apps of one engine."""

    table: AppTable
    network: NetworkHost
    gateway: Gateway
    networks: Mapping[str, NetworkRecord]
    lives: Mapping[str, Live]
    apps: Mapping[str, App]
    activator: Activator
    addresses: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """(app, service, network id) → virtual address."""
    ports: dict[tuple[str, str], tuple[PortMapping, ...]] = field(default_factory=dict)
    _set: dict[tuple[str, str], ServiceRecord] = field(default_factory=dict)
    _routed: tuple[Backend, ...] | None = None
    """None: not known, for a predecessor may have told of applications that are no more."""
    _asleep: tuple[Sleeper, ...] | None = None
    _leading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _routing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def load(self) -> None:
        """What the database has."""
        self.addresses = self.table.addresses()
        self.ports = self.table.ports()

    def reserved(self, network_id: str) -> set[str]:
        """Virtual addresses on a network: no instance may have them."""
        return {address for (_, _, network), address in self.addresses.items() if network == network_id}

    # change

    async def apply(self, app: App, actions: Iterable[Serve | Drain], now: float) -> None:
        """Let instances serve, or not any more, as one change."""
        for action in actions:
            state = app.members[action.id].state
            if isinstance(action, Serve):
                since = state.serving_since if state.serving else now
                app.mark(action.id, serving=True, weight=action.weight, serving_since=since, draining_since=0.0)
            else:
                app.mark(action.id, serving=False, weight=0, draining_since=now)
        await self.refresh(app)

    async def leave(self, app: App, instance_id: str) -> None:
        """For an instance that ends: out of everything, if it is still in."""
        member = app.members.get(instance_id)
        if member is not None and member.state.serving:
            app.mark(instance_id, serving=False, weight=0)
            await self.refresh(app)

    async def refresh(self, app: App) -> None:
        """Make the services of an app lead to the members that serve now. Raises ConflictError for a port or route that another has."""
        self.tell_activator(app)  # first: who waits goes to the instance itself
        async with self._leading:
            for name in self._names(app):
                await self._lead(app, name)
            for service in [service for held, service in self._set if held == app.name and service not in self._names(app)]:
                await self._remove(app.name, service)
            await self._stand_in()
        await self.route()

    async def begin(self) -> None:
        """After a start: the activator and the gateway learn what there is."""
        for app in self.apps.values():
            self.tell_activator(app)
        async with self._leading:
            await self._stand_in()
        await self.route()

    async def _stand_in(self) -> None:
        """Tell the activator for whom, if anything is new to it."""
        found = []
        for app in self.apps.values():
            for spec in app.spec.services.values() if app.revisions else ():
                record = self._set.get((app.name, spec.name))
                if record is not None and may_sleep(app, spec):
                    ports = self.ports.get((app.name, spec.name), record.ports)
                    found.append(sleeper(app, spec, replace(record, ports=ports), self.networks))
        if tuple(found) != self._asleep:
            await self.activator.apply(found)
            self._asleep = tuple(found)

    def tell_activator(self, app: App) -> None:
        """Who serves; while nobody does, who has just begun: the activator calls until somebody listens, as a probe would."""
        for spec in app.spec.services.values():
            if spec.scale is not None:
                serving = tuple(self._serving(app, spec.name)) or tuple(self._beginning(app, spec))
                self.activator.ready(f"{app.name}/{spec.name}", serving)

    def _beginning(self, app: App, spec: ServiceSpec) -> Iterator[str]:
        """Addresses of new instances of which nothing more is to be known than that they listen."""
        pin = app.revision.pins.get(spec.name)
        for member in app.members.values():
            live, state = self.lives.get(member.instance_id), member.state
            wanted = member.service == spec.name and pin is not None and member.fingerprint == pin.fingerprint
            if not wanted or live is None or live.record.state is not State.RUNNING or not live.endpoints:
                continue
            if live.health.status == "none" and not (spec.post_start or state.draining_since or state.stopped):
                yield live.endpoints[0].address

    def _serving(self, app: App, service: str) -> Iterator[str]:
        """Addresses of the instances that take new connections."""
        for member in sorted(app.members.values(), key=lambda member: member.slot):
            live = self.lives.get(member.instance_id)
            if member.service == service and member.state.serving and live is not None and live.endpoints:
                yield live.endpoints[0].address

    def reached_at(self, app: App, service: str) -> str:
        """Where this machine reaches a service of an application; "" where nobody serves."""
        return next(self._serving(app, service), "")

    async def _lead(self, app: App, name: str) -> None:
        record = self._record(app, name)
        if self._set.get((app.name, name)) == record:
            return
        chosen = await self.network.set_service(record)
        if chosen != self.ports.get((app.name, name), ()):
            self.ports[app.name, name] = chosen
            self.table.save_ports(app.name, name, chosen)
        self._set[app.name, name] = record

    def check(self, spec: AppSpec) -> None:
        """Raises ConflictError if an app of this description would claim a route that another has, or one twice."""
        others = [backend for app in self.apps.values() if app.name != spec.name for backend in self._backends(app)]
        own = [Backend(f"{spec.name}/{name}", service.routes) for name, service in spec.services.items() if service.routes]
        routes.build((*others, *own))

    async def route(self) -> None:
        """Tell the gateway, if anything is new to it."""
        async with self._routing:
            backends = tuple(backend for app in self.apps.values() for backend in self._backends(app))
            if backends != self._routed:
                await self.gateway.apply(backends)
                self._routed = backends

    async def remove(self, app: App) -> None:
        """Forget all services of an app that has gone."""
        for service in {service for held, service, _ in self.addresses if held == app.name} | self._names(app):
            await self._remove(app.name, service)
        await self.route()

    async def forget_network(self, app: App, network: str) -> None:
        """Give back the addresses on a network that is about to be removed."""
        ids = [record.id for record in self.networks.values() if record.name == network]
        for key in [key for key in self.addresses if key[0] == app.name and key[2] in ids]:
            await self.network.remove_service(f"{app.name}.{key[1]}")
            self._set.pop(key[:2], None)
            self.addresses.pop(key, None)  # networks are removed at the same time, and a service is on several
            self.table.remove_address(*key)

    async def _remove(self, app: str, service: str) -> None:
        await self.network.remove_service(f"{app}.{service}")
        self._set.pop((app, service), None)
        self.ports.pop((app, service), None)
        self.table.save_ports(app, service, ())
        for key in [key for key in self.addresses if key[:2] == (app, service)]:
            del self.addresses[key]
            self.table.remove_address(*key)

    # what it should be

    def records(self) -> tuple[ServiceRecord, ...]:
        """Of all services, for the network's `sync`."""
        found = {(app.name, name): self._record(app, name) for app in self.apps.values() for name in self._names(app)}
        self._set = dict(found)
        return tuple(found.values())

    def _names(self, app: App) -> set[str]:
        """Services with an instance, or that are wanted."""
        held = {member.service for member in app.members.values()}
        return held if app.wanted.removed else held | (set(app.wanted.active) & set(app.spec.services))

    def _record(self, app: App, service: str) -> ServiceRecord:
        spec = self._description(app, service)
        members = [member for member in app.members.values() if member.service == service and member.instance_id in self.lives]
        sides = []
        for attachment in spec.template.networks if spec else ():
            network = next((each for each in self.networks.values() if each.name == attachment.network), None)
            if network is None:
                continue
            names = tuple(dict.fromkeys((service, f"{service}.{app.name}.internal", *attachment.aliases)))
            address = self._virtual_address(app.name, service, network, attachment.address)
            endpoints = tuple(
                (where, max(1, member.state.weight))
                for member in members
                if member.state.serving and (where := self._address(member, network.id))
            )
            own = tuple(
                pair
                for member in members
                if (where := self._address(member, network.id)) and is_up(self.lives[member.instance_id].record.state)
                for pair in ((f"{member.slot}.{service}.{app.name}.internal", where), (f"tasks.{service}", where))
            )
            sides.append(ServiceSide(network.id, address, names, endpoints, own, dnsrr=bool(spec and spec.dnsrr)))
        sides.sort(key=lambda side: self.networks[side.network_id].internal)
        ports = self._ports(app.name, service, spec) if sides else ()
        return ServiceRecord(f"{app.name}.{service}", tuple(sides), ports, self.activator.port if spec and may_sleep(app, spec) else 0)

    def _ports(self, app: str, service: str, spec: ServiceSpec | None) -> tuple[PortMapping, ...]:
        """With host ports that were chosen before, as long as the rest is the same."""
        wanted = spec.ports if spec else ()
        kept = {replace(mapping, host_port=0): mapping for mapping in self.ports.get((app, service), ())}
        return tuple(mapping if mapping.host_port else kept.get(mapping, mapping) for mapping in wanted)

    def _virtual_address(self, app: str, service: str, network: NetworkRecord, wanted: str) -> str:
        key = (app, service, network.id)
        held = self.addresses.get(key, "")
        if held and (not wanted or held == wanted):
            return held
        if held:
            self.table.remove_address(*key)
            del self.addresses[key]
        used = self.reserved(network.id)
        used |= {endpoint.address for live in self.lives.values() for endpoint in live.endpoints if endpoint.network_id == network.id}
        if wanted:
            found = addresses.check_address(wanted, network.subnet, network.gateway, used)
        else:
            found = addresses.free_virtual_address(network, used)
        self.table.save_address(app, service, network.id, found)
        self.addresses[key] = found
        return found

    def _address(self, member: Member, network_id: str) -> str:
        live = self.lives[member.instance_id]
        return next((endpoint.address for endpoint in live.endpoints if endpoint.network_id == network_id), "")

    def _description(self, app: App, service: str) -> ServiceSpec | None:
        """As wanted; of an orphan, as its instances were made."""
        if service in app.spec.services:
            return app.spec.services[service]
        for member in tuple(app.members.values()):
            if member.service == service and (found := app.made_from(service, member.fingerprint)):
                return found[0]
        return None

    def _backends(self, app: App) -> list[Backend]:
        found: list[Backend] = []
        for name in sorted(self._names(app)):
            spec = app.spec.services.get(name)
            if spec is None or not spec.routes:
                continue
            members = sorted((m for m in app.members.values() if m.service == name and m.instance_id in self.lives), key=lambda m: m.slot)
            servers = tuple(
                Server(self.lives[member.instance_id].record.name, endpoints[0].address, min(256, member.state.weight))
                for member in members
                if (member.state.serving or member.state.draining_since)
                and (endpoints := self.lives[member.instance_id].endpoints)
                and is_up(self.lives[member.instance_id].record.state)
            )
            found += self._of_ports(app, spec, servers)
        return found

    def _of_ports(self, app: App, spec: ServiceSpec, servers: tuple[Server, ...]) -> Iterator[Backend]:
        """One for all routes, or where somebody stands in, one for each port: the activator tells by it what is meant."""
        service, routes = f"{app.name}/{spec.name}", _limited(spec)
        if not may_sleep(app, spec):
            yield Backend(service, routes, servers)
            return
        for port in dict.fromkeys(route.port for route in routes):
            own = tuple(route for route in routes if route.port == port)
            yield Backend(service, own, servers, self.activator.address(service, port))

    # what goes on

    async def sessions(self, app: App) -> dict[str, int]:
        """Open connections of the members that drain, by instance id."""
        found = {}
        for member in tuple(app.members.values()):
            live = self.lives.get(member.instance_id)
            if member.state.draining_since and live is not None and live.endpoints:
                through = await self.gateway.sessions(f"{app.name}/{member.service}", live.record.name)
                passed = bool(self.activator.open_connections(f"{app.name}/{member.service}"))
                direct = [await self.network.connections(endpoint.address, own=passed) for endpoint in live.endpoints]
                found[live.id] = through + sum(direct)
        return found

    async def faults(self, app: App) -> dict[str, str]:
        """What the gateway counts against members: by instance id, in words."""
        if not any(spec.routes for spec in app.spec.services.values()):
            return {}
        stats = {backend.name: backend for backend in await self._stats()}
        found = {}
        for member in tuple(app.members.values()):
            live = self.lives.get(member.instance_id)
            backend = stats.get(f"{app.name}/{member.service}")
            if live is None or backend is None:
                continue
            for server in backend.servers:
                if server.name == live.record.name and is_fault(server.errors, server.requests):
                    found[live.id] = f"{server.errors} of {server.requests} requests failed"
        return found

    async def _stats(self) -> tuple[BackendStats, ...]:
        try:
            return await self.gateway.stats()
        except TwinhullError:
            return ()


def is_fault(errors: int, requests: int) -> bool:
    """Whether what an instance answered is bad enough to count against it: half of many, or all of a few."""
    return (errors >= _FAULT_LEAST and errors * 2 >= requests) or errors >= requests >= _ALL_LEAST


def _limited(spec: ServiceSpec) -> tuple[RouteSpec, ...]:
    """The routes with the bound of a service that is scaled: more than that waits in the gateway."""
    most = spec.scale.max_concurrency if spec.scale is not None else 0
    return tuple(replace(route, max_concurrency=route.max_concurrency or most) for route in spec.routes)


def resolved(service: ServiceSpec, exposed: Iterable[int]) -> ServiceSpec:
    """With its exposed ports complete, and every route's port decided. Raises ConflictError where that isn't clear."""
    ports = tuple(dict.fromkeys((*service.expose, *exposed)))
    decided = []
    for route in service.routes:
        if not route.port and len(ports) != 1:
            which = f"it exposes {', '.join(map(str, ports))}" if ports else "it exposes none"
            raise ConflictError(f"service {service.name}: its route names no port, and {which}", "x-twinhull: {route: {port: …}}")
        decided.append(replace(route, port=route.port or ports[0]))
    return replace(service, expose=ports, routes=tuple(decided))
