"""What an engine can do, and the views it answers with; `daemon/api` speaks to this and nothing below.

Names and ids: every `ref` is a name, a full id, or an unambiguous prefix of an id (at least 1 character).
All methods raise from the tree in `errors.py`. Views are frozen dataclasses, so that pydantic writes them as JSON.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from twinhull.engine.apps.base import AppEngine
from twinhull.gateway.base import BackendStats
from twinhull.image.base import BootstrapSpec, BuildSpec, ImageView
from twinhull.instance.base import LogLine, Process, Region, Session, Stats
from twinhull.spec.instance import InstanceSpec, PortMapping, Resources
from twinhull.volume.base import VolumeSpec, VolumeView

__all__ = ["BootstrapSpec", "BuildSpec", "ImageView", "LogLine", "VolumeSpec", "VolumeView"]  # passed on; all else here is public too


@dataclass(frozen=True, slots=True)
class AddressView:
    """Where an instance is on one network."""

    network: str
    address: str
    mac: str
    gateway: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthView:
    """status: none, starting, healthy, unhealthy. log: the last five probes."""

    status: str = "none"
    failing_streak: int = 0
    log: tuple[dict[str, str | int | float], ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotView:
    """A warm application from which its instances go on. `key`: what it depends on, hashed. `app`: its application, "": none."""

    key: str
    app: str
    image: str
    image_id: str
    argv: tuple[str, ...]
    created_at: float
    size: int


@dataclass(frozen=True, slots=True)
class SecretView:
    """An external secret, never its content. id: another one with every content. size: bytes. used_by: APP/SERVICE, as wanted now."""

    id: str
    name: str
    size: int
    created_at: float
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InstanceView:
    """`inspect`. state: see plan/lifecycle.py. Times: seconds since the epoch, 0 = not yet."""

    id: str
    name: str
    image: str
    image_id: str
    runtime: str
    state: str
    created_at: float
    spec: InstanceSpec
    argv: tuple[str, ...] = ()
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False
    exit_reason: str = ""
    error: str = ""
    restart_count: int = 0
    health: HealthView = HealthView()
    addresses: tuple[AddressView, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    """As published now, with the host ports chosen."""
    accelerator: str = ""
    """kvm or tcg for a VM, else ""."""
    log_path: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. kind: instance, image, network, volume, secret, app, daemon.

    action: create, start, die, oom, health_status …
    """

    at: float
    kind: str
    action: str
    id: str = ""
    name: str = ""
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExitView:
    """The answer to `wait`."""

    code: int
    at: float
    oom_killed: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PathStat:
    """A file inside an instance, for `cp`. mode: st_mode; link_target "" unless a symbolic link."""

    path: str
    mode: int
    size: int
    mtime: float
    link_target: str = ""


@dataclass(frozen=True, slots=True)
class NetworkView:
    """A network. internal: no way out of the machine."""

    name: str
    id: str
    created_at: float
    subnet: str
    gateway: str
    bridge: str
    internal: bool = False
    subnet6: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    """instance name → address."""


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """`network create`. subnet "": one that is free."""

    name: str
    subnet: str = ""
    internal: bool = False
    mtu: int = 1500
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of `diff`. kind: A, C or D."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """`system df`, one row a kind."""

    kind: str
    total: int
    active: int
    size: int
    reclaimable: int


class Engine(abc.ABC):
    """One machine (or, later, one cluster) that runs instances."""

    apps: AppEngine

    # instances
    @abc.abstractmethod
    async def create(self, spec: InstanceSpec) -> InstanceView: ...
    @abc.abstractmethod
    async def start(self, ref: str) -> None: ...
    @abc.abstractmethod
    async def stop(self, ref: str, timeout: float | None = None, signal: str = "") -> None: ...
    @abc.abstractmethod
    async def restart(self, ref: str, timeout: float | None = None) -> None: ...
    @abc.abstractmethod
    async def kill(self, ref: str, signal: str = "KILL") -> None: ...
    @abc.abstractmethod
    async def pause(self, ref: str) -> None: ...
    @abc.abstractmethod
    async def unpause(self, ref: str) -> None: ...
    @abc.abstractmethod
    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None: ...
    @abc.abstractmethod
    async def rename(self, ref: str, name: str) -> None: ...
    @abc.abstractmethod
    async def update(self, ref: str, resources: Resources | None, restart: str | None) -> None: ...
    @abc.abstractmethod
    async def wait(self, ref: str, condition: str = "not-running") -> ExitView:
        """condition: not-running, next-exit, removed, healthy."""

    @abc.abstractmethod
    async def inspect(self, ref: str) -> InstanceView: ...
    @abc.abstractmethod
    async def list(self, *, all: bool = False, filters: dict[str, tuple[str, ...]] | None = None) -> tuple[InstanceView, ...]:
        """filters: see engine/filters.py; several values of a key are alternatives, all keys must hold."""

    @abc.abstractmethod
    async def exec(self, ref: str, process: Process) -> Session:
        """`process.env` is added to the instance's; cwd "" and user "" are the instance's own."""

    @abc.abstractmethod
    async def attach(self, ref: str) -> Session: ...
    @abc.abstractmethod
    async def run(self, spec: InstanceSpec) -> tuple[InstanceView, Session]:
        """create, attach and start in one, for `run` in the foreground; no byte of output is missed."""

    @abc.abstractmethod
    def logs(
        self, ref: str, *, follow: bool = False, since: float = 0, until: float = 0, tail: int | None = None
    ) -> AsyncIterator[LogLine]: ...
    @abc.abstractmethod
    async def stats(self, ref: str) -> Stats: ...
    @abc.abstractmethod
    async def top(self, ref: str) -> tuple[dict[str, str], ...]: ...
    @abc.abstractmethod
    async def regions(self, ref: str) -> tuple[Region, ...]:
        """Of a VM: what its monitor's devices answer to the guest."""

    @abc.abstractmethod
    async def path_stat(self, ref: str, path: str) -> PathStat: ...
    @abc.abstractmethod
    def archive_out(self, ref: str, path: str) -> AsyncIterator[bytes]:
        """A tar stream of `path`, its entries named from the last component on, as in Docker's API."""

    @abc.abstractmethod
    async def archive_in(self, ref: str, path: str, data: AsyncIterator[bytes]) -> None:
        """Unpack a tar stream into the existing folder `path`; never outside the instance's root."""

    @abc.abstractmethod
    async def diff(self, ref: str) -> tuple[Change, ...]: ...
    @abc.abstractmethod
    def export(self, ref: str) -> AsyncIterator[bytes]: ...
    @abc.abstractmethod
    async def commit(self, ref: str, tag: str, *, message: str = "", changes: tuple[str, ...] = ()) -> ImageView: ...
    @abc.abstractmethod
    def events(
        self, *, since: float = 0, follow: bool = True, filters: dict[str, tuple[str, ...]] | None = None
    ) -> AsyncIterator[Event]: ...

    # images
    @abc.abstractmethod
    async def images(self, *, filters: dict[str, tuple[str, ...]] | None = None) -> tuple[ImageView, ...]: ...
    @abc.abstractmethod
    async def image(self, ref: str) -> ImageView: ...
    @abc.abstractmethod
    async def image_history(self, ref: str) -> tuple[dict[str, object], ...]: ...
    @abc.abstractmethod
    def image_build(self, spec: BuildSpec) -> AsyncIterator[str]:
        """Progress lines; the last one is "id: <hex>"."""

    @abc.abstractmethod
    def image_bootstrap(self, spec: BootstrapSpec) -> AsyncIterator[str]: ...
    @abc.abstractmethod
    def image_pull(self, ref: str, *, tls_verify: bool = True) -> AsyncIterator[str]: ...
    @abc.abstractmethod
    def image_push(self, ref: str, destination: str = "", *, tls_verify: bool = True) -> AsyncIterator[str]: ...
    @abc.abstractmethod
    async def image_load(self, data: AsyncIterator[bytes]) -> tuple[str, ...]:
        """A docker or OCI archive; the names loaded."""

    @abc.abstractmethod
    def image_save(self, refs: tuple[str, ...], format: str = "docker-archive") -> AsyncIterator[bytes]: ...
    @abc.abstractmethod
    async def image_import(self, data: AsyncIterator[bytes], tag: str, changes: tuple[str, ...] = ()) -> ImageView:
        """A root file system's tar as a one-layer image."""

    @abc.abstractmethod
    async def image_tag(self, ref: str, name: str) -> None: ...
    @abc.abstractmethod
    async def image_remove(self, ref: str, *, force: bool = False) -> tuple[str, ...]: ...
    @abc.abstractmethod
    async def image_prune(self, *, all: bool = False) -> tuple[str, ...]: ...

    # networks and volumes
    @abc.abstractmethod
    async def network_create(self, spec: NetworkSpec) -> NetworkView: ...
    @abc.abstractmethod
    async def networks(self) -> tuple[NetworkView, ...]: ...
    @abc.abstractmethod
    async def network(self, ref: str) -> NetworkView: ...
    @abc.abstractmethod
    async def network_remove(self, ref: str) -> None: ...
    @abc.abstractmethod
    async def network_prune(self) -> tuple[str, ...]: ...
    @abc.abstractmethod
    async def volume_create(self, spec: VolumeSpec) -> VolumeView: ...
    @abc.abstractmethod
    async def volumes(self) -> tuple[VolumeView, ...]: ...
    @abc.abstractmethod
    async def volume(self, name: str) -> VolumeView: ...
    @abc.abstractmethod
    async def volume_remove(self, name: str, *, force: bool = False) -> None: ...
    @abc.abstractmethod
    async def volume_prune(self, *, all: bool = False) -> tuple[str, ...]: ...

    # secrets

    @abc.abstractmethod
    async def secret_create(self, name: str, content: bytes, *, replace: bool = False) -> SecretView:
        """Keep what `external` secrets of compose files name; `replace`: also if there is one, for the next `up`."""

    @abc.abstractmethod
    async def secrets(self) -> tuple[SecretView, ...]: ...
    @abc.abstractmethod
    async def secret(self, name: str) -> SecretView: ...
    @abc.abstractmethod
    async def secret_remove(self, name: str, *, force: bool = False) -> None:
        """force: also if it is used (what runs keeps its copy, the next `up` fails) or missing."""

    # snapshots

    @abc.abstractmethod
    async def snapshot_create(self, ref: str) -> SnapshotView: ...
    @abc.abstractmethod
    async def snapshots(self) -> tuple[SnapshotView, ...]: ...
    @abc.abstractmethod
    async def snapshot_remove(self, ref: str) -> None: ...

    # the whole
    @abc.abstractmethod
    async def disk_usage(self) -> tuple[DiskUsage, ...]: ...
    @abc.abstractmethod
    async def prune(self, *, all: bool = False, volumes: bool = False) -> dict[str, tuple[str, ...]]: ...
    @abc.abstractmethod
    async def traffic(self) -> tuple[BackendStats, ...]:
        """What the gateway counts, by service; nothing where it doesn't run."""

    @abc.abstractmethod
    async def info(self) -> dict[str, object]:
        """Versions, accelerator, cgroup version, runtimes and counts."""
