"""Every call of the API as a pure value: what to send, and how to read the answer. Shared by both typed clients.

Answers are read leniently (fields of a later daemon are ignored) into the dataclasses that `Engine` answers with.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from twinhull.client.problems import UnreachableError
from twinhull.client.thin import quote
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
Filters = Mapping[str, tuple[str, ...]]
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. `kind` is the answer's type as pydantic takes it, None for no answer; T is the same for the type checker."""

    method: str
    path: str
    kind: Any = None
    query: dict[str, Any] = field(default_factory=dict)
    body: object = None

    def decode(self, data: bytes) -> T:
        """The answer. Raises UnreachableError for one that isn't what it should be."""
        if self.kind is None:
            return None  # type: ignore[return-value]
        try:
            found: T = read(self.kind, json.loads(data))
        except ValueError as error:
            raise UnreachableError(f"{self.method} {self.path}: the daemon's answer can't be read: {error}") from error
        return found


def plain(body: object) -> object:
    """A dataclass as what JSON takes."""
    return asdict(body) if is_dataclass(body) and not isinstance(body, type) else body


def read(kind: Any, value: object) -> Any:
    """A decoded JSON value as `kind`. Raises ValueError."""
    return _adapter(kind).validate_python(value)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def log_line(entry: Any) -> LogLine:
    """From an entry of the log's stream."""
    data = base64.b64decode(entry["base64"]) if "base64" in entry else entry["text"].encode()
    return LogLine(entry["at"], entry["stream"], data)


def event(entry: Any) -> Event:
    """From an entry of the events' stream."""
    found: Event = read(Event, entry)
    return found


def stats_of(entry: Any) -> Stats:
    """From an entry of the statistics' stream."""
    found: Stats = read(Stats, entry)
    return found


def progress(entry: Any) -> str:
    """From an entry of a long call's stream."""
    return str(entry.get("line", ""))


def view_of(message: Any) -> InstanceView:
    """From the first answer of `run`."""
    try:
        found: InstanceView = read(InstanceView, message["created"])
    except (KeyError, TypeError, ValidationError) as error:
        raise UnreachableError(f"run: the daemon's answer can't be read: {error}") from error
    return found


Decoder = Callable[[Any], T]


def instance(ref: str, *rest: str) -> str:
    """The path of an instance, or of something below it."""
    return "/".join(["/v1/instances", quote(ref), *rest])


def filters(given: Filters | None, **more: Any) -> dict[str, Any]:
    """Filters as a query, and more of it."""
    return {"filter": [f"{key}={value}" for key, values in (given or {}).items() for value in values], **more}


def post(path: str, **query: Any) -> Call[None]:
    """A POST without a body or an answer."""
    return Call("POST", path, None, query)


# the whole


def ping() -> Call[dict[str, Any]]:
    return Call("GET", "/v1/ping", dict[str, Any])


def traffic() -> Call[tuple[BackendStats, ...]]:
    return Call("GET", "/v1/traffic", tuple[BackendStats, ...])


def info() -> Call[dict[str, Any]]:
    return Call("GET", "/v1/info", dict[str, Any])


def disk_usage() -> Call[tuple[DiskUsage, ...]]:
    return Call("GET", "/v1/system/df", tuple[DiskUsage, ...])


def prune(everything: bool, volumes: bool) -> Call[dict[str, Names]]:
    return Call("POST", "/v1/system/prune", dict[str, Names], {"all": everything, "volumes": volumes})


def stop_daemon(everything: bool) -> Call[None]:
    return post("/v1/daemon/stop", all=everything)


def events(since: float, until: float, follow: bool, given: Filters | None) -> Call[None]:
    return Call("GET", "/v1/events", None, filters(given, since=since, until=until, follow=follow))


# instances


def create(spec: InstanceSpec, start: bool) -> Call[InstanceView]:
    return Call("POST", "/v1/instances", InstanceView, {"start": start}, spec)


def list_instances(everything: bool, given: Filters | None) -> Call[tuple[InstanceView, ...]]:
    return Call("GET", "/v1/instances", tuple[InstanceView, ...], filters(given, all=everything))


def inspect(ref: str) -> Call[InstanceView]:
    return Call("GET", instance(ref), InstanceView)


def remove(ref: str, force: bool, volumes: bool) -> Call[None]:
    return Call("DELETE", instance(ref), None, {"force": force, "volumes": volumes})


def update(ref: str, resources: Resources | None, restart: str | None) -> Call[None]:
    return Call("POST", instance(ref, "update"), None, {}, {"resources": plain(resources), "restart": restart})


def wait(ref: str, condition: str) -> Call[ExitView]:
    return Call("POST", instance(ref, "wait"), ExitView, {"condition": condition})


def exec_detached(ref: str, process: Process) -> Call[None]:
    return Call("POST", instance(ref, "exec"), None, {}, process)


def logs(ref: str, follow: bool, span: tuple[float, float], tail: int | None) -> Call[None]:
    return Call("GET", instance(ref, "logs"), None, {"follow": follow, "since": span[0], "until": span[1], "tail": tail})


def stats(ref: str) -> Call[Stats]:
    return Call("GET", instance(ref, "stats"), Stats)


def top(ref: str) -> Call[tuple[dict[str, str], ...]]:
    return Call("GET", instance(ref, "top"), tuple[dict[str, str], ...])


def regions(ref: str) -> Call[tuple[Region, ...]]:
    return Call("GET", instance(ref, "regions"), tuple[Region, ...])


def diff(ref: str) -> Call[tuple[Change, ...]]:
    return Call("GET", instance(ref, "diff"), tuple[Change, ...])


def path_stat(ref: str, path: str) -> Call[PathStat]:
    return Call("GET", instance(ref, "path"), PathStat, {"path": path})


def commit(ref: str, tag: str, message: str, changes: Names) -> Call[ImageView]:
    return Call("POST", instance(ref, "commit"), ImageView, {"tag": tag, "message": message, "change": changes})


# images


def images(given: Filters | None) -> Call[tuple[ImageView, ...]]:
    return Call("GET", "/v1/images", tuple[ImageView, ...], filters(given))


def image(ref: str) -> Call[ImageView]:
    return Call("GET", "/v1/images/inspect", ImageView, {"ref": ref})


def image_history(ref: str) -> Call[tuple[dict[str, object], ...]]:
    return Call("GET", "/v1/images/history", tuple[dict[str, object], ...], {"ref": ref})


def image_build(spec: BuildSpec) -> Call[None]:
    return Call("POST", "/v1/images/build", None, {}, spec)


def image_bootstrap(spec: BootstrapSpec) -> Call[None]:
    return Call("POST", "/v1/images/bootstrap", None, {}, spec)


def image_pull(ref: str, tls_verify: bool) -> Call[None]:
    return post("/v1/images/pull", ref=ref, tls_verify=tls_verify)


def image_push(ref: str, destination: str, tls_verify: bool) -> Call[None]:
    return post("/v1/images/push", ref=ref, destination=destination, tls_verify=tls_verify)


def image_load() -> Call[Names]:
    return Call("POST", "/v1/images/load", Names)


def image_import(tag: str, changes: Names) -> Call[ImageView]:
    return Call("POST", "/v1/images/import", ImageView, {"tag": tag, "change": changes})


def image_remove(ref: str, force: bool) -> Call[Names]:
    return Call("DELETE", "/v1/images", Names, {"ref": ref, "force": force})


def image_prune(everything: bool) -> Call[Names]:
    return Call("POST", "/v1/images/prune", Names, {"all": everything})


# networks and volumes


def network_create(spec: NetworkSpec) -> Call[NetworkView]:
    return Call("POST", "/v1/networks", NetworkView, {}, spec)


def networks() -> Call[tuple[NetworkView, ...]]:
    return Call("GET", "/v1/networks", tuple[NetworkView, ...])


def network(ref: str) -> Call[NetworkView]:
    return Call("GET", f"/v1/networks/{quote(ref)}", NetworkView)


def network_remove(ref: str) -> Call[None]:
    return Call("DELETE", f"/v1/networks/{quote(ref)}")


def network_prune() -> Call[Names]:
    return Call("POST", "/v1/networks/prune", Names)


def volume_create(spec: VolumeSpec) -> Call[VolumeView]:
    return Call("POST", "/v1/volumes", VolumeView, {}, spec)


def volumes() -> Call[tuple[VolumeView, ...]]:
    return Call("GET", "/v1/volumes", tuple[VolumeView, ...])


def volume(name: str) -> Call[VolumeView]:
    return Call("GET", f"/v1/volumes/{quote(name)}", VolumeView)


def volume_remove(name: str, force: bool) -> Call[None]:
    return Call("DELETE", f"/v1/volumes/{quote(name)}", None, {"force": force})


def secret_create(name: str, replace: bool) -> Call[SecretView]:
    return Call("POST", "/v1/secrets", SecretView, {"name": name, "replace": replace})


def secrets() -> Call[tuple[SecretView, ...]]:
    return Call("GET", "/v1/secrets", tuple[SecretView, ...])


def secret(name: str) -> Call[SecretView]:
    return Call("GET", f"/v1/secrets/{quote(name)}", SecretView)


def secret_remove(name: str, force: bool) -> Call[None]:
    return Call("DELETE", f"/v1/secrets/{quote(name)}", None, {"force": force})


def snapshot_create(ref: str) -> Call[SnapshotView]:
    return Call("POST", "/v1/snapshots", SnapshotView, {}, {"instance": ref})


def snapshots() -> Call[tuple[SnapshotView, ...]]:
    return Call("GET", "/v1/snapshots", tuple[SnapshotView, ...])


def snapshot_remove(key: str) -> Call[None]:
    return Call("DELETE", f"/v1/snapshots/{quote(key)}", None)


def volume_prune(everything: bool) -> Call[Names]:
    return Call("POST", "/v1/volumes/prune", Names, {"all": everything})


# applications


def app(name: str, *rest: str) -> str:
    """The path of an application, or of something below it."""
    return "/".join(["/v1/apps", quote(name), *rest])


def apps() -> Call[tuple[AppView, ...]]:
    return Call("GET", "/v1/apps", tuple[AppView, ...])


def app_up(spec: AppSpec, options: UpOptions) -> Call[AppView]:
    return Call("PUT", app(spec.name), AppView, _up(options), spec)


def app_plan(spec: AppSpec, options: UpOptions) -> Call[tuple[Step, ...]]:
    return Call("POST", app(spec.name, "plan"), tuple[Step, ...], _up(options), spec)


def _up(options: UpOptions) -> dict[str, Any]:
    return {
        "cause": options.cause,
        "remove_orphans": options.remove_orphans,
        "service": options.services,
        "recreate": options.recreate,
        "renew_volumes": options.renew_volumes,
        "no_deps": options.no_deps,
        "one_off": options.one_off,
    }


def app_view(name: str) -> Call[AppView]:
    return Call("GET", app(name), AppView)


def app_spec(name: str) -> Call[AppSpec]:
    return Call("GET", app(name, "spec"), AppSpec)


def app_down(name: str, volumes: bool, timeout: float | None) -> Call[tuple[str, ...]]:
    return Call("DELETE", app(name), tuple[str, ...], {"volumes": volumes, "timeout": timeout})


def app_watch(name: str) -> Call[None]:
    return Call("GET", app(name, "watch"))


def app_of(entry: Any) -> AppView:
    """From an entry of an application's stream."""
    found: AppView = read(AppView, entry)
    return found


def app_scale(name: str, counts: Mapping[str, int]) -> Call[AppView]:
    return Call("POST", app(name, "scale"), AppView, {}, dict(counts))


def app_scale_explain(name: str, service: str) -> Call[ScaleView]:
    return Call("GET", app(name, "services", quote(service), "scale"), ScaleView)


def app_change(name: str, change: str, services: Names, **query: Any) -> Call[AppView]:
    """change: start, stop, restart or rollout."""
    return Call("POST", app(name, change), AppView, {"service": services, **query})


def app_history(name: str) -> Call[tuple[RevisionView, ...]]:
    return Call("GET", app(name, "revisions"), tuple[RevisionView, ...])


def app_rollback(name: str, revision: int) -> Call[AppView]:
    return Call("POST", app(name, "rollback"), AppView, {"revision": revision})


def app_isolate(name: str, service: str, runtime: str) -> Call[AppView]:
    return Call("POST", app(name, "isolate"), AppView, {"service": service, "runtime": runtime})


def app_one_off(spec: AppSpec, service: str) -> Call[InstanceSpec]:
    return Call("POST", app(spec.name, "services", quote(service), "one-off"), InstanceSpec, {}, spec)
