"""What an instance is asked to be: the body of `POST /v1/instances`, and what the database keeps.

Pure data in the field's standard terms. Defaults are Docker's unless hardening says otherwise. Frozen dataclasses;
pydantic's TypeAdapter reads and writes them at the boundary (unknown keys are refused there).
Sizes are bytes, times are seconds, identifiers are lower-case hexadecimal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

_RUNTIME_WORDS = {
    "container": "container",
    "runc": "container",
    "crun": "container",
    "sandbox": "sandbox",
    "runsc": "sandbox",
    "vm": "vm",
    "krun": "vm",
}


class Runtime(StrEnum):
    """The hull an instance runs in."""

    CONTAINER = "container"
    SANDBOX = "sandbox"
    VM = "vm"

    @classmethod
    def parse(cls, word: str) -> Runtime:
        """From any word users have for it (runc, crun, runsc, kata*, krun). Raises ValueError."""
        if word.startswith("kata"):
            return cls.VM
        try:
            return cls(_RUNTIME_WORDS[word])
        except KeyError:
            raise ValueError(f"unknown runtime {word!r}: use container, sandbox or vm") from None


class NetworkMode(StrEnum):
    """`bridge`: the networks listed; `none`: loopback only; `host`: the daemon's network namespace."""

    BRIDGE = "bridge"
    NONE = "none"
    HOST = "host"


class MountType(StrEnum):
    """As in `--mount type=`."""

    BIND = "bind"
    VOLUME = "volume"
    TMPFS = "tmpfs"


class RestartWhen(StrEnum):
    """As in `--restart`."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """One interface: the network's name, extra DNS names, and an address asked for ("" = any)."""

    network: str
    aliases: tuple[str, ...] = ()
    address: str = ""
    mac: str = ""


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A published port. `host_port` 0: any free one. `host_ip` "": all addresses. `protocol`: tcp or udp."""

    container_port: int
    host_port: int = 0
    host_ip: str = ""
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class MountSpec:
    """A bind (source: absolute host path), a volume (source: name, "" = anonymous) or a tmpfs (size, mode)."""

    type: MountType
    target: str
    source: str = ""
    read_only: bool = False
    subpath: str = ""
    no_copy: bool = False
    tmpfs_size: int = 0
    tmpfs_mode: int = 0o1777


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A secret or config placed as a file. `source`: absolute path here, read at start; `content`: configs only."""

    target: str
    source: str = ""
    content: str = ""
    uid: int = 0
    gid: int = 0
    mode: int = 0o444
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits; 0 is "no limit" for containers and the default size for VMs."""

    cpus: float = 0.0
    cpu_shares: int = 0
    cpuset: str = ""
    memory: int = 0
    memory_swap: int = 0
    """memory plus swap, as in Docker; 0: no swap beyond the memory limit."""
    pids: int = 0
    read_bps: int = 0
    write_bps: int = 0
    read_iops: int = 0
    write_iops: int = 0


@dataclass(frozen=True, slots=True)
class Security:
    """What hardening is loosened or tightened. seccomp: "default", "unconfined", or a profile's JSON text."""

    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    read_only: bool = False
    no_new_privileges: bool = True
    seccomp: str = "default"
    privileged: bool = False


@dataclass(frozen=True, slots=True)
class Ulimit:
    """One rlimit by its lower-case name (nofile, nproc, core …)."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`max_retries` counts for on-failure only; 0 is without end."""

    when: RestartWhen = RestartWhen.NO
    max_retries: int = 0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """`test` as in an image config: ("NONE",), ("CMD", …) or ("CMD-SHELL", "…")."""

    test: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    start_interval: float = 5.0


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Rotation: a file is closed at `max_size` bytes, and `max_files` are kept; 0: as the daemon is configured."""

    max_size: int = 0
    max_files: int = 0


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """All of `twinhull run`'s flags. None or "" leaves it to the image."""

    image: str
    name: str = ""
    runtime: Runtime = Runtime.CONTAINER
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    """"KEY=value" each."""
    user: str = ""
    workdir: str = ""
    hostname: str = ""
    tty: bool = False
    stdin: bool = False
    init: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    network_mode: NetworkMode = NetworkMode.BRIDGE
    networks: tuple[NetworkAttachment, ...] = ()
    """Empty with mode bridge: the network "default"."""
    ports: tuple[PortMapping, ...] = ()
    mounts: tuple[MountSpec, ...] = ()
    files: tuple[FileSpec, ...] = ()
    resources: Resources = Resources()
    security: Security = Security()
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    """"name:address" each; address may be "host-gateway"."""
    shm_size: int = 64 * 1024 * 1024
    stop_signal: str = ""
    stop_timeout: float = 10.0
    restart: RestartPolicy = RestartPolicy()
    health: HealthCheck | None = None
    """None: the image's own."""
    logging: LogOptions = LogOptions()
    auto_remove: bool = False
    snapshot: str = ""
    """"" or "app": go on from a snapshot of the same application, warm, if there is one; else let one be made."""
    snapshot_reconnect: bool = False
    """The application bears it that its volumes and secrets are others after a snapshot: it may have them, and opens them anew."""
