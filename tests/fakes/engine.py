"""A FakeEngine: all of `Engine` in memory, deterministic, for tests of the API, the clients and the CLI.

Ids, names and times follow from the order of calls. Workloads are the programs of `fakes.process`. Two images are there:
busybox and debian:bookworm. `faults["start"] = error` makes the next `start` raise it; `calls` is what was called.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import posixpath
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from tests.fakes.apps import FakeApps
from tests.fakes.process import FakeProcess, FakeSession

from twinhull.engine.base import (
    AddressView,
    BootstrapSpec,
    BuildSpec,
    Change,
    DiskUsage,
    Engine,
    Event,
    ExitView,
    HealthView,
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
from twinhull.errors import ConflictError, NotFoundError, UnsupportedError, UserError
from twinhull.gateway.base import BackendStats
from twinhull.instance.base import Process, Region, Session, Stats
from twinhull.spec.instance import InstanceSpec, Resources, RestartPolicy, RestartWhen, Runtime
from twinhull.spec.process import signal_number

EPOCH = 1_700_000_000.0
_CONDITIONS = ("not-running", "next-exit", "removed", "healthy")
_FILTERS = ("name", "id", "status", "label", "ancestor", "network", "volume", "runtime", "health", "exited")

Filters = dict[str, tuple[str, ...]]


@dataclass
class Record:
    """One instance and what belongs to it."""

    view: InstanceView
    process: FakeProcess | None = None
    log: list[LogLine] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=lambda: {"/etc/hostname": b"fake\n"})
    pending: list[FakeSession] = field(default_factory=list)
    watcher: asyncio.Task[None] | None = None
    removed: asyncio.Event = field(default_factory=asyncio.Event)
    exits: int = 0


class FakeEngine(Engine):
    """See the module. `aclose` ends what still runs."""

    def __init__(self) -> None:
        self.apps = FakeApps()
        self.calls: list[str] = []
        self.faults: dict[str, BaseException] = {}
        self.backends: tuple[BackendStats, ...] = ()
        """What the gateway counts."""
        self.export_size = 10_240
        """Bytes that `export` and `image_save` yield."""
        self.received = 0
        """Bytes that came in by `image_load` and `image_import`."""
        self.open_streams = 0
        """Event, log and progress generators that aren't closed yet."""
        self._count = 0
        self._now = EPOCH
        self._records: dict[str, Record] = {}
        self._images = {image.id: image for image in map(self._new_image, ("busybox:latest", "debian:bookworm"))}
        self._networks = {"default": self._new_network(NetworkSpec("default"))}
        self._volumes: dict[str, VolumeView] = {}
        self._snapshots: dict[str, SnapshotView] = {}
        self._secrets: dict[str, SecretView] = {}
        self._events: list[Event] = []
        self._changed = asyncio.Event()

    async def aclose(self) -> None:
        """End every workload."""
        for record in list(self._records.values()):
            await self._end(record)

    def record(self, ref: str) -> Record:
        """What there is behind a name, id or prefix of an id."""
        found = [record for record in self._records.values() if ref in (record.view.name, record.view.id)]
        found = found or [record for key, record in self._records.items() if ref and key.startswith(ref)]
        if not found:
            raise NotFoundError(f"no instance {ref}")
        if len(found) > 1:
            raise ConflictError(f"{ref} is ambiguous")
        return found[0]

    # instances

    async def create(self, spec: InstanceSpec) -> InstanceView:
        self._trip("create")
        image = self._image(spec.image)
        if spec.name and any(record.view.name == spec.name for record in self._records.values()):
            raise ConflictError(f"the name {spec.name} is taken")
        if spec.snapshot and spec.runtime is not Runtime.VM:
            raise UnsupportedError("snapshots aren't supported")
        argv = (*(spec.entrypoint or ()), *(spec.command or ())) or ("sleep",)
        identity = self._id("instance")
        view = InstanceView(
            id=identity,
            name=spec.name or f"fake_{self._count}",
            image=spec.image,
            image_id=image.id,
            runtime=spec.runtime.value,
            state="created",
            created_at=self._tick(),
            spec=spec,
            argv=argv,
            health=HealthView(status="starting" if spec.health else "none"),
            addresses=(AddressView("default", f"10.0.0.{self._count % 250 + 2}", "02:00:00:00:00:01", "10.0.0.1"),),
            ports=tuple(replace(port, host_port=port.host_port or 40_000 + self._count) for port in spec.ports),
        )
        self._records[identity] = Record(view)
        self._emit("instance", "create", view)
        return view

    async def start(self, ref: str) -> None:
        self._trip("start")
        record = self.record(ref)
        if record.view.state in ("running", "paused"):
            return
        argv, env = record.view.argv, record.view.spec.env
        process = FakeProcess(argv, env, lambda stream, data: record.log.append(LogLine(self._now, stream, data)))
        for session in record.pending:
            session.process = process
            process.sessions.append(session)
        record.pending.clear()
        record.process = process
        record.view = replace(record.view, state="running", started_at=self._tick(), exit_code=0)
        process.start()
        record.watcher = asyncio.create_task(self._watch(record, process), name="fake-watch")
        self._emit("instance", "start", record.view)

    async def stop(self, ref: str, timeout: float | None = None, signal: str = "") -> None:
        self._trip("stop")
        record = self.record(ref)
        number = signal_number(signal or "TERM")
        if record.process is not None and record.view.state in ("running", "paused"):
            record.process.signal(number)
            await self._ended(record)

    async def restart(self, ref: str, timeout: float | None = None) -> None:
        self._trip("restart")
        await self.stop(ref, timeout)
        await self.start(ref)

    async def kill(self, ref: str, signal: str = "KILL") -> None:
        self._trip("kill")
        number = signal_number(signal)
        self._running(ref).signal(number)

    async def pause(self, ref: str) -> None:
        self._trip("pause")
        self._move(ref, "running", "paused", "pause")

    async def unpause(self, ref: str) -> None:
        self._trip("unpause")
        self._move(ref, "paused", "running", "unpause")

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        self._trip("remove")
        record = self.record(ref)
        if record.view.state in ("running", "paused") and not force:
            raise ConflictError(f"{record.view.name} is running", "stop it first, or use --force")
        await self._end(record)
        self._records.pop(record.view.id, None)
        record.removed.set()
        self._emit("instance", "remove", record.view)

    async def rename(self, ref: str, name: str) -> None:
        self._trip("rename")
        record = self.record(ref)
        if not name or "/" in name:
            raise UserError(f"invalid name {name!r}")
        if any(other.view.name == name for other in self._records.values()):
            raise ConflictError(f"the name {name} is taken")
        record.view = replace(record.view, name=name)

    async def update(self, ref: str, resources: Resources | None, restart: str | None) -> None:
        self._trip("update")
        record = self.record(ref)
        spec = record.view.spec
        if resources is not None:
            spec = replace(spec, resources=resources)
        if restart is not None:
            word, _, retries = restart.partition(":")
            if word not in set(RestartWhen) or (retries and not retries.isdecimal()):
                raise UserError(f"unknown restart policy {restart!r}")
            spec = replace(spec, restart=RestartPolicy(RestartWhen(word), int(retries or 0)))
        record.view = replace(record.view, spec=spec)

    async def wait(self, ref: str, condition: str = "not-running") -> ExitView:
        self._trip("wait")
        record = self.record(ref)
        if condition not in _CONDITIONS:
            raise UserError(f"unknown condition {condition!r}", f"use one of {', '.join(_CONDITIONS)}")
        if condition == "removed":
            await record.removed.wait()
        elif condition == "next-exit":
            seen = record.exits
            await self._until(lambda: record.exits > seen)
        elif condition == "not-running":
            await self._until(lambda: record.view.state not in ("running", "paused"))
        view = record.view
        return ExitView(view.exit_code, view.finished_at)

    async def inspect(self, ref: str) -> InstanceView:
        self._trip("inspect")
        return self.record(ref).view

    async def list(self, *, all: bool = False, filters: Filters | None = None) -> tuple[InstanceView, ...]:
        self._trip("list")
        _check_filters(filters, _FILTERS)
        views = [record.view for record in self._records.values()]
        chosen = [view for view in views if _matches(view, filters or {})]
        return tuple(view for view in chosen if all or (filters or {}).get("status") or view.state in ("running", "paused"))

    async def exec(self, ref: str, process: Process) -> Session:
        self._trip("exec")
        self._running(ref)
        if not process.argv:
            raise UserError("no command given")
        made = FakeProcess(process.argv, process.env)
        session = FakeSession(made, owner=True)
        made.sessions.append(session)
        if process.tty:
            await session.resize(process.rows, process.cols)
        made.start()
        return session

    async def attach(self, ref: str) -> Session:
        self._trip("attach")
        record = self.record(ref)
        if record.view.state == "created":
            session = FakeSession(FakeProcess(record.view.argv))
            record.pending.append(session)
            return session
        return self._running(ref).attach()

    async def run(self, spec: InstanceSpec) -> tuple[InstanceView, Session]:
        self._trip("run")
        view = await self.create(spec)
        try:
            session = await self.attach(view.id)
            await self.start(view.id)
        except BaseException:
            await self.remove(view.id)
            raise
        return self.record(view.id).view, session

    async def logs(
        self, ref: str, *, follow: bool = False, since: float = 0, until: float = 0, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        self._trip("logs")
        record = self.record(ref)
        self.open_streams += 1
        try:
            position = max(0, len(record.log) - tail) if tail is not None else 0
            while True:
                while position < len(record.log):
                    line = record.log[position]
                    position += 1
                    if line.at >= since and (not until or line.at <= until):
                        yield line
                if not follow or record.view.state not in ("running", "paused"):
                    return
                seen = position
                await self._until(lambda: len(record.log) > seen or record.view.state not in ("running", "paused"))  # noqa: B023
        finally:
            self.open_streams -= 1

    async def stats(self, ref: str) -> Stats:
        self._trip("stats")
        self._running(ref)
        return Stats(1_000_000, 4096, 8192, 1, 10, 20, 30, 40)

    async def top(self, ref: str) -> tuple[dict[str, str], ...]:
        self._trip("top")
        process = self._running(ref)
        return ({"PID": "1", "USER": "root", "TIME": "0:00", "COMMAND": " ".join(process.argv)},)

    async def regions(self, ref: str) -> tuple[Region, ...]:
        self._trip("regions")
        self._running(ref)
        return (Region("memory", 0xFEC00000, 4096, "ioapic"), Region("ports", 0x3F8, 8, "serial"))

    async def path_stat(self, ref: str, path: str) -> PathStat:
        self._trip("path_stat")
        files = self.record(ref).files
        if path in files:
            return PathStat(posixpath.basename(path), 0o100644, len(files[path]), EPOCH)
        if path == "/" or any(name.startswith(path.rstrip("/") + "/") for name in files):
            return PathStat(posixpath.basename(path.rstrip("/")) or "/", 0o040755, 0, EPOCH)
        raise NotFoundError(f"no such path: {path!r}")

    async def archive_out(self, ref: str, path: str) -> AsyncIterator[bytes]:
        self._trip("archive_out")
        await self.path_stat(ref, path)
        files, base = self.record(ref).files, posixpath.dirname(path.rstrip("/"))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, content in sorted(files.items()):
                if name == path or name.startswith(path.rstrip("/") + "/"):
                    info = tarfile.TarInfo(posixpath.relpath(name, base))
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        data = buffer.getvalue()
        for start in range(0, len(data), 4096):
            yield data[start : start + 4096]

    async def archive_in(self, ref: str, path: str, data: AsyncIterator[bytes]) -> None:
        self._trip("archive_in")
        files = self.record(ref).files
        if path in files:
            raise UserError(f"{path} is not a folder")
        raw = b"".join([chunk async for chunk in data])
        try:
            with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    if content is not None:
                        files[posixpath.normpath(posixpath.join(path, member.name))] = content.read()
        except tarfile.TarError as error:
            raise UserError(f"read the archive: {error}") from error

    async def diff(self, ref: str) -> tuple[Change, ...]:
        self._trip("diff")
        return tuple(Change("A", name) for name in sorted(self.record(ref).files))

    async def export(self, ref: str) -> AsyncIterator[bytes]:
        self._trip("export")
        self.record(ref)
        async for chunk in self._zeros():
            yield chunk

    async def commit(self, ref: str, tag: str, *, message: str = "", changes: tuple[str, ...] = ()) -> ImageView:
        self._trip("commit")
        self.record(ref)
        return self._add_image(tag)

    async def events(self, *, since: float = 0, follow: bool = True, filters: Filters | None = None) -> AsyncIterator[Event]:
        self._trip("events")
        _check_filters(filters, ("kind", "action", "id", "name", "label"))
        self.open_streams += 1
        position = 0
        try:
            while True:
                while position < len(self._events):
                    event = self._events[position]
                    position += 1
                    if event.at >= since and all(getattr(event, key, "") in values for key, values in (filters or {}).items()):
                        yield event
                if not follow:
                    return
                seen = position
                await self._until(lambda: len(self._events) > seen)  # noqa: B023
        finally:
            self.open_streams -= 1

    # images

    async def images(self, *, filters: Filters | None = None) -> tuple[ImageView, ...]:
        self._trip("images")
        _check_filters(filters, ("reference", "label", "dangling"))
        wanted = (filters or {}).get("reference", ())
        return tuple(image for image in self._images.values() if not wanted or set(wanted) & set(image.names))

    async def image(self, ref: str) -> ImageView:
        self._trip("image")
        return self._image(ref)

    async def image_history(self, ref: str) -> tuple[dict[str, object], ...]:
        self._trip("image_history")
        self._image(ref)
        return ({"created_at": EPOCH, "created_by": "ADD rootfs.tar /", "size": 4096},)

    async def image_build(self, spec: BuildSpec) -> AsyncIterator[str]:
        self._trip("image_build")
        async for line in self._progress(f"STEP 1: FROM {spec.target or 'scratch'}", spec.tags):
            yield line

    async def image_bootstrap(self, spec: BootstrapSpec) -> AsyncIterator[str]:
        self._trip("image_bootstrap")
        async for line in self._progress(f"bootstrap {spec.distribution}:{spec.suite}", (spec.tag,) if spec.tag else ()):
            yield line

    async def image_pull(self, ref: str, *, tls_verify: bool = True) -> AsyncIterator[str]:
        self._trip("image_pull")
        async for line in self._progress(f"pull {ref}", (ref,)):
            yield line

    async def image_push(self, ref: str, destination: str = "", *, tls_verify: bool = True) -> AsyncIterator[str]:
        self._trip("image_push")
        self._image(ref)
        yield f"push {ref} to {destination or ref}"

    async def image_load(self, data: AsyncIterator[bytes]) -> tuple[str, ...]:
        self._trip("image_load")
        await self._swallow(data)
        return self._add_image("loaded:latest").names

    async def image_save(self, refs: tuple[str, ...], format: str = "docker-archive") -> AsyncIterator[bytes]:
        self._trip("image_save")
        for ref in refs:
            self._image(ref)
        async for chunk in self._zeros():
            yield chunk

    async def image_import(self, data: AsyncIterator[bytes], tag: str, changes: tuple[str, ...] = ()) -> ImageView:
        self._trip("image_import")
        await self._swallow(data)
        return self._add_image(tag)

    async def image_tag(self, ref: str, name: str) -> None:
        self._trip("image_tag")
        image = self._image(ref)
        self._images[image.id] = replace(image, names=(*image.names, _full(name)))

    async def image_remove(self, ref: str, *, force: bool = False) -> tuple[str, ...]:
        self._trip("image_remove")
        image = self._image(ref)
        if not force and any(record.view.image_id == image.id for record in self._records.values()):
            raise ConflictError(f"{ref} is in use")
        del self._images[image.id]
        return image.names

    async def image_prune(self, *, all: bool = False) -> tuple[str, ...]:
        self._trip("image_prune")
        return ()

    # networks and volumes

    async def network_create(self, spec: NetworkSpec) -> NetworkView:
        self._trip("network_create")
        if not spec.name:
            raise UserError("a network needs a name")
        if spec.name in self._networks:
            raise ConflictError(f"the network {spec.name} exists")
        self._networks[spec.name] = self._new_network(spec)
        return self._networks[spec.name]

    async def networks(self) -> tuple[NetworkView, ...]:
        self._trip("networks")
        return tuple(self._networks.values())

    async def network(self, ref: str) -> NetworkView:
        self._trip("network")
        return self._network(ref)

    async def network_remove(self, ref: str) -> None:
        self._trip("network_remove")
        del self._networks[self._network(ref).name]

    async def network_prune(self) -> tuple[str, ...]:
        self._trip("network_prune")
        names = tuple(name for name in self._networks if name != "default")
        self._networks = {"default": self._networks.get("default") or self._new_network(NetworkSpec("default"))}
        return names

    async def volume_create(self, spec: VolumeSpec) -> VolumeView:
        self._trip("volume_create")
        if spec.driver != "local":
            raise UnsupportedError(f"unknown volume driver {spec.driver!r}")
        name = spec.name or self._id("volume")
        if name not in self._volumes:
            self._volumes[name] = VolumeView(name, self._tick(), labels=spec.labels, options=spec.options)
        return self._volumes[name]

    async def volumes(self) -> tuple[VolumeView, ...]:
        self._trip("volumes")
        return tuple(self._volumes.values())

    async def volume(self, name: str) -> VolumeView:
        self._trip("volume")
        if name not in self._volumes:
            raise NotFoundError(f"no volume {name}")
        return self._volumes[name]

    async def volume_remove(self, name: str, *, force: bool = False) -> None:
        self._trip("volume_remove")
        if self._volumes.pop(name, None) is None and not force:
            raise NotFoundError(f"no volume {name}")

    async def volume_prune(self, *, all: bool = False) -> tuple[str, ...]:
        self._trip("volume_prune")
        names = tuple(self._volumes)
        self._volumes.clear()
        return names

    # secrets

    async def secret_create(self, name: str, content: bytes, *, replace: bool = False) -> SecretView:
        self._trip("secret_create")
        if not content:
            raise UserError(f"secret {name} would be empty")
        if name in self._secrets and not replace:
            raise ConflictError(f"secret {name} exists")
        self._secrets[name] = SecretView(self._id("secret"), name, len(content), self._tick())
        return self._secrets[name]

    async def secrets(self) -> tuple[SecretView, ...]:
        self._trip("secrets")
        return tuple(self._secrets.values())

    async def secret(self, name: str) -> SecretView:
        self._trip("secret")
        if name not in self._secrets:
            raise NotFoundError(f"external secret {name} doesn't exist")
        return self._secrets[name]

    async def secret_remove(self, name: str, *, force: bool = False) -> None:
        self._trip("secret_remove")
        if self._secrets.pop(name, None) is None and not force:
            raise NotFoundError(f"external secret {name} doesn't exist")

    # snapshots

    async def snapshot_create(self, ref: str) -> SnapshotView:
        self._trip("snapshot_create")
        view = await self.inspect(ref)
        made = SnapshotView(self._id("snapshot"), "", view.image, view.image_id, view.argv, self._tick(), 1 << 20)
        self._snapshots[made.key] = made
        return made

    async def snapshots(self) -> tuple[SnapshotView, ...]:
        self._trip("snapshots")
        return tuple(self._snapshots.values())

    async def snapshot_remove(self, ref: str) -> None:
        self._trip("snapshot_remove")
        if self._snapshots.pop(ref, None) is None:
            raise NotFoundError(f"no such snapshot: {ref}")

    # the whole

    async def disk_usage(self) -> tuple[DiskUsage, ...]:
        self._trip("disk_usage")
        return (DiskUsage("images", len(self._images), 0, 8192, 8192), DiskUsage("instances", len(self._records), 0, 0, 0))

    async def prune(self, *, all: bool = False, volumes: bool = False) -> dict[str, tuple[str, ...]]:
        self._trip("prune")
        gone = [record for record in self._records.values() if record.view.state not in ("running", "paused")]
        for record in gone:
            await self.remove(record.view.id)
        return {"instances": tuple(record.view.name for record in gone), "volumes": await self.volume_prune() if volumes else ()}

    async def traffic(self) -> tuple[BackendStats, ...]:
        return self.backends

    async def info(self) -> dict[str, object]:
        self._trip("info")
        return {"runtimes": ["container", "vm"], "accelerator": "tcg", "instances": len(self._records)}

    # inside

    def _trip(self, name: str) -> None:
        self.calls.append(name)
        if name in self.faults:
            raise self.faults.pop(name)

    def _id(self, kind: str) -> str:
        self._count += 1
        return hashlib.sha256(f"{kind} {self._count}".encode()).hexdigest()

    def _tick(self) -> float:
        self._now += 1
        return self._now

    def _running(self, ref: str) -> FakeProcess:
        record = self.record(ref)
        if record.process is None or record.view.state not in ("running", "paused"):
            raise ConflictError(f"{record.view.name} is not running")
        return record.process

    def _move(self, ref: str, old: str, new: str, action: str) -> None:
        record = self.record(ref)
        if record.view.state != old:
            raise ConflictError(f"{record.view.name} is not {old}")
        record.view = replace(record.view, state=new)
        self._emit("instance", action, record.view)

    def _emit(self, kind: str, action: str, view: InstanceView) -> None:
        self._events.append(Event(self._tick(), kind, action, view.id, view.name))
        self._changed.set()

    async def _until(self, true: object) -> None:
        """Until a condition holds; it is looked at whenever something changes, and often for output."""
        assert callable(true)
        while not true():
            self._changed.clear()
            try:
                async with asyncio.timeout(0.01):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _watch(self, record: Record, process: FakeProcess) -> None:
        code = await asyncio.shield(process.exit)
        record.exits += 1
        record.view = replace(record.view, state="exited", exit_code=code, finished_at=self._tick())
        self._emit("instance", "die", record.view)
        if record.view.spec.auto_remove:
            self._records.pop(record.view.id, None)
            record.removed.set()
            self._emit("instance", "remove", record.view)

    async def _ended(self, record: Record) -> None:
        if record.watcher is not None:
            await asyncio.wait({record.watcher})

    async def _end(self, record: Record) -> None:
        for session in record.pending:
            session.finish()
        if record.process is not None:
            await record.process.end()
            await self._ended(record)

    def _image(self, ref: str) -> ImageView:
        wanted = ref if ":" in ref else f"{ref}:latest"
        for image in self._images.values():
            if wanted in image.names or (len(ref) >= 12 and image.id.startswith(ref)):
                return image
        raise NotFoundError(f"no image {ref}", "see: twinhull image ls")

    def _new_image(self, name: str) -> ImageView:
        identity = self._id("image")
        return ImageView(identity, (_full(name),), (), self._tick(), 4096, "amd64", {"Cmd": ["sleep"]}, (identity,))

    def _add_image(self, tag: str) -> ImageView:
        if not tag:
            raise UserError("an image needs a name")
        image = self._new_image(tag)
        self._images[image.id] = image
        return image

    def _network(self, ref: str) -> NetworkView:
        for view in self._networks.values():
            if ref in (view.name, view.id):
                return view
        raise NotFoundError(f"no network {ref}")

    def _new_network(self, spec: NetworkSpec) -> NetworkView:
        identity = self._id("network")
        return NetworkView(
            spec.name, identity, self._tick(), spec.subnet or "10.0.0.0/24", "10.0.0.1", "br0", spec.internal, labels=spec.labels
        )

    async def _progress(self, first: str, tags: tuple[str, ...]) -> AsyncIterator[str]:
        self.open_streams += 1
        try:
            yield first
            self._trip("progress")
            yield f"id: {self._add_image(tags[0] if tags else 'untagged').id}"
        finally:
            self.open_streams -= 1

    async def _zeros(self) -> AsyncIterator[bytes]:
        left = self.export_size
        while left > 0:
            yield bytes(min(left, 65536))
            left -= 65536
            self._trip("chunk")

    async def _swallow(self, data: AsyncIterator[bytes]) -> None:
        self.received = 0
        async for chunk in data:
            self.received += len(chunk)


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _check_filters(filters: Filters | None, known: tuple[str, ...]) -> None:
    for key in filters or {}:
        if key not in known:
            raise UserError(f"unknown filter {key!r}", f"known: {', '.join(known)}")


def _matches(view: InstanceView, filters: Filters) -> bool:
    return all(_any_matches(view, key, values) for key, values in filters.items())


def _any_matches(view: InstanceView, key: str, values: tuple[str, ...]) -> bool:
    match key:
        case "name":
            return any(value in view.name for value in values)
        case "id":
            return any(view.id.startswith(value) for value in values)
        case "status":
            return view.state in values
        case "label":
            labels = [f"{name}={value}" for name, value in view.spec.labels.items()]
            return any(value in labels or value in view.spec.labels for value in values)
        case "ancestor":
            return view.image in values
        case "runtime":
            return view.runtime in values
        case _:
            return True
