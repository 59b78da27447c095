"""A service of a compose file as what is measured: copies of it, in every hull alike, that touch nothing of the running one.

A copy has the service's image, command, environment, limits and files, new volumes, no published port and no name in DNS. It is in the
application's networks where they are there, so that it reaches what the service depends on. What can't be copied so is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twinhull import compose
from twinhull.client import Client
from twinhull.compare.workload import tcp_port
from twinhull.errors import ConflictError, NotFoundError, UserError
from twinhull.spec.app import AppSpec, ServiceSpec, fingerprint
from twinhull.spec.instance import FileSpec, HealthCheck, InstanceSpec, MountSpec, MountType, NetworkMode, RestartPolicy

_STORED = "secret:"
"""Begins the source of a secret that the file doesn't hold (AppSpec.secret_values)."""
_OVERRIDE = "say so in one file more: twinhull compare -f compose.yaml -f compare.yaml"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a service is described; in a journal, so that a run can go on. files: none means the running application `project`."""

    service: str
    project: str = ""
    files: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    folder: str = ""

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Source:
        """From a journal."""
        return cls(fields["service"], fields["project"], tuple(fields["files"]), tuple(fields["env_files"]), fields["folder"])


@dataclass(frozen=True, slots=True)
class Around:
    """What the daemon has beside it. `files`: those of the running service; `ready`: services with an instance that is ready; `port`: the
    lowest TCP port that the image exposes, or 0."""

    networks: frozenset[str] = frozenset()
    up: bool = False
    ready: frozenset[str] = frozenset()
    files: tuple[FileSpec, ...] = ()
    port: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """`template`: what copies are made from; `workload`: how they are loaded if nothing else is said; `remarks`: where they differ."""

    app: str
    service: str
    template: InstanceSpec
    workload: dict[str, Any]
    remarks: tuple[str, ...]

    @property
    def mark(self) -> str:
        """Changes with the copy. Values of the environment aren't in it: nothing in a journal shall help to guess one."""
        names = tuple(entry.partition("=")[0] for entry in self.template.env)
        files = tuple(replace(file, content="") for file in self.template.files)
        return fingerprint(ServiceSpec(self.service, replace(self.template, env=names, files=files)), "")


def read(source: Source, client: Client) -> AppSpec:
    """The application as its files say it, or as the daemon runs it. Raises UserError, also for what can't be honoured."""
    if not source.files and source.project:
        return client.app_spec(source.project)
    found = compose.load(
        [Path(name) for name in source.files],
        project=source.project,
        env_files=[Path(name) for name in source.env_files],
        environment=os.environ,
        folder=Path(source.folder) if source.folder else None,
        services=[source.service],
    )
    for note in found.notes:
        if note.fatal and (not note.key.startswith("services.") or note.key.startswith(f"services.{source.service}.")):
            raise UserError(f"{note.where}: {note.key}: {note.text}", "twinhull config --check lists all that can't be honoured")
    return found


def copy(client: Client, app: AppSpec, name: str) -> Copy:
    """Of a service, with what the daemon has beside it. Raises UserError for what can't be copied, NotFoundError without its image."""
    service = app.services[name]
    try:
        image = client.image(service.template.image)
    except NotFoundError as error:
        raise NotFoundError(f"service {name}: {error.message}", "make it here first: twinhull up --build, or twinhull pull") from error
    return made(app, service, _around(client, app.name, name, tcp_port(image.config)))


def again(client: Client, fields: Mapping[str, Any]) -> Copy:
    """That of a run which goes on. Raises ConflictError if it has changed meanwhile."""
    source = Source.parse(fields)
    app = read(source, client)
    found = copy(client, app, source.service) if source.service in app.services else None
    if found is None or found.mark != fields["mark"]:
        raise ConflictError(
            f"service {source.service}, or what is up of its application, has changed since the run began", "begin a new run"
        )
    return found


def _around(client: Client, app: str, name: str, port: int) -> Around:
    networks = frozenset(view.name for view in client.networks())
    try:
        view, spec = client.app(app), client.app_spec(app)
    except NotFoundError:
        return Around(networks, port=port)
    files = spec.services[name].template.files if name in spec.services else ()
    return Around(networks, True, frozenset(each.name for each in view.services if each.ready), files, port)


# pure


def made(app: AppSpec, service: ServiceSpec, around: Around) -> Copy:
    """Raises UserError for what can't be copied."""
    given = service.template
    if given.network_mode is NetworkMode.HOST:
        raise UserError(f"service {service.name} is in the host's network, where a copy would take its ports", _OVERRIDE)
    networks = tuple(replace(each, aliases=(), address="", mac="") for each in given.networks if each.network in around.networks)
    template = InstanceSpec(
        given.image,
        entrypoint=given.entrypoint,
        command=given.command,
        env=given.env,
        user=given.user,
        workdir=given.workdir,
        init=given.init,
        network_mode=given.network_mode,
        networks=networks,
        mounts=tuple(_mount(service, mount) for mount in given.mounts),
        files=tuple(_file(service, file, around) for file in given.files),
        resources=given.resources,
        security=given.security,
        ulimits=given.ulimits,
        sysctls=given.sysctls,
        dns=given.dns,
        dns_search=given.dns_search,
        extra_hosts=given.extra_hosts,
        shm_size=given.shm_size,
        stop_signal=given.stop_signal,
        stop_timeout=given.stop_timeout,
        restart=RestartPolicy(),
        health=HealthCheck(("NONE",)),
    )
    return Copy(app.name, service.name, template, _workload(service, around), _remarks(app, service, around))


def _mount(service: ServiceSpec, mount: MountSpec) -> MountSpec:
    if mount.type is MountType.VOLUME:
        return replace(mount, source="", subpath="")
    if mount.type is MountType.BIND and not mount.read_only:
        raise UserError(
            f"service {service.name} writes to {mount.source}: a copy of it would write there too",
            f"mount it read_only, or a volume in its place; {_OVERRIDE}",
        )
    return mount


def _file(service: ServiceSpec, file: FileSpec, around: Around) -> FileSpec:
    if not file.source.startswith(_STORED):
        return file
    for known in around.files:
        if known.target == file.target and known.secret:
            return replace(file, source=known.source)
    why = f"service {service.name} needs the secret {file.target}, whose content only an application that is up has"
    raise UserError(why, f"twinhull up {service.name}")


def _remarks(app: AppSpec, service: ServiceSpec, around: Around) -> tuple[str, ...]:
    told = []
    volumes = [mount.target for mount in service.template.mounts if mount.type is MountType.VOLUME]
    if volumes:
        told.append(f"{', '.join(volumes)}: every copy has a new volume there, without the running service's data.")
    needs = [each.service for each in service.depends_on]
    lacking = [name for name in needs if name not in around.ready]
    if not around.up:
        which = f": the copies can't reach {', '.join(needs)}" if needs else ""
        told.append(f"Application {app.name} isn't up{which}.")
    elif lacking:
        told.append(f"What the service depends on wasn't ready: {', '.join(lacking)}.")
    if around.up and set(needs) - set(lacking):
        reached = ", ".join(name for name in needs if name not in lacking)
        told.append(f"The copies use the running {reached}: what the load makes them write there stays.")
    missing = [each.network for each in service.template.networks if each.network not in around.networks]
    if missing and around.up:
        told.append(f"Networks that aren't there: {', '.join(missing)}.")
    return tuple(told)


def _workload(service: ServiceSpec, around: Around) -> dict[str, Any]:
    """A workload file's object: ready when its health check passes or its page comes; loaded by requests for that page."""
    route = next((route for route in service.routes if route.protocol == "http"), None)
    published = next((mapping.container_port for mapping in service.ports if mapping.protocol == "tcp"), 0)
    port = (route.port if route else 0) or published or next(iter(service.expose), 0) or around.port
    found: dict[str, Any] = {}
    if port:
        path = route.path if route and not route.strip else "/"
        found["load"] = {"http": f":{port}{path}", **({"host": route.host.replace("*", "www")} if route and route.host else {})}
    test = service.template.health.test if service.template.health else ()
    if test[:1] == ("CMD",):
        found["ready"] = {"command": list(test[1:])}
    elif test[:1] == ("CMD-SHELL",):
        found["ready"] = {"command": ["/bin/sh", "-c", *test[1:]]}
    elif route and port:
        found["ready"] = found["load"]
    return found
