"""Applications without instances: what is wanted is kept, and counts as done at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from twinhull.engine.apps.base import AppEngine, AppView, BoundView, RevisionView, ScaleView, ServiceView, Step, TargetView, UpOptions
from twinhull.engine.apps.resolve import asked
from twinhull.errors import ConflictError, NotFoundError, UserError
from twinhull.spec.app import AppSpec
from twinhull.spec.instance import InstanceSpec, Runtime
from twinhull.spec.selection import merge


class FakeApps(AppEngine):
    """See `AppEngine`."""

    def __init__(self) -> None:
        self.revisions: dict[str, list[tuple[str, AppSpec]]] = {}
        self.changed = asyncio.Event()

    async def up(self, spec: AppSpec, options: UpOptions) -> AppView:
        if not spec.name:
            raise UserError("an application needs a name")
        names = asked(spec, options)
        if options.services:
            present = self.revisions[spec.name][-1][1] if spec.name in self.revisions else AppSpec(spec.name)
            spec = merge(present, spec, names, prune=options.remove_orphans)
        self.revisions.setdefault(spec.name, []).append((options.cause, replace(spec, secret_values={})))
        return self._view(spec.name)

    async def dry_run(self, spec: AppSpec, options: UpOptions) -> tuple[Step, ...]:
        return tuple(Step("Create", f"{name}/1", "fake") for name in spec.services)

    async def down(self, name: str, *, volumes: bool = False, timeout: float | None = None) -> tuple[str, ...]:
        self._find(name)
        del self.revisions[name]
        return ()

    async def list(self) -> tuple[AppView, ...]:
        return tuple(map(self._view, self.revisions))

    async def view(self, name: str) -> AppView:
        return self._view(name)

    async def spec(self, name: str) -> AppSpec:
        return self._find(name)

    async def watch(self, name: str) -> AsyncIterator[AppView]:
        yield self._view(name)

    async def scale(self, name: str, counts: dict[str, int]) -> AppView:
        for service, count in counts.items():
            self._service(self._find(name), service)
            if count < 0:
                raise UserError("negative")
        return self._view(name)

    async def scale_explain(self, name: str, service: str) -> ScaleView:
        self._service(self._find(name), service)
        spec = self._find(name).services[service].scale
        if spec is None:
            raise ConflictError("not scaled")
        wish = TargetView("rps", 50.0, 120.0, 130.0, 140.0, 0.5, 3, "120 in all, target 50 each")
        bound = BoundView("target rps", 1, 3, "120 in all, target 50 each")
        return ScaleView(name, service, 1, 3, 1, spec.min, spec.max, bound.name, bound.reason, (wish,), (bound,))

    async def stop(self, name: str, services: tuple[str, ...] = (), timeout: float | None = None) -> AppView:
        return self._turned(name, services)

    async def start(self, name: str, services: tuple[str, ...] = ()) -> AppView:
        return self._turned(name, services)

    async def restart(self, name: str, services: tuple[str, ...] = (), timeout: float | None = None) -> AppView:
        return self._turned(name, services)

    async def history(self, name: str) -> tuple[RevisionView, ...]:
        self._find(name)
        kept = self.revisions[name]
        return tuple(RevisionView(n, 0.0, cause, n == len(kept)) for n, (cause, _) in enumerate(kept, 1))

    async def rollback(self, name: str, revision: int = 0) -> AppView:
        self._find(name)
        kept = self.revisions[name]
        number = revision or len(kept) - 1
        if not 1 <= number <= len(kept):
            raise NotFoundError(f"application {name} has no revision {number}") if revision else ConflictError("no earlier revision")
        kept.append((f"rollback to {number}", kept[number - 1][1]))
        return self._view(name)

    async def rollout(self, name: str, verb: str, services: tuple[str, ...] = ()) -> AppView:
        return self._turned(name, services)

    async def isolate(self, name: str, service: str, runtime: str) -> AppView:
        spec = self._find(name)
        self._service(spec, service)
        try:
            Runtime.parse(runtime)
        except ValueError as error:
            raise UserError(str(error)) from None
        return self._view(name)

    async def one_off(self, spec: AppSpec, service: str) -> InstanceSpec:
        self._find(spec.name)
        self._service(spec, service)
        return spec.services[service].template

    def _turned(self, name: str, services: tuple[str, ...]) -> AppView:
        spec = self._find(name)
        for service in services:
            self._service(spec, service)
        return self._view(name)

    def _find(self, name: str) -> AppSpec:
        if name not in self.revisions:
            raise NotFoundError(f"no such application: {name}")
        return self.revisions[name][-1][1]

    def _service(self, spec: AppSpec, service: str) -> None:
        if service not in spec.services:
            raise NotFoundError(f"no such service: {service}")

    def _view(self, name: str) -> AppView:
        spec = self._find(name)
        services = tuple(
            ServiceView(each.name, "up", str(each.template.runtime), each.template.image, "0" * 64, "0" * 12, each.replicas, each.replicas)
            for each in spec.services.values()
        )
        return AppView(name, "up", len(self.revisions[name]), time.time(), time.time(), spec.folder, True, True, services)
