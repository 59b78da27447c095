"""The engine of this machine: one facade over instances, images, networks and volumes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path

from twinhull import __version__
from twinhull.activator.local import LocalActivator
from twinhull.engine import filters as pick
from twinhull.engine.apps.assemble import assemble
from twinhull.engine.apps.local import LocalApps
from twinhull.engine.base import (
    BootstrapSpec,
    BuildSpec,
    Change,
    DiskUsage,
    Engine,
    Event,
    ExitView,
    ImageView,
    InstanceView,
    LogLine,
    NetworkSpec,
    NetworkView,
    PathStat,
    SecretView,
    SnapshotView,
    VolumeSpec,
    VolumeView,
)
from twinhull.engine.events import Events
from twinhull.engine.files import Files
from twinhull.engine.instances import Instances, dns_names
from twinhull.engine.launch import Launcher
from twinhull.engine.live import Live, view
from twinhull.engine.names import check as check_name
from twinhull.engine.networks import Networks
from twinhull.engine.recover import Recovery
from twinhull.engine.secrets import SecretStore, Users
from twinhull.engine.settings import Settings
from twinhull.engine.snapshots import Captures
from twinhull.engine.tasks import Tasks
from twinhull.errors import ConflictError, NotFoundError, TwinhullError, UserError
from twinhull.gateway.base import BackendStats
from twinhull.gateway.local import HaproxyGateway
from twinhull.home import Home
from twinhull.image.store import ImageStore
from twinhull.instance import logs as logbook
from twinhull.instance.base import Process, Region, Session, Stats
from twinhull.instance.vm import accelerator, parking, snapshots, template
from twinhull.instance.vm.launchers import launchers
from twinhull.instance.vm.parking import Pool
from twinhull.instance.vm.snapshots import About, Snapshots
from twinhull.network.host import Attached, NetworkHost
from twinhull.plan.lifecycle import State
from twinhull.spec.instance import InstanceSpec, MountType, Resources, RestartPolicy, RestartWhen
from twinhull.spec.process import merge_environment, signal_number
from twinhull.spec.validate import normalize
from twinhull.store.db import Database
from twinhull.sys import trees
from twinhull.sys.cgroup import Cgroup
from twinhull.volume.store import VolumeStore

_log = logging.getLogger(__name__)
_ROTATE_EVERY = 10.0
"""Seconds between looks at the sizes of logs."""


class LocalEngine(Engine):
    """See `Engine`. `open` first, `close` last; workloads live on after `close`."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home = home
        self.settings = settings
        self._database = Database(home.state / "twinhull.db")
        self._events = Events(self._database)
        self._tasks = Tasks()
        self._images = ImageStore(home)
        self._volumes = VolumeStore(home)
        self._secrets = SecretStore(home.state / "secrets")
        self._network = NetworkHost(home)
        self._snapshots = Snapshots(home)
        self._pool = Pool(home, settings.accelerator, settings.parked, settings.parked_memory, self._snapshots)
        launcher = Launcher(home, settings, self._images, self._volumes, self._network, {}, self._pool, Captures(self._snapshots))
        self._instances = Instances(launcher, self._database, self._events, self._tasks)
        lives, records = self._instances.lives, launcher.networks
        self._networks = Networks(self._network, self._database, self._events, lives, settings.network_pools, records)
        self._files = Files(self._instances)
        self._gateway = HaproxyGateway(home, settings.gateway)
        self._activator = LocalActivator(home)
        self.apps: LocalApps = assemble(self._instances, self._networks, self._gateway, self._secrets, self._activator)

    # the whole

    async def open(self) -> None:
        """Take over what is there."""
        self._networks.load()
        endpoints = self._database.endpoints()
        for record in self._database.instances():
            own = tuple(endpoint for endpoint in endpoints if endpoint.instance_id == record.id)
            self._instances.lives[record.id] = Live(record, own)
        await self._network.open()
        await self._networks.ensure_default()
        await self._activator.open()
        self.apps.load()
        report = await self._network.sync(tuple(self._networks.records.values()), self._attached(), self.apps.balance.records())
        for owner, why in report.conflicts:
            _log.warning("network of %s: %s", owner[:12], why)
        await self._volumes.sweep()
        await template.recover(self.home)
        await parking.recover(self.home)
        await snapshots.recover(self.home)
        await asyncio.to_thread(self._snapshots.collect)
        await Recovery(self._instances).all()
        await self._remove_strays()
        self._tasks.spawn("rotate logs", self._rotate_logs())
        self._pool.expect(parking.want(Resources(), 1))  # the usual VM: its template is made now, not when somebody waits
        self._tasks.spawn("park VMs", self._pool.keep())
        if self.settings.parked:
            launchers.keep()
        self._tasks.spawn("supervise dns", self._network.supervise())
        await self._gateway.open()
        self._tasks.spawn("supervise gateway", self._gateway.supervise())
        self.apps.start_all()
        self._events.emit("daemon", "start", name=__version__)

    async def close(self, *, all: bool = False) -> None:
        """Let go. With all, end every workload first and remove the networks' kernel objects."""
        if all:
            await self._end_all()
        self._events.close()
        await self._tasks.close()
        await self._activator.close()
        await self._pool.close()
        await launchers.close()
        self._snapshots.close()
        await self._gateway.close(remove=all)
        await self._network.close(remove=all)
        Cgroup(self.home.cgroup).remove_if_empty()
        self._database.close()

    async def traffic(self) -> tuple[BackendStats, ...]:
        try:
            return await self._gateway.stats()
        except TwinhullError:
            return ()

    async def info(self) -> dict[str, object]:
        lives = self._instances.lives.values()
        return {
            "version": __version__,
            "home": str(self.home.state),
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "accelerator": accelerator.cached(self.home) or "unknown",
            "vm_templates": template.statistics(),
            "vm_parked": self._pool.statistics(),
            "vm_snapshots": self._snapshots.statistics(),
            "instances": {str(state): sum(live.record.state is state for live in lives) for state in State},
            "images": len(await self.images()),
            "networks": len(self._networks.records),
            "settings": asdict(self.settings),
        }

    async def disk_usage(self) -> tuple[DiskUsage, ...]:
        images = await self.images()
        used = self._used_images()
        lives = self._instances.lives.values()
        sizes = {live.id: await asyncio.to_thread(_size, self.home.instance_state(live.id)) for live in lives}
        volumes = await self.volumes()
        volume_sizes = await self._volumes.sizes()
        cache = await asyncio.to_thread(_size, self.home.cache)
        return (
            DiskUsage(
                "images",
                len(images),
                sum(image.id in used for image in images),
                sum(image.size for image in images),
                sum(image.size for image in images if image.id not in used),
            ),
            DiskUsage(
                "instances",
                len(lives),
                sum(live.up for live in lives),
                sum(sizes.values()),
                sum(sizes[live.id] for live in lives if not live.up),
            ),
            DiskUsage(
                "volumes",
                len(volumes),
                sum(bool(volume.used_by) for volume in volumes),
                sum(volume_sizes.values()),
                sum(volume_sizes[volume.name] for volume in volumes if not volume.used_by),
            ),
            DiskUsage("cache", 1, 1, cache, cache),
        )

    async def prune(self, *, all: bool = False, volumes: bool = False) -> dict[str, tuple[str, ...]]:
        ended = [live for live in list(self._instances.lives.values()) if live.record.state in (State.EXITED, State.CREATED, State.DEAD)]
        for live in ended:
            await self._instances.remove(live, volumes=True)
        return {
            "instances": tuple(live.id for live in ended),
            "networks": await self.network_prune(),
            "volumes": await self.volume_prune(all=all) if volumes else (),
            "snapshots": self._snapshot_prune(),
            "images": await self.image_prune(all=all),
        }

    # instances

    async def create(self, spec: InstanceSpec) -> InstanceView:
        return self._view(await self._instances.create(spec))

    async def start(self, ref: str) -> None:
        await self._instances.start(self._instances.find(ref))

    async def stop(self, ref: str, timeout: float | None = None, signal: str = "") -> None:
        await self._instances.stop(self._instances.find(ref), timeout, signal)

    async def restart(self, ref: str, timeout: float | None = None) -> None:
        live = self._instances.find(ref)
        if live.record.spec.auto_remove and live.up:
            raise ConflictError(f"instance {live.record.name} is removed when it stops (--rm)")
        await self._instances.stop(live, timeout)
        await self._instances.start(live)
        self._events.emit("instance", "restart", live.id, live.record.name)

    async def kill(self, ref: str, signal: str = "KILL") -> None:
        await self._instances.kill(self._instances.find(ref), signal_number(signal))

    async def pause(self, ref: str) -> None:
        await self._instances.pause(self._instances.find(ref))

    async def unpause(self, ref: str) -> None:
        await self._instances.unpause(self._instances.find(ref))

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        live = self._instances.find(ref)
        await self._instances.remove(live, force=force, volumes=volumes or live.record.spec.auto_remove)

    async def rename(self, ref: str, name: str) -> None:
        live = self._instances.find(ref)
        taken = {other.record.name for other in self._instances.lives.values() if other is not live}
        if check_name(name) in taken:
            raise ConflictError(f"the name {name} is taken by instance {self._instances.find(name).id[:12]}")
        async with live.lock:
            old = live.record
            try:
                self._database.save_instance(live.change(name=name, spec=replace(old.spec, name=name)))
            except TwinhullError:
                live.record = old
                raise
            if live.up:
                await self._instances.join_network(live, live.record.published)
        self._events.emit("instance", "rename", live.id, name, old_name=old.name)

    async def update(self, ref: str, resources: Resources | None, restart: str | None) -> None:
        live = self._instances.find(ref)
        async with live.lock:
            spec = live.record.spec
            if resources is not None:
                normalize(replace(spec, resources=resources))  # refuses what can't be
                if live.up:
                    await live.running().update(resources)
                spec = replace(spec, resources=resources)
            if restart is not None:
                spec = replace(spec, restart=_restart_policy(restart))
            self._database.save_instance(live.change(spec=spec))
        self._events.emit("instance", "update", live.id, live.record.name)

    async def wait(self, ref: str, condition: str = "not-running") -> ExitView:
        live = self._instances.find(ref)
        exits = live.exits
        conditions = {
            "not-running": lambda: live.removed or live.record.state in (State.EXITED, State.CREATED, State.DEAD),
            "next-exit": lambda: live.removed or live.exits > exits,
            "removed": lambda: live.removed,
            "healthy": lambda: live.removed or live.health.status == "healthy" or not live.up,
        }
        if condition not in conditions:
            raise UserError(f"unknown condition {condition!r}", f"use one of: {', '.join(conditions)}")
        await live.wait_for(conditions[condition])
        record = live.record
        return ExitView(record.exit_code, record.finished_at, record.oom_killed, record.exit_reason)

    async def inspect(self, ref: str) -> InstanceView:
        return self._view(self._instances.find(ref))

    async def list(self, *, all: bool = False, filters: dict[str, tuple[str, ...]] | None = None) -> tuple[InstanceView, ...]:
        shown_anyway = bool(filters) and any(key in ("status", "exited") for key in filters or {})
        lives = sorted(self._instances.lives.values(), key=lambda live: -live.record.created_at)
        views = tuple(self._view(live) for live in lives if all or shown_anyway or live.record.state in _SHOWN)
        return pick.keep_instances(views, filters or {})

    async def exec(self, ref: str, process: Process) -> Session:
        live = self._instances.find(ref)
        instance = live.running()
        if process.privileged and not self.settings.allow_privileged:
            raise UserError("privileged exec is off on this machine", "config.toml: [security] allow_privileged = true")
        own = instance.launch.process
        merged = replace(
            process,
            env=merge_environment(own.env, ("TERM=xterm",) if process.tty else (), process.env),
            cwd=process.cwd or own.cwd,
            user=process.user or own.user,
        )
        self._events.emit("instance", "exec_start", live.id, live.record.name)
        return await instance.exec(merged)

    async def attach(self, ref: str) -> Session:
        return await self._instances.attach(self._instances.find(ref))

    async def run(self, spec: InstanceSpec) -> tuple[InstanceView, Session]:
        live = await self._instances.create(spec)
        try:
            session = await self._instances.start(live, attach=True)
        except BaseException:
            if spec.auto_remove:
                await asyncio.shield(self._instances.remove(live, force=True, volumes=True))
            raise
        assert session is not None  # start(attach=True) on a new instance always attaches
        return self._view(live), session

    async def logs(
        self, ref: str, *, follow: bool = False, since: float = 0, until: float = 0, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        live = self._instances.find(ref)
        log = self._instances.launcher.paths(live.id).log
        stop = asyncio.Event()
        watcher = self._tasks.spawn(f"logs of {live.record.name}", _set_at_end(live, stop)) if follow else None
        try:
            async with contextlib.aclosing(
                logbook.read(log, logbook.Selection(since, until, tail), follow=follow, stop=stop)  # type: ignore[type-var]
            ) as lines:
                async for line in lines:
                    yield line
        finally:
            if watcher is not None:
                watcher.cancel()

    async def stats(self, ref: str) -> Stats:
        return await self._instances.find(ref).running().stats()

    async def top(self, ref: str) -> tuple[dict[str, str], ...]:
        return tuple(await self._instances.find(ref).running().top())

    async def regions(self, ref: str) -> tuple[Region, ...]:
        return await self._instances.find(ref).running().regions()

    async def path_stat(self, ref: str, path: str) -> PathStat:
        return await self._files.stat(self._instances.find(ref), path)

    def archive_out(self, ref: str, path: str) -> AsyncIterator[bytes]:
        return self._files.archive(self._instances.find(ref), path)

    async def archive_in(self, ref: str, path: str, data: AsyncIterator[bytes]) -> None:
        await self._files.unpack(self._instances.find(ref), path, data)

    async def diff(self, ref: str) -> tuple[Change, ...]:
        return await self._files.diff(self._instances.find(ref))

    def export(self, ref: str) -> AsyncIterator[bytes]:
        return self._files.export(self._instances.find(ref))

    async def commit(self, ref: str, tag: str, *, message: str = "", changes: tuple[str, ...] = ()) -> ImageView:
        live = self._instances.find(ref)
        image = await self._images.commit(live.record.image_id, self._files.layer(live), tag, message, changes)
        self._events.emit("instance", "commit", live.id, live.record.name, image=image.id)
        return image

    def events(self, *, since: float = 0, follow: bool = True, filters: dict[str, tuple[str, ...]] | None = None) -> AsyncIterator[Event]:
        return self._events.stream(since, follow, filters or {})

    # images

    async def images(self, *, filters: dict[str, tuple[str, ...]] | None = None) -> tuple[ImageView, ...]:
        return pick.keep_images(await self._images.images(), filters or {})

    async def image(self, ref: str) -> ImageView:
        return await self._images.resolve(ref)

    async def image_history(self, ref: str) -> tuple[dict[str, object], ...]:
        return await self._images.history(ref)

    def image_build(self, spec: BuildSpec) -> AsyncIterator[str]:
        return self._told(self._images.build(spec), "build", ",".join(spec.tags))

    def image_bootstrap(self, spec: BootstrapSpec) -> AsyncIterator[str]:
        return self._told(self._images.bootstrap(spec), "bootstrap", f"{spec.distribution}:{spec.suite}")

    def image_pull(self, ref: str, *, tls_verify: bool = True) -> AsyncIterator[str]:
        return self._told(self._images.pull(ref, tls_verify=tls_verify), "pull", ref)

    def image_push(self, ref: str, destination: str = "", *, tls_verify: bool = True) -> AsyncIterator[str]:
        return self._told(self._images.push(ref, destination, tls_verify=tls_verify), "push", ref)

    async def image_load(self, data: AsyncIterator[bytes]) -> tuple[str, ...]:
        names = await self._images.load(data)
        self._events.emit("image", "load", name=",".join(names))
        return names

    def image_save(self, refs: tuple[str, ...], format: str = "docker-archive") -> AsyncIterator[bytes]:
        return self._images.save(refs, format)

    async def image_import(self, data: AsyncIterator[bytes], tag: str, changes: tuple[str, ...] = ()) -> ImageView:
        image = await self._images.import_(data, tag, changes)
        self._events.emit("image", "import", image.id, tag)
        return image

    async def image_tag(self, ref: str, name: str) -> None:
        await self._images.tag(ref, name)
        self._events.emit("image", "tag", name=name)

    async def image_remove(self, ref: str, *, force: bool = False) -> tuple[str, ...]:
        image = await self._images.resolve(ref)
        users = [live.record.name for live in self._instances.lives.values() if live.record.image_id == image.id]
        if users and not (force and not any(self._instances.find(name).up for name in users)):
            raise ConflictError(f"image {ref} is used by {', '.join(users)}", "remove these instances first")
        if (services := self.apps.users_of(image.id)) and not force:
            raise ConflictError(f"image {ref} is used by {', '.join(services)}", "twinhull down, or force it")
        gone = await self._images.remove(ref, force=force)
        await self._images.collect(self._used_images())
        self._events.emit("image", "remove", image.id, ref)
        return gone

    async def image_prune(self, *, all: bool = False) -> tuple[str, ...]:
        return await self._images.prune(all_=all, keep=self._used_images())

    # networks

    async def network_create(self, spec: NetworkSpec) -> NetworkView:
        return await self._networks.create(spec)

    async def networks(self) -> tuple[NetworkView, ...]:
        return self._networks.views()

    async def network(self, ref: str) -> NetworkView:
        return self._networks.view(ref)

    async def network_remove(self, ref: str) -> None:
        await self._networks.remove(ref)

    async def network_prune(self) -> tuple[str, ...]:
        return await self._networks.prune()

    # volumes

    async def volume_create(self, spec: VolumeSpec) -> VolumeView:
        volume = await self._volumes.create(replace(spec, name=spec.name or secrets.token_hex(32)))
        self._events.emit("volume", "create", volume.name, volume.name)
        return volume

    async def volumes(self) -> tuple[VolumeView, ...]:
        return await self._volumes.list(self._volume_users())

    async def volume(self, name: str) -> VolumeView:
        return await self._volumes.inspect(name, self._volume_users().get(name, ()))

    async def volume_remove(self, name: str, *, force: bool = False) -> None:
        try:
            volume = await self.volume(name)
        except NotFoundError:
            if force:
                return
            raise
        if volume.used_by:
            raise ConflictError(f"volume {name} is used by {', '.join(volume.used_by)}", "remove these instances first")
        await self._volumes.remove(name)
        self._events.emit("volume", "destroy", name, name)

    async def volume_prune(self, *, all: bool = False) -> tuple[str, ...]:
        gone = await self._volumes.prune(self._volume_users(), all=all)
        for name in gone:
            self._events.emit("volume", "destroy", name, name)
        return gone

    # secrets

    async def secret_create(self, name: str, content: bytes, *, replace: bool = False) -> SecretView:
        made = await asyncio.to_thread(self._secrets.create, name, content, replace=replace)
        self._events.emit("secret", "create", made.id, name)
        return made

    async def secrets(self) -> tuple[SecretView, ...]:
        return await asyncio.to_thread(self._secrets.list, self._secret_users())

    async def secret(self, name: str) -> SecretView:
        return await asyncio.to_thread(self._secrets.view, name, self._secret_users())

    async def secret_remove(self, name: str, *, force: bool = False) -> None:
        if (users := self._secret_users().get(name)) and not force:
            raise ConflictError(f"secret {name} is used by {', '.join(users)}", "take it out of these, or use --force")
        try:
            found = await self.secret(name)
        except NotFoundError:
            if force:
                return
            raise
        await asyncio.to_thread(self._secrets.remove, name)
        self._events.emit("secret", "destroy", found.id, name)

    def _secret_users(self) -> Users:
        return self._secrets.users(app.spec for app in self.apps.apps.values() if app.revisions)

    # snapshots

    async def snapshot_create(self, ref: str) -> SnapshotView:
        live = self._instances.find(ref)
        launcher = self._instances.launcher
        made = await launcher.captures.capture(live, launcher.contents(live))
        self._events.emit("instance", "snapshot", live.id, live.record.name)
        return _snapshot_view(made)

    async def snapshots(self) -> tuple[SnapshotView, ...]:
        return tuple(map(_snapshot_view, await asyncio.to_thread(self._snapshots.list)))

    async def snapshot_remove(self, ref: str) -> None:
        self._snapshots.remove(self._snapshots.find(ref).key)

    def _snapshot_prune(self) -> tuple[str, ...]:
        """Those of images that no instance has any more."""
        used = self._used_images()
        gone = tuple(about.key for about in self._snapshots.list() if about.image_id not in used)
        for key in gone:
            self._snapshots.remove(key)
        return gone

    # inside

    def _view(self, live: Live) -> InstanceView:
        accelerator = getattr(live.instance, "accelerator", "") if live.instance else ""
        return view(live, self._networks.records, str(self._instances.launcher.paths(live.id).log), accelerator)

    def _volume_users(self) -> dict[str, tuple[str, ...]]:
        """Volume → names of the instances that mount it."""
        users: dict[str, tuple[str, ...]] = {}
        for live in self._instances.lives.values():
            for name in {mount.source for mount in live.record.spec.mounts if mount.type is MountType.VOLUME}:
                users[name] = (*users.get(name, ()), live.record.name)
        return users

    async def _told(self, lines: AsyncIterator[str], action: str, name: str) -> AsyncIterator[str]:
        last = ""
        async with contextlib.aclosing(lines):  # type: ignore[type-var]
            async for line in lines:
                last = line
                yield line
        self._events.emit("image", action, last.removeprefix("id: "), name)

    def _used_images(self) -> set[str]:
        return {live.record.image_id for live in self._instances.lives.values()} | self.apps.used_images()

    def _attached(self) -> tuple[Attached, ...]:
        """What the network must hold for the instances that were up when the last daemon ended."""
        launcher = self._instances.launcher
        return tuple(
            Attached(
                live.id,
                live.record.name,
                ports=launcher.network_ports(live),
                names=tuple(dns_names(live)),
                address=launcher.reached_at(live),
                mappings=live.record.published,
                dns=live.record.spec.dns,
            )
            for live in self._instances.lives.values()
            if live.up and live.endpoints
        )

    async def _remove_strays(self) -> None:
        """Folders of instances that no record knows."""
        known = {live.id[:12] for live in self._instances.lives.values()}
        for parent in (self.home.state / "instances", self.home.run / "i"):
            for folder in parent.iterdir() if parent.exists() else ():
                if folder.name not in known:
                    await asyncio.to_thread(trees.remove, folder)

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(_ROTATE_EVERY)
            for live in list(self._instances.lives.values()):
                if live.up and live.instance is not None:
                    await live.instance.rotate_log()

    async def _end_all(self) -> None:
        lives = list(self._instances.lives.values())
        self.apps.pause_all()
        await asyncio.gather(*(self._instances.stop(live) for live in lives), return_exceptions=True)


_SHOWN = (State.RUNNING, State.PAUSED, State.RESTARTING)


async def _set_at_end(live: Live, stop: asyncio.Event) -> None:
    """Set when the instance won't write any more."""
    await live.wait_for(lambda: live.removed or live.record.state not in _SHOWN)
    stop.set()


def _restart_policy(word: str) -> RestartPolicy:
    when, _, count = word.partition(":")
    try:
        return RestartPolicy(RestartWhen(when), int(count or 0))
    except ValueError:
        raise UserError(f"invalid restart policy {word!r}", "use no, always, unless-stopped or on-failure[:N]") from None


def _snapshot_view(about: About) -> SnapshotView:
    return SnapshotView(about.key, about.app, about.image, about.image_id, about.argv, about.created, about.size)


def _size(folder: Path) -> int:
    """Bytes on disk below a folder that may not have been made yet."""
    return trees.size(folder) if folder.exists() else 0
