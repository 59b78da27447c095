"""The typed, asynchronous client.

    async with AsyncClient() as client:
        view, session = await client.run(InstanceSpec(image="busybox", command=("cat",), stdin=True))

Methods are named like `Engine`'s, return the same dataclasses and raise the same errors; sessions are `Session`s. Streams are
asynchronous iterators: the request is made at the first item, and `aclose` (or `contextlib.aclosing`) hangs up.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from twinhull.client import calls, http, target, thin
from twinhull.client.asynchttp import AsyncResponse, Body, exchange
from twinhull.client.asyncsession import AsyncSession, connect
from twinhull.client.calls import Call, Decoder, Filters, Names
from twinhull.engine.apps.base import AppView, RevisionView, ScaleView, Step, UpOptions
from twinhull.engine.base import (
    BootstrapSpec,
    BuildSpec,
    Change,
    DiskUsage,
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
from twinhull.gateway.base import BackendStats
from twinhull.instance.base import Process, Region, Stats
from twinhull.spec.app import AppSpec
from twinhull.spec.instance import InstanceSpec, Resources

T = TypeVar("T")


class AsyncClient:
    """One daemon. `host`: "" for what the environment says, a socket's path, unix:///… or https://host:port (with `token`, maybe `ca`)."""

    def __init__(self, host: str = "", *, token: str = "", ca: str = "") -> None:
        self._target = target.choose(host, token, ca)
        self._ssl = None if self._target.socket else ssl.create_default_context(cafile=self._target.ca or None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Nothing is kept open between calls; here so that nobody needs to know."""

    async def _call(self, call: Call[T], data: Body | None = None) -> T:
        async with self._request(call, data) as response:
            return call.decode(await response.read())

    async def _stream(self, call: Call[None], decode: Decoder[T]) -> AsyncGenerator[T, None]:
        async with self._request(call) as response, aclosing(response.chunks()) as chunks:
            reader = thin.EventReader()
            async for chunk in chunks:
                for name, value in reader.feed(chunk):
                    if name == "message":
                        yield decode(value)

    async def _download(self, call: Call[None]) -> AsyncGenerator[bytes, None]:
        async with self._request(call) as response, aclosing(response.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    @asynccontextmanager
    async def _request(self, call: Call[Any], data: Body | None = None) -> AsyncGenerator[AsyncResponse, None]:
        """An answer below 400, its body unread. Raises TwinhullError."""
        headers, content = _content(call, data)
        request = (call.method, thin.with_query(call.path, call.query))
        async with exchange(self._target, self._ssl, request, headers, content) as response:
            if response.status >= 400:
                raise thin.problem(await response.read(), response.status)
            yield response

    # sessions

    async def exec(self, ref: str, process: Process) -> AsyncSession:
        """Run a program inside; returns once it runs."""
        session = await self._session(calls.instance(ref, "exec"), calls.plain(process))
        return await session.started()

    async def attach(self, ref: str, *, logs: bool = False) -> AsyncSession:
        """The workload's streams; with `logs` what it wrote before comes first."""
        session = await self._session(thin.with_query(calls.instance(ref, "attach"), {"logs": logs}))
        return await session.started()

    async def run(self, spec: InstanceSpec) -> tuple[InstanceView, AsyncSession]:
        """Create, attach and start in one."""
        session = await self._session("/v1/run", calls.plain(spec))
        view = calls.view_of(await session.control())
        return view, await session.started()

    async def _session(self, path: str, first: object = None) -> AsyncSession:
        return AsyncSession(await connect(self._target, self._ssl, path, first))

    # the whole

    async def ping(self) -> dict[str, Any]:
        """version, api and pid of the daemon."""
        return await self._call(calls.ping())

    async def traffic(self) -> tuple[BackendStats, ...]:
        """What the gateway counts, by service."""
        return await self._call(calls.traffic())

    async def info(self) -> dict[str, Any]:
        """Versions, accelerator, runtimes, counts."""
        return await self._call(calls.info())

    async def disk_usage(self) -> tuple[DiskUsage, ...]:
        """One row a kind."""
        return await self._call(calls.disk_usage())

    async def prune(self, *, all: bool = False, volumes: bool = False) -> dict[str, Names]:
        """Remove what nothing uses: kind → names."""
        return await self._call(calls.prune(all, volumes))

    async def stop_daemon(self, *, all: bool = False) -> None:
        """End the daemon; with `all` its workloads too."""
        await self._call(calls.stop_daemon(all))

    def events(
        self, *, since: float = 0, until: float = 0, follow: bool = True, filters: Filters | None = None
    ) -> AsyncGenerator[Event, None]:
        """What happens, as it happens."""
        return self._stream(calls.events(since, until, follow, filters), calls.event)

    # instances

    async def create(self, spec: InstanceSpec, *, start: bool = False) -> InstanceView:
        """Make an instance; with `start` also start it."""
        return await self._call(calls.create(spec, start))

    async def start(self, ref: str) -> None:
        """Run its workload."""
        await self._call(calls.post(calls.instance(ref, "start")))

    async def stop(self, ref: str, timeout: float | None = None, signal: str = "") -> None:
        """Its stop signal, then KILL after `timeout` seconds."""
        await self._call(calls.post(calls.instance(ref, "stop"), timeout=timeout, signal=signal or None))

    async def restart(self, ref: str, timeout: float | None = None) -> None:
        """Stop and start."""
        await self._call(calls.post(calls.instance(ref, "restart"), timeout=timeout))

    async def kill(self, ref: str, signal: str = "KILL") -> None:
        """A signal to its first process."""
        await self._call(calls.post(calls.instance(ref, "kill"), signal=signal))

    async def pause(self, ref: str) -> None:
        """Freeze it."""
        await self._call(calls.post(calls.instance(ref, "pause")))

    async def unpause(self, ref: str) -> None:
        """Thaw it."""
        await self._call(calls.post(calls.instance(ref, "unpause")))

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it."""
        await self._call(calls.remove(ref, force, volumes))

    async def rename(self, ref: str, name: str) -> None:
        """A new name."""
        await self._call(calls.post(calls.instance(ref, "rename"), name=name))

    async def update(self, ref: str, resources: Resources | None = None, restart: str | None = None) -> None:
        """New limits or restart policy."""
        await self._call(calls.update(ref, resources, restart))

    async def wait(self, ref: str, condition: str = "not-running") -> ExitView:
        """Its exit, when it comes. condition: not-running, next-exit, removed, healthy."""
        return await self._call(calls.wait(ref, condition))

    async def inspect(self, ref: str) -> InstanceView:
        """All about one instance."""
        return await self._call(calls.inspect(ref))

    async def list(self, *, all: bool = False, filters: Filters | None = None) -> tuple[InstanceView, ...]:
        """Running instances, or all; filters as in `Engine.list`."""
        return await self._call(calls.list_instances(all, filters))

    async def exec_detached(self, ref: str, process: Process) -> None:
        """Run a program inside and don't wait for it."""
        await self._call(calls.exec_detached(ref, process))

    def logs(
        self, ref: str, *, follow: bool = False, since: float = 0, until: float = 0, tail: int | None = None
    ) -> AsyncGenerator[LogLine, None]:
        """The log, line by line."""
        return self._stream(
            calls.Call("GET", calls.instance(ref, "logs"), None, {"follow": follow, "since": since, "until": until, "tail": tail}),
            calls.log_line,
        )

    async def stats(self, ref: str) -> Stats:
        """Present use."""
        return await self._call(calls.stats(ref))

    def stats_stream(self, ref: str) -> AsyncGenerator[Stats, None]:
        """The same every second."""
        return self._stream(calls.Call("GET", calls.instance(ref, "stats"), None, {"stream": True}), calls.stats_of)

    async def top(self, ref: str) -> tuple[dict[str, str], ...]:
        """Its processes."""
        return await self._call(calls.top(ref))

    async def regions(self, ref: str) -> tuple[Region, ...]:
        """Of a VM: the addresses that its monitor's devices answer."""
        return await self._call(calls.regions(ref))

    async def path_stat(self, ref: str, path: str) -> PathStat:
        """One path inside."""
        return await self._call(calls.path_stat(ref, path))

    def archive_out(self, ref: str, path: str) -> AsyncGenerator[bytes, None]:
        """A path inside as a tar stream."""
        return self._download(calls.Call("GET", calls.instance(ref, "archive"), None, {"path": path}))

    async def archive_in(self, ref: str, path: str, data: Body) -> None:
        """Unpack a tar stream into an existing folder inside."""
        await self._call(calls.Call("PUT", calls.instance(ref, "archive"), None, {"path": path}), data)

    async def diff(self, ref: str) -> tuple[Change, ...]:
        """Paths changed since the image."""
        return await self._call(calls.diff(ref))

    def export(self, ref: str) -> AsyncGenerator[bytes, None]:
        """Its whole root as a tar stream."""
        return self._download(calls.Call("GET", calls.instance(ref, "export")))

    async def commit(self, ref: str, tag: str, *, message: str = "", changes: Names = ()) -> ImageView:
        """An image of its present root."""
        return await self._call(calls.commit(ref, tag, message, changes))

    # images

    async def images(self, *, filters: Filters | None = None) -> tuple[ImageView, ...]:
        """All images."""
        return await self._call(calls.images(filters))

    async def image(self, ref: str) -> ImageView:
        """All about one image."""
        return await self._call(calls.image(ref))

    async def image_history(self, ref: str) -> tuple[dict[str, object], ...]:
        """How it came to be."""
        return await self._call(calls.image_history(ref))

    def image_build(self, spec: BuildSpec) -> AsyncGenerator[str, None]:
        """Progress lines; the last is "id: <hex>". Raises when the build fails."""
        return self._stream(calls.image_build(spec), calls.progress)

    def image_bootstrap(self, spec: BootstrapSpec) -> AsyncGenerator[str, None]:
        """The same for a base image from a distribution's archive."""
        return self._stream(calls.image_bootstrap(spec), calls.progress)

    def image_pull(self, ref: str, *, tls_verify: bool = True) -> AsyncGenerator[str, None]:
        """Fetch from a registry."""
        return self._stream(calls.image_pull(ref, tls_verify), calls.progress)

    def image_push(self, ref: str, destination: str = "", *, tls_verify: bool = True) -> AsyncGenerator[str, None]:
        """Send to a registry."""
        return self._stream(calls.image_push(ref, destination, tls_verify), calls.progress)

    async def image_load(self, data: Body) -> Names:
        """Take in a docker or OCI archive; the names loaded."""
        return await self._call(calls.image_load(), data)

    def image_save(self, refs: Names, format: str = "docker-archive") -> AsyncGenerator[bytes, None]:
        """Images as an archive."""
        return self._download(calls.Call("GET", "/v1/images/save", None, {"ref": refs, "format": format}))

    async def image_import(self, data: Body, tag: str, changes: Names = ()) -> ImageView:
        """A root file system's tar as an image of one layer."""
        return await self._call(calls.image_import(tag, changes), data)

    async def image_tag(self, ref: str, name: str) -> None:
        """One more name."""
        await self._call(calls.post("/v1/images/tag", ref=ref, name=name))

    async def image_remove(self, ref: str, *, force: bool = False) -> Names:
        """Remove a name, and the image with its last one."""
        return await self._call(calls.image_remove(ref, force))

    async def image_prune(self, *, all: bool = False) -> Names:
        """Remove unused images."""
        return await self._call(calls.image_prune(all))

    # networks and volumes

    async def network_create(self, spec: NetworkSpec) -> NetworkView:
        """Make a network."""
        return await self._call(calls.network_create(spec))

    async def networks(self) -> tuple[NetworkView, ...]:
        """All networks."""
        return await self._call(calls.networks())

    async def network(self, ref: str) -> NetworkView:
        """All about one."""
        return await self._call(calls.network(ref))

    async def network_remove(self, ref: str) -> None:
        """Remove one that no instance uses."""
        await self._call(calls.network_remove(ref))

    async def network_prune(self) -> Names:
        """Remove those without instances."""
        return await self._call(calls.network_prune())

    async def volume_create(self, spec: VolumeSpec) -> VolumeView:
        """Make a volume."""
        return await self._call(calls.volume_create(spec))

    async def volumes(self) -> tuple[VolumeView, ...]:
        """All volumes."""
        return await self._call(calls.volumes())

    async def volume(self, name: str) -> VolumeView:
        """All about one."""
        return await self._call(calls.volume(name))

    async def volume_remove(self, name: str, *, force: bool = False) -> None:
        """Remove one that nothing uses."""
        await self._call(calls.volume_remove(name, force))

    async def volume_prune(self, *, all: bool = False) -> Names:
        """Remove unused volumes."""
        return await self._call(calls.volume_prune(all))

    # external secrets

    async def secret_create(self, name: str, content: bytes, *, replace: bool = False) -> SecretView:
        """Keep one; `replace`: also if there is one, for the next `app_up`."""
        return await self._call(calls.secret_create(name, replace), content)

    async def secrets(self) -> tuple[SecretView, ...]:
        """All, without their contents."""
        return await self._call(calls.secrets())

    async def secret(self, name: str) -> SecretView:
        """All about one, without its content."""
        return await self._call(calls.secret(name))

    async def secret_remove(self, name: str, *, force: bool = False) -> None:
        """Remove one that no application uses."""
        await self._call(calls.secret_remove(name, force))

    # snapshots of applications

    async def snapshot_create(self, ref: str) -> SnapshotView:
        """Keep a running instance as it is now, for others like it to go on from."""
        return await self._call(calls.snapshot_create(ref))

    async def snapshots(self) -> tuple[SnapshotView, ...]:
        """All snapshots."""
        return await self._call(calls.snapshots())

    async def snapshot_remove(self, ref: str) -> None:
        """Remove one, by the beginning of its key."""
        await self._call(calls.snapshot_remove(ref))

    # applications

    async def apps(self) -> tuple[AppView, ...]:
        """All applications."""
        return await self._call(calls.apps())

    async def app_up(self, spec: AppSpec, options: UpOptions = UpOptions()) -> AppView:  # noqa: B008 (frozen)
        """Make this the wanted state; answers at once."""
        return await self._call(calls.app_up(spec, options))

    async def app_plan(self, spec: AppSpec, options: UpOptions = UpOptions()) -> tuple[Step, ...]:  # noqa: B008 (frozen)
        """What `app_up` would do, and why."""
        return await self._call(calls.app_plan(spec, options))

    async def app(self, name: str) -> AppView:
        """All about one."""
        return await self._call(calls.app_view(name))

    async def app_spec(self, name: str) -> AppSpec:
        """As wanted now, without secret values."""
        return await self._call(calls.app_spec(name))

    async def app_down(self, name: str, *, volumes: bool = False, timeout: float | None = None) -> tuple[str, ...]:
        """Stop and remove everything of it; returns when it is gone, with what stays because others use it."""
        return await self._call(calls.app_down(name, volumes, timeout))

    def app_watch(self, name: str) -> AsyncGenerator[AppView, None]:
        """The application now and after every change."""
        return self._stream(calls.app_watch(name), calls.app_of)

    async def app_scale(self, name: str, counts: Mapping[str, int]) -> AppView:
        """Set the number of instances of services."""
        return await self._call(calls.app_scale(name, counts))

    async def app_scale_explain(self, name: str, service: str) -> ScaleView:
        """Why a service that is scaled by itself has as many instances as it has."""
        return await self._call(calls.app_scale_explain(name, service))

    async def app_start(self, name: str, *services: str) -> AppView:
        """Start what was stopped."""
        return await self._call(calls.app_change(name, "start", services))

    async def app_stop(self, name: str, *services: str, timeout: float | None = None) -> AppView:
        """End the instances, keep what is wanted."""
        return await self._call(calls.app_change(name, "stop", services, timeout=timeout))

    async def app_restart(self, name: str, *services: str, timeout: float | None = None) -> AppView:
        """Replace every instance by one of the same kind."""
        return await self._call(calls.app_change(name, "restart", services, timeout=timeout))

    async def app_rollout(self, name: str, verb: str, *services: str) -> AppView:
        """verb: pause, resume or abort."""
        return await self._call(calls.app_change(name, "rollout", services, verb=verb))

    async def app_history(self, name: str) -> tuple[RevisionView, ...]:
        """What was wanted, and when."""
        return await self._call(calls.app_history(name))

    async def app_rollback(self, name: str, revision: int = 0) -> AppView:
        """Make an earlier revision the wanted one."""
        return await self._call(calls.app_rollback(name, revision))

    async def app_isolate(self, name: str, service: str, runtime: str) -> AppView:
        """Move a service into another hull."""
        return await self._call(calls.app_isolate(name, service, runtime))

    async def app_one_off(self, spec: AppSpec, service: str) -> InstanceSpec:
        """What `run SERVICE` starts from, as this file has it; its networks and volumes are there then."""
        return await self._call(calls.app_one_off(spec, service))


def _content(call: Call[Any], data: Body | None) -> tuple[list[str], Body | None]:
    """Headers and content of a request."""
    if data is None:
        return http.body_of(calls.plain(call.body))
    if isinstance(data, bytes):
        return http.body_of(data)
    return [http.TAR, http.CHUNKED], data
