"""The typed, asynchronous client.

    async with AsyncClient() as client:
        view, session = await client.run(InstanceSpec(image="busybox", command=("cat",), stdin=True))

Methods are named like `Engine`'s, return the same dataclasses and raise the same errors; sessions are `Session`s. Streams are
asynchronous iterators: the request is made at the first item, and `aclose` (or `contextlib.aclosing`) hangs up.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from twinhull.client import calls, target, thin
from twinhull.client.asyncsession import AsyncSession, connect
from twinhull.client.calls import Call, Decoder, Filters, Names
from twinhull.client.problems import UnreachableError, error_of
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
    VolumeSpec,
    VolumeView,
)
from twinhull.instance.base import Process, Stats
from twinhull.spec.instance import InstanceSpec, Resources

T = TypeVar("T")
Upload = bytes | Iterable[bytes] | AsyncIterable[bytes]


class AsyncClient:
    """One daemon. `host`: "" for what the environment says, a socket's path, unix:///… or https://host:port (with `token`, maybe `ca`)."""

    def __init__(self, host: str = "", *, token: str = "", ca: str = "") -> None:
        self._target = target.choose(host, token, ca)
        self._ssl = None if self._target.socket else ssl.create_default_context(cafile=self._target.ca or None)
        transport = httpx.AsyncHTTPTransport(uds=self._target.socket or None, verify=self._ssl or True)
        scheme = "http" if self._target.socket else "https"
        headers = {"Authorization": f"Bearer {self._target.token}"} if self._target.token else {}
        self._http = httpx.AsyncClient(
            transport=transport, base_url=f"{scheme}://{self._target.authority}", headers=headers, timeout=httpx.Timeout(None, connect=10.0)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._http.aclose()

    async def _call(self, call: Call[T], data: Upload | None = None) -> T:
        async with self._request(call, data) as response:
            return call.decode(await response.aread())

    async def _stream(self, call: Call[None], decode: Decoder[T]) -> AsyncIterator[T]:
        async with self._request(call) as response:
            name = "message"
            async for line in response.aiter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data" and name == "error":
                    raise error_of(json.loads(value))
                elif field == "data" and name == "message":
                    yield decode(json.loads(value))

    async def _download(self, call: Call[None]) -> AsyncIterator[bytes]:
        async with self._request(call) as response:
            async for chunk in response.aiter_raw():
                yield chunk

    @asynccontextmanager
    async def _request(self, call: Call[Any], data: Upload | None = None) -> AsyncIterator[httpx.Response]:
        """An answer below 400, its body unread. Raises TwinhullError."""
        path = thin.with_query(call.path, call.query)
        headers = {"Content-Type": "application/json" if data is None else "application/x-tar"}
        content = data if data is not None else json.dumps(calls.plain(call.body)) if call.body is not None else None
        try:
            async with self._http.stream(call.method, path, content=content, headers=headers if content is not None else {}) as response:
                if response.status_code >= 400:
                    raise await _problem(response)
                yield response
        except httpx.TransportError as error:
            raise UnreachableError(f"the daemon at {self._target.name}: {error or type(error).__name__}", "is it running?") from error

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

    def events(self, *, since: float = 0, until: float = 0, follow: bool = True, filters: Filters | None = None) -> AsyncIterator[Event]:
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
    ) -> AsyncIterator[LogLine]:
        """The log, line by line."""
        return self._stream(
            calls.Call("GET", calls.instance(ref, "logs"), None, {"follow": follow, "since": since, "until": until, "tail": tail}),
            calls.log_line,
        )

    async def stats(self, ref: str) -> Stats:
        """Present use."""
        return await self._call(calls.stats(ref))

    def stats_stream(self, ref: str) -> AsyncIterator[Stats]:
        """The same every second."""
        return self._stream(calls.Call("GET", calls.instance(ref, "stats"), None, {"stream": True}), calls.stats_of)

    async def top(self, ref: str) -> tuple[dict[str, str], ...]:
        """Its processes."""
        return await self._call(calls.top(ref))

    async def path_stat(self, ref: str, path: str) -> PathStat:
        """One path inside."""
        return await self._call(calls.path_stat(ref, path))

    def archive_out(self, ref: str, path: str) -> AsyncIterator[bytes]:
        """A path inside as a tar stream."""
        return self._download(calls.Call("GET", calls.instance(ref, "archive"), None, {"path": path}))

    async def archive_in(self, ref: str, path: str, data: Upload) -> None:
        """Unpack a tar stream into an existing folder inside."""
        await self._call(calls.Call("PUT", calls.instance(ref, "archive"), None, {"path": path}), data)

    async def diff(self, ref: str) -> tuple[Change, ...]:
        """Paths changed since the image."""
        return await self._call(calls.diff(ref))

    def export(self, ref: str) -> AsyncIterator[bytes]:
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

    def image_build(self, spec: BuildSpec) -> AsyncIterator[str]:
        """Progress lines; the last is "id: <hex>". Raises when the build fails."""
        return self._stream(calls.image_build(spec), calls.progress)

    def image_bootstrap(self, spec: BootstrapSpec) -> AsyncIterator[str]:
        """The same for a base image from a distribution's archive."""
        return self._stream(calls.image_bootstrap(spec), calls.progress)

    def image_pull(self, ref: str, *, tls_verify: bool = True) -> AsyncIterator[str]:
        """Fetch from a registry."""
        return self._stream(calls.image_pull(ref, tls_verify), calls.progress)

    def image_push(self, ref: str, destination: str = "", *, tls_verify: bool = True) -> AsyncIterator[str]:
        """Send to a registry."""
        return self._stream(calls.image_push(ref, destination, tls_verify), calls.progress)

    async def image_load(self, data: Upload) -> Names:
        """Take in a docker or OCI archive; the names loaded."""
        return await self._call(calls.image_load(), data)

    def image_save(self, refs: Names, format: str = "docker-archive") -> AsyncIterator[bytes]:
        """Images as an archive."""
        return self._download(calls.Call("GET", "/v1/images/save", None, {"ref": refs, "format": format}))

    async def image_import(self, data: Upload, tag: str, changes: Names = ()) -> ImageView:
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


async def _problem(response: httpx.Response) -> Exception:
    try:
        fields = json.loads(await response.aread())
    except ValueError:
        fields = None
    return error_of(fields, response.status_code, response.headers)
