"""The typed, synchronous client.

    with Client() as client:
        view = client.create(InstanceSpec(image="busybox", command=("sleep", "60")), start=True)
        code, out, err = client.exec(view.id, Process(("uname", "-r"), env=())).communicate()

Methods are named like `Engine`'s, return the same dataclasses and raise the same errors. Every call has a connection of its own, so
a client may be used from any number of threads. Streams are iterators: closing one hangs up.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar

from twinhull.client import calls, target, thin
from twinhull.client.calls import Call, Decoder, Filters, Names
from twinhull.client.session import ClientSession
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
Upload = bytes | Iterable[bytes]


class Client:
    """One daemon. `host`: "" for what the environment says, a socket's path, unix:///… or https://host:port (with `token`, maybe `ca`)."""

    def __init__(self, host: str = "", *, token: str = "", ca: str = "") -> None:
        self._target = target.choose(host, token, ca)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is kept open between calls; here for symmetry with AsyncClient."""

    def _call(self, call: Call[T], data: Upload | None = None) -> T:
        body = calls.plain(call.body) if data is None else data if isinstance(data, bytes) else iter(data)
        with thin.request(call.method, call.path, call.query, body, target=self._target) as response:
            return call.decode(response.read())

    def _stream(self, call: Call[None], decode: Decoder[T]) -> Generator[T, None, None]:
        events = thin.sse(call.method, call.path, call.query, calls.plain(call.body), target=self._target)
        return _decoded(events, decode)

    def _download(self, call: Call[None]) -> Generator[bytes, None, None]:
        return _chunks(thin.request(call.method, call.path, call.query, target=self._target))

    # sessions

    def exec(self, ref: str, process: Process) -> ClientSession:
        """Run a program inside; returns once it runs."""
        duplex = thin.websocket(calls.instance(ref, "exec"), None, calls.plain(process), target=self._target)
        return ClientSession(duplex).started()

    def attach(self, ref: str, *, logs: bool = False) -> ClientSession:
        """The workload's streams; with `logs` what it wrote before comes first."""
        duplex = thin.websocket(calls.instance(ref, "attach"), {"logs": logs}, target=self._target)
        return ClientSession(duplex).started()

    def run(self, spec: InstanceSpec) -> tuple[InstanceView, ClientSession]:
        """Create, attach and start in one."""
        session = ClientSession(thin.websocket("/v1/run", None, calls.plain(spec), target=self._target))
        view = calls.view_of(session.control())
        return view, session.started()

    # the whole

    def ping(self) -> dict[str, Any]:
        """version, api and pid of the daemon."""
        return self._call(calls.ping())

    def traffic(self) -> tuple[BackendStats, ...]:
        """What the gateway counts, by service."""
        return self._call(calls.traffic())

    def info(self) -> dict[str, Any]:
        """Versions, accelerator, runtimes, counts."""
        return self._call(calls.info())

    def disk_usage(self) -> tuple[DiskUsage, ...]:
        """One row a kind."""
        return self._call(calls.disk_usage())

    def prune(self, *, all: bool = False, volumes: bool = False) -> dict[str, Names]:
        """Remove what nothing uses: kind → names."""
        return self._call(calls.prune(all, volumes))

    def stop_daemon(self, *, all: bool = False) -> None:
        """End the daemon; with `all` its workloads too."""
        self._call(calls.stop_daemon(all))

    def events(
        self, *, since: float = 0, until: float = 0, follow: bool = True, filters: Filters | None = None
    ) -> Generator[Event, None, None]:
        """What happens, as it happens."""
        return self._stream(calls.events(since, until, follow, filters), calls.event)

    # instances

    def create(self, spec: InstanceSpec, *, start: bool = False) -> InstanceView:
        """Make an instance; with `start` also start it."""
        return self._call(calls.create(spec, start))

    def start(self, ref: str) -> None:
        """Run its workload."""
        self._call(calls.post(calls.instance(ref, "start")))

    def stop(self, ref: str, timeout: float | None = None, signal: str = "") -> None:
        """Its stop signal, then KILL after `timeout` seconds."""
        self._call(calls.post(calls.instance(ref, "stop"), timeout=timeout, signal=signal or None))

    def restart(self, ref: str, timeout: float | None = None) -> None:
        """Stop and start."""
        self._call(calls.post(calls.instance(ref, "restart"), timeout=timeout))

    def kill(self, ref: str, signal: str = "KILL") -> None:
        """A signal to its first process."""
        self._call(calls.post(calls.instance(ref, "kill"), signal=signal))

    def pause(self, ref: str) -> None:
        """Freeze it."""
        self._call(calls.post(calls.instance(ref, "pause")))

    def unpause(self, ref: str) -> None:
        """Thaw it."""
        self._call(calls.post(calls.instance(ref, "unpause")))

    def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it."""
        self._call(calls.remove(ref, force, volumes))

    def rename(self, ref: str, name: str) -> None:
        """A new name."""
        self._call(calls.post(calls.instance(ref, "rename"), name=name))

    def update(self, ref: str, resources: Resources | None = None, restart: str | None = None) -> None:
        """New limits or restart policy."""
        self._call(calls.update(ref, resources, restart))

    def wait(self, ref: str, condition: str = "not-running") -> ExitView:
        """Its exit, when it comes. condition: not-running, next-exit, removed, healthy."""
        return self._call(calls.wait(ref, condition))

    def inspect(self, ref: str) -> InstanceView:
        """All about one instance."""
        return self._call(calls.inspect(ref))

    def list(self, *, all: bool = False, filters: Filters | None = None) -> tuple[InstanceView, ...]:
        """Running instances, or all; filters as in `Engine.list`."""
        return self._call(calls.list_instances(all, filters))

    def exec_detached(self, ref: str, process: Process) -> None:
        """Run a program inside and don't wait for it."""
        self._call(calls.exec_detached(ref, process))

    def logs(
        self, ref: str, *, follow: bool = False, since: float = 0, until: float = 0, tail: int | None = None
    ) -> Generator[LogLine, None, None]:
        """The log, line by line."""
        return self._stream(
            calls.Call("GET", calls.instance(ref, "logs"), None, {"follow": follow, "since": since, "until": until, "tail": tail}),
            calls.log_line,
        )

    def stats(self, ref: str) -> Stats:
        """Present use."""
        return self._call(calls.stats(ref))

    def stats_stream(self, ref: str) -> Generator[Stats, None, None]:
        """The same every second."""
        return self._stream(calls.Call("GET", calls.instance(ref, "stats"), None, {"stream": True}), calls.stats_of)

    def top(self, ref: str) -> tuple[dict[str, str], ...]:
        """Its processes."""
        return self._call(calls.top(ref))

    def regions(self, ref: str) -> tuple[Region, ...]:
        """Of a VM: the addresses that its monitor's devices answer."""
        return self._call(calls.regions(ref))

    def path_stat(self, ref: str, path: str) -> PathStat:
        """One path inside."""
        return self._call(calls.path_stat(ref, path))

    def archive_out(self, ref: str, path: str) -> Generator[bytes, None, None]:
        """A path inside as a tar stream."""
        return self._download(calls.Call("GET", calls.instance(ref, "archive"), None, {"path": path}))

    def archive_in(self, ref: str, path: str, data: Upload) -> None:
        """Unpack a tar stream into an existing folder inside."""
        self._call(calls.Call("PUT", calls.instance(ref, "archive"), None, {"path": path}), data)

    def diff(self, ref: str) -> tuple[Change, ...]:
        """Paths changed since the image."""
        return self._call(calls.diff(ref))

    def export(self, ref: str) -> Generator[bytes, None, None]:
        """Its whole root as a tar stream."""
        return self._download(calls.Call("GET", calls.instance(ref, "export")))

    def commit(self, ref: str, tag: str, *, message: str = "", changes: Names = ()) -> ImageView:
        """An image of its present root."""
        return self._call(calls.commit(ref, tag, message, changes))

    # images

    def images(self, *, filters: Filters | None = None) -> tuple[ImageView, ...]:
        """All images."""
        return self._call(calls.images(filters))

    def image(self, ref: str) -> ImageView:
        """All about one image."""
        return self._call(calls.image(ref))

    def image_history(self, ref: str) -> tuple[dict[str, object], ...]:
        """How it came to be."""
        return self._call(calls.image_history(ref))

    def image_build(self, spec: BuildSpec) -> Generator[str, None, None]:
        """Progress lines; the last is "id: <hex>". Raises when the build fails."""
        return self._stream(calls.image_build(spec), calls.progress)

    def image_bootstrap(self, spec: BootstrapSpec) -> Generator[str, None, None]:
        """The same for a base image from a distribution's archive."""
        return self._stream(calls.image_bootstrap(spec), calls.progress)

    def image_pull(self, ref: str, *, tls_verify: bool = True) -> Generator[str, None, None]:
        """Fetch from a registry."""
        return self._stream(calls.image_pull(ref, tls_verify), calls.progress)

    def image_push(self, ref: str, destination: str = "", *, tls_verify: bool = True) -> Generator[str, None, None]:
        """Send to a registry."""
        return self._stream(calls.image_push(ref, destination, tls_verify), calls.progress)

    def image_load(self, data: Upload) -> Names:
        """Take in a docker or OCI archive; the names loaded."""
        return self._call(calls.image_load(), data)

    def image_save(self, refs: Names, format: str = "docker-archive") -> Generator[bytes, None, None]:
        """Images as an archive."""
        return self._download(calls.Call("GET", "/v1/images/save", None, {"ref": refs, "format": format}))

    def image_import(self, data: Upload, tag: str, changes: Names = ()) -> ImageView:
        """A root file system's tar as an image of one layer."""
        return self._call(calls.image_import(tag, changes), data)

    def image_tag(self, ref: str, name: str) -> None:
        """One more name."""
        self._call(calls.post("/v1/images/tag", ref=ref, name=name))

    def image_remove(self, ref: str, *, force: bool = False) -> Names:
        """Remove a name, and the image with its last one."""
        return self._call(calls.image_remove(ref, force))

    def image_prune(self, *, all: bool = False) -> Names:
        """Remove unused images."""
        return self._call(calls.image_prune(all))

    # networks and volumes

    def network_create(self, spec: NetworkSpec) -> NetworkView:
        """Make a network."""
        return self._call(calls.network_create(spec))

    def networks(self) -> tuple[NetworkView, ...]:
        """All networks."""
        return self._call(calls.networks())

    def network(self, ref: str) -> NetworkView:
        """All about one."""
        return self._call(calls.network(ref))

    def network_remove(self, ref: str) -> None:
        """Remove one that no instance uses."""
        self._call(calls.network_remove(ref))

    def network_prune(self) -> Names:
        """Remove those without instances."""
        return self._call(calls.network_prune())

    def volume_create(self, spec: VolumeSpec) -> VolumeView:
        """Make a volume."""
        return self._call(calls.volume_create(spec))

    def volumes(self) -> tuple[VolumeView, ...]:
        """All volumes."""
        return self._call(calls.volumes())

    def volume(self, name: str) -> VolumeView:
        """All about one."""
        return self._call(calls.volume(name))

    def volume_remove(self, name: str, *, force: bool = False) -> None:
        """Remove one that nothing uses."""
        self._call(calls.volume_remove(name, force))

    def volume_prune(self, *, all: bool = False) -> Names:
        """Remove unused volumes."""
        return self._call(calls.volume_prune(all))

    # external secrets

    def secret_create(self, name: str, content: bytes, *, replace: bool = False) -> SecretView:
        """Keep one; `replace`: also if there is one, for the next `app_up`."""
        return self._call(calls.secret_create(name, replace), content)

    def secrets(self) -> tuple[SecretView, ...]:
        """All, without their contents."""
        return self._call(calls.secrets())

    def secret(self, name: str) -> SecretView:
        """All about one, without its content."""
        return self._call(calls.secret(name))

    def secret_remove(self, name: str, *, force: bool = False) -> None:
        """Remove one that no application uses."""
        self._call(calls.secret_remove(name, force))

    # snapshots of applications

    def snapshot_create(self, ref: str) -> SnapshotView:
        """Keep a running instance as it is now, for others like it to go on from."""
        return self._call(calls.snapshot_create(ref))

    def snapshots(self) -> tuple[SnapshotView, ...]:
        """All snapshots."""
        return self._call(calls.snapshots())

    def snapshot_remove(self, ref: str) -> None:
        """Remove one, by the beginning of its key."""
        self._call(calls.snapshot_remove(ref))

    # applications

    def apps(self) -> tuple[AppView, ...]:
        """All applications."""
        return self._call(calls.apps())

    def app_up(self, spec: AppSpec, options: UpOptions = UpOptions()) -> AppView:  # noqa: B008 (frozen)
        """Make this the wanted state; answers at once."""
        return self._call(calls.app_up(spec, options))

    def app_plan(self, spec: AppSpec, options: UpOptions = UpOptions()) -> tuple[Step, ...]:  # noqa: B008 (frozen)
        """What `app_up` would do, and why."""
        return self._call(calls.app_plan(spec, options))

    def app(self, name: str) -> AppView:
        """All about one."""
        return self._call(calls.app_view(name))

    def app_spec(self, name: str) -> AppSpec:
        """As wanted now, without secret values."""
        return self._call(calls.app_spec(name))

    def app_down(self, name: str, *, volumes: bool = False, timeout: float | None = None) -> tuple[str, ...]:
        """Stop and remove everything of it; returns when it is gone, with what stays because others use it."""
        return self._call(calls.app_down(name, volumes, timeout))

    def app_watch(self, name: str) -> Generator[AppView, None, None]:
        """The application now and after every change."""
        return self._stream(calls.app_watch(name), calls.app_of)

    def app_scale(self, name: str, counts: Mapping[str, int]) -> AppView:
        """Set the number of instances of services."""
        return self._call(calls.app_scale(name, counts))

    def app_scale_explain(self, name: str, service: str) -> ScaleView:
        """Why a service that is scaled by itself has as many instances as it has."""
        return self._call(calls.app_scale_explain(name, service))

    def app_start(self, name: str, *services: str) -> AppView:
        """Start what was stopped."""
        return self._call(calls.app_change(name, "start", services))

    def app_stop(self, name: str, *services: str, timeout: float | None = None) -> AppView:
        """End the instances, keep what is wanted."""
        return self._call(calls.app_change(name, "stop", services, timeout=timeout))

    def app_restart(self, name: str, *services: str, timeout: float | None = None) -> AppView:
        """Replace every instance by one of the same kind."""
        return self._call(calls.app_change(name, "restart", services, timeout=timeout))

    def app_rollout(self, name: str, verb: str, *services: str) -> AppView:
        """verb: pause, resume or abort."""
        return self._call(calls.app_change(name, "rollout", services, verb=verb))

    def app_history(self, name: str) -> tuple[RevisionView, ...]:
        """What was wanted, and when."""
        return self._call(calls.app_history(name))

    def app_rollback(self, name: str, revision: int = 0) -> AppView:
        """Make an earlier revision the wanted one."""
        return self._call(calls.app_rollback(name, revision))

    def app_isolate(self, name: str, service: str, runtime: str) -> AppView:
        """Move a service into another hull."""
        return self._call(calls.app_isolate(name, service, runtime))

    def app_one_off(self, spec: AppSpec, service: str) -> InstanceSpec:
        """What `run SERVICE` starts from, as this file has it; its networks and volumes are there then."""
        return self._call(calls.app_one_off(spec, service))


def _decoded(events: Generator[tuple[str, Any], None, None], decode: Decoder[T]) -> Generator[T, None, None]:
    with closing(events):
        for name, value in events:
            if name == "message":
                yield decode(value)


def _chunks(response: thin.Response) -> Generator[bytes, None, None]:
    with response:
        yield from response.chunks()
