"""Applications on this machine: writes down what is wanted, and keeps one loop an app."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field, replace

from twinhull.engine.apps import views
from twinhull.engine.apps.balance import Balance
from twinhull.engine.apps.base import AppEngine, AppView, RevisionView, ScaleView, Step, UpOptions
from twinhull.engine.apps.hands import Hands, instance_spec
from twinhull.engine.apps.loop import Loop
from twinhull.engine.apps.observe import observe
from twinhull.engine.apps.resolve import Resolver, asked, salts
from twinhull.engine.apps.scaling import Scaler
from twinhull.engine.apps.state import App, awake, bounded, desired, salted, service_of
from twinhull.engine.base import Event
from twinhull.engine.instances import Instances
from twinhull.engine.names import check as check_name
from twinhull.errors import ConflictError, NotFoundError, UserError
from twinhull.plan import memory as memories
from twinhull.plan import rollout, scale
from twinhull.plan.actions import Phase, Standing
from twinhull.plan.preview import preview
from twinhull.spec.app import (
    APP_LABEL,
    FINGERPRINT_LABEL,
    ONE_OFF_LABEL,
    SERVICE_LABEL,
    SLOT_LABEL,
    AppSpec,
)
from twinhull.spec.instance import InstanceSpec, RestartPolicy, Runtime
from twinhull.store.apps import AppRow, AppTable, Member, Pin, Revision, Wanted


@dataclass(eq=False)
class LocalApps(AppEngine):
    """See `AppEngine`."""

    table: AppTable
    instances: Instances
    balance: Balance
    hands: Hands
    resolver: Resolver
    apps: dict[str, App]
    scaler: Scaler
    gateway_port: str = ""
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.loop = Loop(self.hands, self.balance, self.instances.tasks, self.parts, self.ended)

    # the daemon's life

    def load(self) -> None:
        """From the database. Instances whose membership wasn't written down any more are found by their labels."""
        members = {member.instance_id: member for member in self.table.members()}
        self.balance.load()
        for row in self.table.apps():
            app = App(self.table, row, self.table.revisions(row.name))
            app.memory = memories.load(row.memory)
            app.scaling = scale.restore(row.scaling)
            app.members = {key: member for key, member in members.items() if member.app == row.name}
            self.apps[row.name] = app
        for live in self.instances.lives.values():
            if live.id not in members and (found := _by_labels(live.id, live.record.spec.labels)) and found.app in self.apps:
                self.table.save_member(found)
                self.apps[found.app].members[live.id] = found

    def start_all(self) -> None:
        """Begin to look after every app; instances and network are there."""
        self.instances.events.called += [self._happened, self.scaler.sizing.happened]
        self.instances.tasks.spawn("lead to applications", self.balance.begin())
        for app in self.apps.values():
            self.loop.start(app)
        self.instances.tasks.spawn("autoscaler", self.scaler.run())

    def pause_all(self) -> None:
        """Before every workload is ended with the daemon: no loop heals them meanwhile, and the next daemon starts them again."""
        for app in self.apps.values():
            if app.task is not None:
                app.task.cancel()
            for instance_id, member in app.members.items():
                live = self.instances.lives.get(instance_id)
                if live is not None and live.up:
                    app.mark(instance_id, stopped=True, serving=False, weight=member.state.weight)

    def _happened(self, event: Event) -> None:
        """An instance's event wakes its app."""
        if event.kind != "instance":
            return
        for app in self.apps.values():
            if event.id in app.members:
                app.wake()

    def users_of(self, image_id: str) -> list[str]:
        """The services whose wanted revision is of this image."""
        return [f"{app.name}/{name}" for app in self.apps.values() for name, pin in app.revision.pins.items() if pin.image_id == image_id]

    def used_images(self) -> set[str]:
        """Ids of images that a wanted or rememberable revision needs."""
        return {pin.image_id for app in self.apps.values() for revision in app.revisions[-5:] for pin in revision.pins.values()}

    async def ended(self, app: App) -> None:
        """Everything of a removed app has gone: forget it."""
        await self.balance.remove(app)
        self.table.remove(app.name)
        self.apps.pop(app.name, None)
        await asyncio.to_thread(self.resolver.secrets.forget, app.name)
        self.instances.events.emit("app", "remove", "", app.name)
        app.gone.set()
        app.announce()

    # what is wanted

    async def up(self, spec: AppSpec, options: UpOptions) -> AppView:
        check_name(spec.name)
        active = asked(spec, options)
        async with self._changing:
            app = self.apps.get(spec.name)
            if app is not None and app.wanted.removed:
                raise ConflictError(f"application {spec.name} is being removed", "try again in a moment")
            revision = await self.resolver.revision(app, spec, options, store=True)
            app = self._write(app, revision, options, active)
        return self._view(app)

    def _write(self, app: App | None, revision: Revision, options: UpOptions, active: Collection[str]) -> App:
        wanted = _wanted(app, revision, options, active)
        if app is None:
            app = App(self.table, AppRow(revision.app, revision.at, revision.number, Wanted()), [])
            self.apps[app.name] = app
        app.failed.clear()
        app.hurry(active, None)
        app.save(wanted=wanted, revision=_news(app, revision))
        app.standings = {name: _anew(standing) if name in active else standing for name, standing in app.standings.items()}
        self.instances.events.emit("app", "up", "", app.name, revision=str(app.row.revision), cause=options.cause)
        self.scaler.used(app, active)
        self._go(app)
        return app

    def _go(self, app: App) -> None:
        if app.task is None:
            self.loop.start(app)
        app.wake()

    async def dry_run(self, spec: AppSpec, options: UpOptions) -> tuple[Step, ...]:
        check_name(spec.name)
        active = asked(spec, options)
        present = self.apps.get(spec.name)
        revision = await self.resolver.revision(present, spec, options, store=False)
        row = present.row if present else AppRow(spec.name, 0.0, 0, Wanted())
        shadow = App(_Nowhere(), row, list(present.revisions) if present else [])  # type: ignore[arg-type]
        if present:
            shadow.memory, shadow.members = dict(present.memory), dict(present.members)
        shadow.save(wanted=_wanted(present, revision, options, active), revision=_news(shadow, revision))
        seen = observe(shadow, self.instances.lives, revision.at, await self.parts(shadow), ({}, {}))
        return tuple(Step(type(each).__name__, each.key, each.reason) for each in preview(desired(shadow), seen, shadow.memory))

    async def down(self, name: str, *, volumes: bool = False, timeout: float | None = None) -> tuple[str, ...]:
        app = self._find(name)
        app.hurry({member.service for member in app.members.values()}, timeout)
        app.failed.clear()
        app.kept.clear()
        app.change(removed=True, remove_orphans=True, remove_volumes=volumes or app.wanted.remove_volumes)
        self.instances.events.emit("app", "down", "", name)
        self._go(app)
        await app.gone.wait()
        return tuple(sorted(app.kept.values()))

    # changes of what is wanted

    async def scale(self, name: str, counts: dict[str, int]) -> AppView:
        app = self._find(name)
        for service, count in counts.items():
            app.service(service)
            if count < 0:
                raise UserError(f"service {service}: {count} instances can't be")
        byhand = {service: bounded(app.service(service), count) for service, count in counts.items()}
        scaled = {service: count for service, count in byhand.items() if app.service(service).scale is not None}
        self.scaler.set_by_hand(app, scaled)
        plain = {service: count for service, count in byhand.items() if service not in scaled}
        autoscaled = {**app.wanted.autoscaled, **scaled}
        app.change(scale={**app.wanted.scale, **plain}, autoscaled=autoscaled, active=_with(app, counts))
        self.instances.events.emit("app", "scale", "", name, **{service: str(count) for service, count in byhand.items()})
        app.wake()
        return self._view(app)

    async def scale_explain(self, name: str, service: str) -> ScaleView:
        return self.scaler.explain(self._find(name), service)

    async def stop(self, name: str, services: tuple[str, ...] = (), timeout: float | None = None) -> AppView:
        app = self._find(name)
        chosen = self._chosen(app, services)
        app.hurry(chosen, timeout)
        app.change(stopped=tuple(dict.fromkeys((*app.wanted.stopped, *chosen))))
        app.wake()
        return self._view(app)

    async def start(self, name: str, services: tuple[str, ...] = ()) -> AppView:
        app = self._find(name)
        chosen = self._chosen(app, services)
        asked_at = {**app.wanted.asked_at, **dict.fromkeys(chosen, time.time())}
        app.hurry(chosen, None)
        app.failed.clear()
        stopped = tuple(each for each in app.wanted.stopped if each not in chosen)
        app.change(stopped=stopped, asked_at=asked_at, active=_with(app, chosen), autoscaled=awake(app.wanted, app.spec, chosen))
        self.scaler.used(app, chosen)
        app.wake()
        return self._view(app)

    async def restart(self, name: str, services: tuple[str, ...] = (), timeout: float | None = None) -> AppView:
        app = self._find(name)
        chosen = self._chosen(app, services)
        app.hurry(chosen, timeout)
        app.change(restart_at={**app.wanted.restart_at, **dict.fromkeys(chosen, time.time())})
        app.wake()
        return self._view(app)

    async def rollback(self, name: str, revision: int = 0) -> AppView:
        app = self._find(name)
        earlier = [each.number for each in app.revisions if each.number < app.row.revision and each.pins]
        if not revision and not earlier:
            raise ConflictError(f"application {name} has no earlier revision")
        target = app.find_revision(revision or earlier[-1])
        await self._check_images(target)
        return self._again(app, target.spec, target.pins, f"rollback to {target.number}")

    async def _check_images(self, revision: Revision) -> None:
        for service, pin in revision.pins.items():
            try:
                await self.instances.launcher.images.resolve(pin.image_id)
            except NotFoundError:
                raise NotFoundError(
                    f"the image of service {service} in revision {revision.number} was removed: {pin.image_id[:12]}"
                ) from None

    async def rollout(self, name: str, verb: str, services: tuple[str, ...] = ()) -> AppView:
        app = self._find(name)
        before = {each: app.memory.get(each, memories.Memory()) for each in self._chosen(app, services)}
        turned = {each: _turn(verb, memory) for each, memory in before.items()}
        idle = [each for each, after in turned.items() if after == before[each]]
        if idle and (services or len(idle) == len(turned)):
            raise ConflictError(f"no rollout of {', '.join(idle)} to {verb}", f"twinhull rollout -p {name} status")
        app.memory.update({each: after for each, after in turned.items() if each not in idle})
        app.save()
        app.wake()
        return self._view(app)

    async def isolate(self, name: str, service: str, runtime: str) -> AppView:
        app = self._find(name)
        spec = app.service(service)
        try:
            word = Runtime.parse(runtime)
        except ValueError as error:
            raise UserError(str(error)) from None
        changed = replace(spec, template=replace(spec.template, runtime=word))
        self.instances.launcher.refuse_unsupported(changed.template)
        pin = app.revision.pins[service]
        mark = salted(changed, pin.image_id, app.wanted.salts.get(service, ""))
        described = replace(app.spec, services={**app.spec.services, service: changed})
        return self._again(app, described, {**app.revision.pins, service: Pin(pin.image_id, mark)}, f"isolate {service} {word}")

    def _again(self, app: App, spec: AppSpec, pins: Mapping[str, Pin], cause: str) -> AppView:
        """A further revision made of known parts."""
        now = time.time()
        number = max(each.number for each in app.revisions) + 1
        active = tuple(name for name in spec.services if name in app.wanted.active or name not in app.spec.services)
        changed = [name for name in active if app.revision.pins.get(name) != pins.get(name)]
        asked_at = {**app.wanted.asked_at, **dict.fromkeys(changed, now)}
        gone = tuple(name for name in dict.fromkeys((*app.wanted.dropped, *app.spec.services)) if name not in spec.services)
        wanted = replace(app.wanted, active=active, asked_at=asked_at, dropped=gone, autoscaled=awake(app.wanted, spec, changed))
        self.scaler.used(app, changed)
        app.failed.clear()
        app.save(wanted=wanted, revision=Revision(app.name, number, now, cause, spec, dict(pins)))
        self.instances.events.emit("app", "up", "", app.name, revision=str(number), cause=cause)
        app.wake()
        return self._view(app)

    # looking

    async def list(self) -> tuple[AppView, ...]:
        return tuple(self._view(app) for app in self.apps.values())

    async def view(self, name: str) -> AppView:
        return self._view(self._find(name))

    async def spec(self, name: str) -> AppSpec:
        return self._find(name).spec

    async def watch(self, name: str) -> AsyncIterator[AppView]:
        app = self._find(name)
        while not app.gone.is_set():
            changed = app.changed
            yield self._view(app)
            await changed.wait()

    async def history(self, name: str) -> tuple[RevisionView, ...]:
        return views.revisions(self._find(name))

    async def one_off(self, spec: AppSpec, service: str) -> InstanceSpec:
        app = self._find(spec.name)
        found, pin = await self.resolver.service(app.revision, spec, service_of(spec, service))
        await self.hands.make_parts(app, spec, found)
        return replace(instance_spec(app.name, found), image=pin.image_id, restart=RestartPolicy(), health=None)

    def member(self, service: str, name: str, slot: int = 0) -> str:
        """The id of an instance of a service: the one with this slot, else the first that runs."""
        app = self._find(name)
        app.service(service)
        members = sorted(
            (each for each in app.members.values() if each.service == service), key=lambda each: (not each.state.serving, each.slot)
        )
        for each in members:
            if slot in (0, each.slot) and each.instance_id in self.instances.lives:
                return each.instance_id
        raise NotFoundError(f"service {service} of application {name} has no instance{f' {slot}' if slot else ''}", "twinhull up")

    async def parts(self, app: App) -> tuple[Collection[str], Collection[str]]:
        """Names of the networks and volumes there are, as far as the app has to do with them."""
        volumes = self.instances.launcher.volumes
        there = {name for name in app.spec.volumes if volumes.exists(name) and f"volume:{name}" not in app.kept} if app.revisions else set()
        records = self.balance.networks.values()
        own = {record.name for record in records if record.labels.get(APP_LABEL) == app.name}  # also those that the file no longer names
        if app.wanted.remove_volumes:
            there |= {
                view.name
                for view in await volumes.list()
                if view.labels.get(APP_LABEL) == app.name and f"volume:{view.name}" not in app.kept
            }
        kept = {key.removeprefix("network:") for key in app.kept}
        return (own | (set(self.resolver.networks()) & set(app.spec.networks))) - kept, there

    def _find(self, name: str) -> App:
        try:
            return self.apps[name]
        except KeyError:
            raise NotFoundError(f"no such application: {name}", "twinhull ls lists all") from None

    def _chosen(self, app: App, services: tuple[str, ...]) -> tuple[str, ...]:
        for service in services:
            app.service(service)
        return services or app.wanted.active

    def _view(self, app: App) -> AppView:
        return views.view(app, self.instances.lives, self.balance, self.gateway_port)


class _Nowhere:
    """The table of an app that exists on paper only."""

    def save(self, *_values: object) -> None:
        """Nowhere."""

    save_member = save


def _wanted(app: App | None, revision: Revision, options: UpOptions, active: Collection[str]) -> Wanted:
    """What is wanted once `up` was asked for; other services than the active ones are left as they are."""
    wanted = app.wanted if app else Wanted()
    return replace(
        wanted,
        active=tuple(name for name in revision.spec.services if name in active or name in wanted.active),
        scale={name: count for name, count in wanted.scale.items() if name not in active},
        stopped=tuple(name for name in wanted.stopped if name not in active),
        asked_at={**wanted.asked_at, **dict.fromkeys(active, revision.at)},
        salts=salts(app, options),
        remove_orphans=options.remove_orphans,
        dropped=tuple(name for name in wanted.dropped if name not in revision.spec.services),
        autoscaled=awake(wanted, revision.spec, active),
        sizes={name: size for name, size in wanted.sizes.items() if name not in active or _sized_alike(app, revision.spec, name)},
    )


def _anew(standing: Standing) -> Standing:
    """Of a service that was asked for and hasn't been looked at since: who waits for it mustn't take it for ready."""
    return replace(standing, phase=Phase.STARTING, settled=False)


def _news(app: App, revision: Revision) -> Revision | None:
    """The revision, unless it says what the wanted one says already."""
    same = app.revisions and (app.revision.spec, dict(app.revision.pins)) == (revision.spec, dict(revision.pins))
    return None if same else revision


def _with(app: App, services: Collection[str]) -> tuple[str, ...]:
    wanted = {*app.wanted.active, *services}
    return tuple(name for name in app.spec.services if name in wanted)


def _sized_alike(app: App | None, spec: AppSpec, service: str) -> bool:
    """Whether the file says the same of a service's size as before; otherwise it begins with that anew."""
    before = app.spec.services.get(service) if app is not None and app.revisions else None
    now = spec.services[service]
    return before is not None and now.scale is not None and now.scale.auto_resources and before.template.resources == now.template.resources


def _turn(verb: str, before: memories.Memory) -> memories.Memory:
    if verb == "pause":
        return rollout.pause(before, "paused by hand")
    if verb == "resume":
        return rollout.resume(before, time.time())
    return rollout.abort(before, "aborted by hand")


def _by_labels(instance_id: str, labels: Mapping[str, str]) -> Member | None:
    """For an instance that was created just before a daemon was killed."""
    if APP_LABEL not in labels or ONE_OFF_LABEL in labels or not labels.get(SLOT_LABEL, "").isdigit():
        return None
    return Member(instance_id, labels[APP_LABEL], labels[SERVICE_LABEL], int(labels[SLOT_LABEL]), labels.get(FINGERPRINT_LABEL, ""))
