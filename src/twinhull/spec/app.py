"""What an application is asked to be: a compose file after interpolation, merging, defaults and validation.

Pure data, the boundary between the file (twinhull.compose) and everything that acts on it (plan, engine, gateway). Names of networks and
volumes are the engine's own (`APP_default`), so that nothing below needs to know of compose's prefixes. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

from twinhull.spec.instance import InstanceSpec, PortMapping

if TYPE_CHECKING:
    from pydantic import TypeAdapter

APP_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
SLOT_LABEL = "com.docker.compose.container-number"
FINGERPRINT_LABEL = "com.docker.compose.config-hash"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
"""Compose's own labels, so that tools which know compose find our instances too."""


class Condition(StrEnum):
    """When a dependency counts as met (`depends_on.condition`)."""

    STARTED = "service_started"
    HEALTHY = "service_healthy"
    COMPLETED = "service_completed_successfully"


class UpdateOrder(StrEnum):
    """`update_config.order`."""

    START_FIRST = "start-first"
    STOP_FIRST = "stop-first"


class FailureAction(StrEnum):
    """`update_config.failure_action`."""

    CONTINUE = "continue"
    PAUSE = "pause"
    ROLLBACK = "rollback"


class Strategy(StrEnum):
    """`x-twinhull.rollout.strategy`."""

    ROLLING = "rolling"
    BLUE_GREEN = "blue-green"
    CANARY = "canary"


@dataclass(frozen=True, slots=True)
class Dependency:
    """One entry of `depends_on`. `restart`: the dependant restarts when this service is replaced."""

    service: str
    condition: Condition = Condition.STARTED
    restart: bool = False
    required: bool = True


@dataclass(frozen=True, slots=True)
class UpdatePolicy:
    """`update_config` and `rollback_config`. parallelism 0: all at once. monitor: seconds in which a new instance may still fail.

    Where the file says nothing: one at a time, start-first (stop-first for a service that writes to a volume), rollback on failure.
    """

    parallelism: int = 1
    delay: float = 0.0
    monitor: float = 5.0
    failure_action: FailureAction = FailureAction.ROLLBACK
    max_failure_ratio: float = 0.0
    order: UpdateOrder = UpdateOrder.START_FIRST


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """`x-twinhull.rollout`. steps: percent of traffic for the new revision, rising; interval: seconds at each step."""

    strategy: Strategy = Strategy.ROLLING
    steps: tuple[int, ...] = ()
    interval: float = 30.0


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """`x-twinhull.route`: how the gateway leads to the service.

    host: exact, or "*.example.org"; "" any. path: a prefix of whole segments. port 0: the service's only exposed port.
    protocol: http (1.1, WebSocket and h2 from the client), h2c (gRPC: HTTP/2 to the service too), tcp (by SNI, not decrypted).
    tls: "" none, "acme", "own" (a certificate under the daemon's config folder), "passthrough" (tcp only).
    rate_limit: requests per second and client address, 0 none. auth: name of a sign-on policy, "" none.
    """

    host: str = ""
    path: str = "/"
    port: int = 0
    protocol: str = "http"
    strip: bool = False
    request_headers: dict[str, str] = field(default_factory=dict)
    response_headers: dict[str, str] = field(default_factory=dict)
    rate_limit: float = 0.0
    auth: str = ""
    tls: str = ""
    timeout: float = 60.0
    max_concurrency: int = 0
    """Requests at once per instance; more wait in the gateway's queue. 0: no limit."""


@dataclass(frozen=True, slots=True)
class ScaleTarget:
    """One of `x-twinhull.scale.target`. kind: concurrency, rps, p95 (seconds), cpu (%), memory (%), queue, query.

    source: URL and name of a queue or query.
    """

    kind: str
    value: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Schedule:
    """`x-twinhull.scale.schedule`: from each time of `cron` in `timezone` on, at least `min` instances for `duration` seconds."""

    cron: str
    min: int
    duration: float
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """`x-twinhull.scale`. Rates: factor of change per minute, 0 unbounded."""

    min: int = 1
    max: int = 1
    targets: tuple[ScaleTarget, ...] = ()
    window: float = 60.0
    panic_window: float = 6.0
    scale_down_delay: float = 30.0
    rate_up: float = 0.0
    rate_down: float = 0.0
    schedules: tuple[Schedule, ...] = ()
    max_concurrency: int = 0
    keep_warm: int = 0
    priority: int = 0
    auto_resources: bool = False


@dataclass(frozen=True, slots=True)
class Hook:
    """`post_start`, `pre_stop`: a command inside the instance."""

    command: tuple[str, ...]
    user: str = ""
    workdir: str = ""
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchRule:
    """One rule of `develop.watch`. action: sync, rebuild, restart, sync+restart, sync+exec. path: absolute."""

    path: str
    action: str
    target: str = ""
    ignore: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exec: Hook | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """`build`. context: absolute folder or URL; dockerfile: path relative to it; inline: the text instead. secrets: id → absolute file."""

    context: str
    dockerfile: str = ""
    inline: str = ""
    target: str = ""
    args: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    no_cache: bool = False
    pull: bool = False


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service. `template` is what each of its instances is made from: its name and `ports` are empty (they are the service's)."""

    name: str
    template: InstanceSpec
    replicas: int = 1
    job: bool = False
    """Runs to completion (`deploy.mode: replicated-job` or `restart: no` with a dependant that waits for its completion)."""
    ports: tuple[PortMapping, ...] = ()
    """On this machine's addresses, balanced over the healthy instances."""
    expose: tuple[int, ...] = ()
    """TCP ports inside, from `expose`, `ports` and the image."""
    depends_on: tuple[Dependency, ...] = ()
    build: Build | None = None
    pull_policy: str = "missing"
    update: UpdatePolicy = UpdatePolicy()
    rollback: UpdatePolicy = UpdatePolicy()
    rollout: RolloutSpec = RolloutSpec()
    routes: tuple[RouteSpec, ...] = ()
    scale: ScaleSpec | None = None
    dnsrr: bool = False
    """`deploy.endpoint_mode: dnsrr`: the name gives the instances' addresses instead of the virtual one."""
    post_start: tuple[Hook, ...] = ()
    pre_stop: tuple[Hook, ...] = ()
    watch: tuple[WatchRule, ...] = ()
    container_name: str = ""
    attach: bool = True
    generation: int = 0
    """Of its anonymous volumes: the revision that began anew with them, 0 the first. The engine's to fill."""

    @property
    def stateful(self) -> bool:
        """Whether two instances at once could write to the same volume or folder: it is replaced in place."""
        return any(mount.type.value != "tmpfs" and not mount.read_only for mount in self.template.mounts)


@dataclass(frozen=True, slots=True)
class AppNetwork:
    """A network the app uses, by the engine's name. external: it must be there already and is never removed."""

    name: str
    external: bool = False
    internal: bool = False
    subnet: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AppVolume:
    """A named volume the app uses, by the engine's name. driver: local or tmpfs."""

    name: str
    external: bool = False
    driver: str = "local"
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Note:
    """Something in the file that can't be honoured as written. fatal: it would change the meaning, so `up` refuses."""

    where: str
    """"FILE:LINE"."""
    key: str
    text: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class AppSpec:
    """An application. Services in an order in which each comes after its dependencies; networks and volumes by the engine's names."""

    name: str
    services: dict[str, ServiceSpec] = field(default_factory=dict)
    networks: dict[str, AppNetwork] = field(default_factory=dict)
    volumes: dict[str, AppVolume] = field(default_factory=dict)
    folder: str = ""
    notes: tuple[Note, ...] = ()
    secret_values: dict[str, str] = field(default_factory=dict, repr=False)
    """Secrets given by environment, for files whose source is "secret:NAME". A name that isn't here is an external secret.

    The engine keeps them apart from the record, and never shows them.
    """
    host_paths: tuple[str, ...] = ()
    """Absolute paths of bind mounts that `up` makes as folders where nothing is there (`create_host_path`, the default)."""


@cache
def _template_adapter() -> TypeAdapter[InstanceSpec]:
    """Made when it is needed: pydantic takes longer to load (80 ms) than a compose file of a hundred services."""
    from pydantic import TypeAdapter

    return TypeAdapter(InstanceSpec)


def fingerprint(service: ServiceSpec, image_id: str) -> str:
    """Twelve hexadecimal digits that change whenever an instance made before has to be replaced."""
    digest = hashlib.sha256(_template_adapter().dump_json(service.template))
    digest.update(image_id.encode())
    return digest.hexdigest()[:12]
