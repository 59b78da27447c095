"""A resolved tree as an AppSpec: names of the engine, order of services, and the notes. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from twinhull.compose import fields, lowermounts, lowernetwork, lowerservice, support
from twinhull.compose.schema import EXTENSION
from twinhull.compose.tree import ComposeError, Map, Mark, did_you_mean
from twinhull.spec.app import AppNetwork, AppSpec, AppVolume, Condition, Note, ServiceSpec
from twinhull.spec.instance import Runtime


def lower(model: Map, name: str, folder: str, variables: Mapping[str, str], notes: Iterable[Note] = ()) -> AppSpec:
    """Raises ComposeError. The model's services are those in force (profiles.py)."""
    services = model.sub("services")
    order = sorted_services(services)
    networks = model.sub("networks")
    network_names = {key: _engine_name(name, key, config) for key, config in networks.items()}
    volumes = model.sub("volumes")
    volume_names = {key: _engine_name(name, key, config) for key, config in volumes.items()}
    sources = lowermounts.Sources(volumes, volume_names, model.sub("configs"), model.sub("secrets"), dict(variables), [])
    secret_values: dict[str, str] = {}
    around = lowerservice.Around(name, services, network_names, sources, _link_aliases(services), _awaited(services), secret_values)
    for key in order:
        fields.name(key, "service", services.at(key))
    lowered = {key: lowerservice.lower(key, services[key], around) for key in order}
    _ports_once(services, lowered)
    return AppSpec(
        name,
        services=lowered,
        networks=_used_networks(lowered, networks, network_names),
        volumes=_used_volumes(lowered, volumes, volume_names),
        folder=folder,
        notes=(*notes, *sources.notes, *support.notes(model), *_two_writers(services, lowered), *_scaled_in_vain(services, lowered)),
        secret_values=secret_values,
        host_paths=_host_paths(services),
    )


def _engine_name(app: str, key: str, config: Map) -> str:
    own = fields.text(config, "name")
    name = own or (key if fields.flag(config, "external") else f"{app}_{key}")
    return fields.name(name, "name", config.at("name"))


def sorted_services(services: Map) -> list[str]:
    """Each after those it depends on, otherwise in the file's order. Raises ComposeError for a cycle or an unknown name."""
    order: list[str] = []
    done: set[str] = set()
    for start in services:
        stack: list[tuple[str, list[str]]] = [(start, _needs(start, services))] if start not in done else []
        inside = {start: None}
        while stack:
            name, needs = stack[-1]
            if not needs:
                stack.pop()
                del inside[name]
                if name not in done:
                    done.add(name)
                    order.append(name)
                continue
            need = needs.pop(0)
            if need in inside:
                way = list(inside)
                circle = [*way[way.index(need) :], need]
                raise ComposeError(services[name].at("depends_on"), f"dependencies go round in a circle: {' → '.join(circle)}")
            if need not in done:
                inside[need] = None
                stack.append((need, _needs(need, services)))
    return order


def _needs(name: str, services: Map) -> list[str]:
    service: Map = services[name]
    found = []
    for dependency in lowerservice.dependencies(service):
        if dependency.service in services:
            found.append(dependency.service)
        else:
            named = service.sub("depends_on")
            source = next((key for key in ("links", "volumes_from") if key in service), "depends_on")
            mark = named.at(dependency.service) if dependency.service in named else service.at(source)
            hint = did_you_mean(dependency.service, services)
            raise ComposeError(mark, f"service {name!r} depends on {dependency.service!r}, which isn't there{hint}")
    return found


def _used_networks(lowered: Mapping[str, ServiceSpec], networks: Map, names: Mapping[str, str]) -> dict[str, AppNetwork]:
    used = {attachment.network for service in lowered.values() for attachment in service.template.networks}
    found = {names[key]: lowernetwork.network(names[key], config) for key, config in networks.items()}
    found.setdefault(lowernetwork.DEFAULT, AppNetwork(lowernetwork.DEFAULT, external=True))  # what `network_mode: bridge` means
    return {name: network for name, network in found.items() if name in used}


def _used_volumes(lowered: Mapping[str, ServiceSpec], volumes: Map, names: Mapping[str, str]) -> dict[str, AppVolume]:
    used = {mount.source for service in lowered.values() for mount in service.template.mounts if mount.type == "volume"}
    return {names[key]: _volume(names[key], config) for key, config in volumes.items() if names[key] in used}


def _volume(name: str, config: Map) -> AppVolume:
    if fields.flag(config, "external"):
        return AppVolume(name, external=True)
    options = fields.given(config, "driver_opts")
    temporary = fields.text(config, "driver") == "tmpfs" or options.get("type") == "tmpfs"
    return AppVolume(name, driver="tmpfs" if temporary else "local", options=options, labels=fields.given(config, "labels"))


def _link_aliases(services: Map) -> dict[str, dict[str, list[str]]]:
    """`links: [db:database]`: db is called database too, on the networks that the two share."""
    found: dict[str, dict[str, list[str]]] = {}
    for service in services.values():
        for text in service.seq("links"):
            name, _, alias = str(text).partition(":")
            if not alias or alias == name or name not in services:
                continue
            for key in set(lowernetwork.joined(service)) & set(lowernetwork.joined(services[name])):
                found.setdefault(name, {}).setdefault(key, []).append(alias)
    return found


def _awaited(services: Map) -> frozenset[str]:
    dependencies = [each for service in services.values() for each in lowerservice.dependencies(service)]
    return frozenset(each.service for each in dependencies if each.condition is Condition.COMPLETED)


def _ports_once(services: Map, lowered: Mapping[str, ServiceSpec]) -> None:
    """No port of this machine is promised to two services."""
    seen: dict[tuple[int, str], list[tuple[str, str]]] = {}
    for name, service in lowered.items():
        for port in service.ports:
            if not port.host_port:
                continue
            others = seen.setdefault((port.host_port, port.protocol), [])
            for other, address in others:
                if other != name and (address == port.host_ip or {"", "0.0.0.0"} & {address, port.host_ip}):
                    mark: Mark = services[name].at("ports")
                    raise ComposeError(mark, f"port {port.host_port}/{port.protocol} is published by {other!r} and by {name!r}")
            others.append((name, port.host_ip))


def _two_writers(services: Map, lowered: Mapping[str, ServiceSpec]) -> list[Note]:
    """`order: start-first` that isn't followed, because two instances would write to one volume."""
    found = []
    for name, service in lowered.items():
        config = services[name].sub("deploy").sub("update_config")
        if fields.text(config, "order") == "start-first" and service.update.order == "stop-first":
            text = "replaced in place: two instances would write to one volume"
            found.append(Note(str(config.at("order")), f"services.{name}.deploy.update_config.order", text))
    return found


def _scaled_in_vain(services: Map, lowered: Mapping[str, ServiceSpec]) -> Iterator[Note]:
    """What `scale` can't do: park what isn't a VM, and wake by a datagram, which nobody can hold."""
    for name, service in lowered.items():
        if service.scale is None:
            continue
        if service.scale.keep_warm and service.template.runtime is not Runtime.VM:
            scaling = services[name].sub(EXTENSION).sub("scale")
            text = f"has no effect for runtime: {service.template.runtime}: only VMs wait parked"
            text += ", and a container is started as fast" * (service.template.runtime is Runtime.CONTAINER)
            yield Note(str(scaling.at("keep_warm")), f"services.{name}.{EXTENSION}.scale.keep_warm", text)
        if not service.scale.min:
            for index, (port, mark) in enumerate(services[name].seq("ports").items()):
                if port["protocol"] == "udp":
                    text = f"UDP doesn't wake {name}, which sleeps by `scale: {{min: 0}}`: say `min: 1`, or wake it by TCP"
                    yield Note(str(mark), f"services.{name}.ports[{index}]", text)


def _host_paths(services: Map) -> tuple[str, ...]:
    """Folders that bind mounts want made where they are missing."""
    found: dict[str, None] = {}
    for service in services.values():
        for entry in service.seq("volumes"):
            if entry["type"] == "bind" and fields.flag(entry.sub("bind"), "create_host_path", default=True):
                found[os.path.normpath(entry["source"])] = None
    return tuple(found)
