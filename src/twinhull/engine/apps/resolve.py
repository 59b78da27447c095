"""What a file comes to on this machine: images by their ids, ports and routes decided, secrets as files, anonymous volumes by their names.

Everything that can be wrong with it is said here, before anything is changed. Only the copies of secrets are made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from twinhull.engine.apps import anonymous
from twinhull.engine.apps.balance import Balance, resolved
from twinhull.engine.apps.base import UpOptions
from twinhull.engine.apps.state import App, salted, service_of
from twinhull.engine.instances import Instances
from twinhull.engine.secrets import SecretStore
from twinhull.errors import NotFoundError
from twinhull.image.base import ImageView
from twinhull.spec.app import AppSpec, ServiceSpec
from twinhull.spec.instance import FileSpec, InstanceSpec
from twinhull.spec.process import ImageConfig
from twinhull.spec.selection import meant, merge, used
from twinhull.store.apps import Pin, Revision

_SECRET = "secret:"


@dataclass(frozen=True)
class Resolver:
    """networks: names of all that there are."""

    instances: Instances
    balance: Balance
    networks: Callable[[], Collection[str]]
    secrets: SecretStore

    async def revision(self, app: App | None, file: AppSpec, options: UpOptions, *, store: bool) -> Revision:
        """What is wanted once `up` was asked for: the file's, or the present one with the services that are meant. Not written yet.

        store: also make the copies of secrets. Raises NotFoundError, ConflictError, UserError.
        """
        before = app.revision if app is not None and app.revisions else None
        names = asked(file, options)
        spec = file
        if options.services:
            spec = merge(before.spec if before else AppSpec(file.name), file, names, prune=options.remove_orphans)
        self._check_external(spec, names)
        number = max((each.number for each in app.revisions), default=0) + 1 if app else 1
        services, pins, marks = {}, {}, salts(app, options)
        for name, service in spec.services.items():
            if name in names:
                renewed = number if options.renew_volumes and before else 0
                services[name], pins[name] = await self.service(before, spec, service, marks.get(name, ""), renewed=renewed, store=store)
            elif before is not None:
                services[name], pins[name] = service, before.pins[name]
        complete = replace(spec, services=services, secret_values={}, notes=())
        self.balance.check(complete)
        return Revision(spec.name, number, time.time(), options.cause, complete, pins)

    async def service(
        self, before: Revision | None, spec: AppSpec, service: ServiceSpec, salt: str = "", *, renewed: int = 0, store: bool = True
    ) -> tuple[ServiceSpec, Pin]:
        """One service, complete. renewed: the number of the revision that begins anew with its anonymous volumes if it is changed."""
        self.instances.launcher.refuse_unsupported(service.template)
        image = await self._image(service)
        found = resolved(service, _tcp_ports(image.config))
        found = replace(found, template=self._placed(spec, found.template, store=store), generation=_generation(before, service.name))
        complete = _pinned(spec.name, found, image, salt)
        if renewed and before is not None and complete[1] != before.pins.get(service.name):
            return _pinned(spec.name, replace(found, generation=renewed), image, salt)
        return complete

    async def _image(self, service: ServiceSpec) -> ImageView:
        try:
            return await self.instances.launcher.images.resolve(service.template.image)
        except NotFoundError as error:
            how = "twinhull up --build" if service.build else f"twinhull pull {service.template.image}"
            raise NotFoundError(f"service {service.name}: {error.message}", how) from None

    def _check_external(self, spec: AppSpec, names: Collection[str]) -> None:
        """That there is what these services use of others."""
        networks, sources = used(spec.services[name] for name in names)
        for name, network in spec.networks.items():
            if name in networks and network.external and name not in self.networks():
                raise NotFoundError(f"external network {name} doesn't exist", f"twinhull network create {name}")
        for name, volume in spec.volumes.items():
            if name in sources and volume.external and not self.instances.launcher.volumes.exists(name):
                raise NotFoundError(f"external volume {name} doesn't exist", f"twinhull volume create {name}")

    def _placed(self, spec: AppSpec, template: InstanceSpec, *, store: bool) -> InstanceSpec:
        """Secrets given by value, and external ones as they are now, become files that only the daemon can read."""
        return replace(template, files=tuple(self._secret(spec, file, store=store) for file in template.files))

    def _secret(self, spec: AppSpec, file: FileSpec, *, store: bool) -> FileSpec:
        if not file.source.startswith(_SECRET):
            return file
        name = file.source.removeprefix(_SECRET)
        path = self.secrets.place(spec.name, name, spec.secret_values.get(name), store=store)
        return replace(file, source=str(path), secret=True)


def asked(file: AppSpec, options: UpOptions) -> frozenset[str]:
    """The services that are to run, as the file has them; for one-offs of a service that is what it depends on. Raises NotFoundError."""
    for name in options.services:
        service_of(file, name)
    names = meant(file, options.services, alone=options.no_deps)
    return names - frozenset(options.services) if options.one_off else names


def salts(app: App | None, options: UpOptions) -> dict[str, str]:
    """What goes into the fingerprints of services that were replaced though nothing changed."""
    return (dict(app.wanted.salts) if app else {}) | dict.fromkeys(options.recreate, options.salt)


def _tcp_ports(config: Mapping[str, object]) -> tuple[int, ...]:
    """From the image's EXPOSE."""
    exposed = config.get("ExposedPorts")
    words = [str(word).partition("/") for word in exposed] if isinstance(exposed, Mapping) else []
    return tuple(int(port) for port, _, protocol in words if port.isdigit() and protocol in ("", "tcp"))


def _generation(before: Revision | None, service: str) -> int:
    """Of the anonymous volumes that a service has now."""
    present = before.spec.services.get(service) if before is not None else None
    return present.generation if present is not None else 0


def _pinned(app: str, service: ServiceSpec, image: ImageView, salt: str) -> tuple[ServiceSpec, Pin]:
    """Complete with its volumes, the image's among them."""
    complete = replace(service, template=anonymous.named(app, service, ImageConfig.parse(image.config).volumes))
    return complete, Pin(image.id, salted(complete, image.id, salt))
