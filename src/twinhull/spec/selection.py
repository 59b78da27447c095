"""`up SERVICE…`: which services of a file are meant, and what an application is once only those were taken from it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from graphlib import TopologicalSorter

from twinhull.spec.app import AppSpec, ServiceSpec


def meant(app: AppSpec, names: Collection[str], *, alone: bool = False) -> frozenset[str]:
    """The services of these names (none: all), with all that they depend on unless `alone`."""
    if not names:
        return frozenset(app.services)
    return frozenset(names) if alone else with_dependencies(app, names)


def with_dependencies(app: AppSpec, names: Iterable[str]) -> frozenset[str]:
    """These services and all that they depend on, as far as the application has them."""
    found: set[str] = set()
    rest = list(names)
    while rest:
        name = rest.pop()
        if name in app.services and name not in found:
            found.add(name)
            rest += [need.service for need in app.services[name].depends_on]
    return frozenset(found)


def used(services: Iterable[ServiceSpec]) -> tuple[frozenset[str], frozenset[str]]:
    """What they use: the names of networks; and the sources of mounts, which are names of volumes and folders of the host."""
    templates = [service.template for service in services]
    networks = frozenset(each.network for template in templates for each in template.networks)
    return networks, frozenset(mount.source for template in templates for mount in template.mounts)


def merge(present: AppSpec, file: AppSpec, names: Collection[str], *, prune: bool = False) -> AppSpec:
    """The present application with these services, and the networks and volumes that they use, as the file has them.

    All others stay as they are, also those that the file doesn't have any more; with `prune` only those of them that another one which
    stays depends on. A service that is taken waits for nobody who isn't.
    """
    stay = frozenset(present.services) - frozenset(names)
    if prune:
        stay = with_dependencies(present, stay & frozenset(file.services)) - frozenset(names)
    taken = {name: _apart(service, names) for name, service in file.services.items() if name in names}
    kept = {name: service for name, service in present.services.items() if name in stay}
    networks, sources = used(taken.values())
    return replace(
        file,
        services=_ordered(taken | kept),
        networks=present.networks | {name: network for name, network in file.networks.items() if name in networks},
        volumes=present.volumes | {name: volume for name, volume in file.volumes.items() if name in sources},
        host_paths=tuple(dict.fromkeys((*present.host_paths, *(path for path in file.host_paths if path in sources)))),
    )


def _apart(service: ServiceSpec, names: Collection[str]) -> ServiceSpec:
    return replace(service, depends_on=tuple(need for need in service.depends_on if need.service in names))


def _ordered(services: dict[str, ServiceSpec]) -> dict[str, ServiceSpec]:
    """Each after those that it depends on. There is no circle: who is taken depends on nobody who stays."""
    needs = {name: [need.service for need in service.depends_on if need.service in services] for name, service in services.items()}
    return {name: services[name] for name in TopologicalSorter(needs).static_order()}
