"""One interface for every hull.

The engine (`engine/local.py`) resolves everything that is the same for all runtimes into a `Launch`, and the factory
(`instance/factory.py`, the only place that looks at the runtime word) returns an `Instance`. Laws:

- Workloads outlive the daemon. `adopt` on a new object, given the same Launch, takes a survivor over.
- `create` makes everything but doesn't run the workload's first instruction; `start` does. Output that comes after `start` is never lost.
- `delete` is idempotent, works from any state, also after a half-done `create`, and leaves nothing that this module made
  (process, mount, cgroup, file below `Paths.run`); the writable layer below `Paths.state` goes only with `delete(purge=True)`.
- Every method may be cancelled and then leaves something `delete` can clean up.
- What comes out of the instance is hostile: bounded, checked, never trusted as a path.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from twinhull.errors import UnsupportedError
from twinhull.spec.instance import Resources, Security, Ulimit

STDOUT, STDERR = 1, 2


class RootKind(StrEnum):
    """What a runtime boots from: overlay over the layers' folders, or one erofs file."""

    LAYERS = "layers"
    EROFS = "erofs"


class PortKind(StrEnum):
    """How the network and a runtime meet: in a namespace that is ready beforehand, in one that the runtime makes in `create` (it then
    belongs to the instance's user namespace, where NET_ADMIN and NET_RAW count), or by one tap descriptor per interface."""

    NETNS = "netns"
    OWN_NETNS = "own-netns"
    TAP = "tap"


@dataclass(frozen=True, slots=True)
class Traits:
    """What a runtime needs and can't do; the table in SPECIFICATION.md is made from this."""

    root: RootKind
    port: PortKind
    host_network: bool
    pause: bool
    reasons: dict[str, str]
    """feature → why this runtime refuses it (at creation)."""


@dataclass(frozen=True, slots=True)
class Process:
    """A program to run inside. `user` is resolved inside the root: "", "name", "uid", "uid:gid", "name:group"."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    user: str = ""
    tty: bool = False
    stdin: bool = False
    rows: int = 24
    cols: int = 80
    privileged: bool = False


@dataclass(frozen=True, slots=True)
class HostMount:
    """A resolved mount: `source` None is a tmpfs. Sources exist; files are bound as files."""

    target: str
    source: Path | None
    read_only: bool = False
    tmpfs_size: int = 0
    tmpfs_mode: int = 0o1777


@dataclass(frozen=True, slots=True)
class InjectedFile:
    """A file put into the instance from memory (/etc/hosts …); not part of the writable layer, and if secret never on the host's disk."""

    target: str
    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    secret: bool = False
    read_only: bool = False

    def __repr__(self) -> str:
        return f"InjectedFile({self.target!r}, {len(self.content)} bytes)"


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface as seen inside: /32 (or /128) address, on-link route to the gateway, default route only if `default`."""

    ifname: str
    mac: str
    address: str
    gateway: str
    mtu: int
    default: bool
    address6: str = ""
    gateway6: str = ""
    routes: tuple[str, ...] = ()
    """Further subnets (CIDR) reached through `gateway`."""


@dataclass(frozen=True, slots=True)
class Root:
    """The image's root: `layers` topmost first, or the erofs file."""

    image_id: str
    layers: tuple[Path, ...] = ()
    erofs: Path | None = None


@dataclass(frozen=True, slots=True)
class Paths:
    """`state`: upper/, work/, scratch.img, log — kept between starts. `run`: sockets, pid files, bundle — one start's."""

    state: Path
    run: Path

    @property
    def log(self) -> Path:
        """The current log in k8s-file (CRI) format; rotated ones are log.1 (newest), log.2 …"""
        return self.state / "log"


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything one instance needs; the same for all runtimes."""

    id: str
    name: str
    paths: Paths
    root: Root
    process: Process
    hostname: str
    mounts: tuple[HostMount, ...]
    files: tuple[InjectedFile, ...]
    interfaces: tuple[Interface, ...]
    resources: Resources
    security: Security
    ulimits: tuple[Ulimit, ...]
    sysctls: dict[str, str]
    shm_size: int
    init: bool
    id_base: int
    """First host uid and gid of this instance's 65,536 (user namespace); also the owner of the VM's process."""
    cgroup: str
    """Path below each controller's root, e.g. "twinhull-1a2b3/0123456789ab"."""
    log_max_size: int
    log_max_files: int
    netns: str | None = None
    """Path of a network namespace that is ready (PortKind.NETNS); None: one of its own with loopback only, or the host's."""
    host_network: bool = False
    taps: tuple[int, ...] = ()
    """One tap descriptor per interface (PortKind.TAP); the instance passes them on and closes them."""
    reconnect: bool = False
    """Whether its workload bears it that volumes and secrets are mounted anew under it, as a snapshot needs it."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How the workload ended. `code`: as a shell says it (128 + signal). `at`: seconds since the epoch."""

    code: int
    at: float
    oom: bool = False
    reason: str = ""
    """"" for an ordinary exit, else what happened: "oom", "vmm-lost", "start-failed: …"."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Since start; bytes and nanoseconds. `inside` only where the guest has its own view (VM); `host_*` is what it costs out here."""

    cpu_ns: int
    memory: int
    memory_limit: int
    pids: int
    net_rx: int
    net_tx: int
    block_read: int
    block_write: int
    host_cpu_ns: int = 0
    host_memory: int = 0


@dataclass(frozen=True, slots=True)
class Region:
    """Addresses that a device of the machine monitor answers. `space`: "memory" or "ports"; `size` in bytes."""

    space: str
    start: int
    size: int
    name: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """One record of a log. `at`: seconds since the epoch; `data` ends with a newline unless the record is partial."""

    at: float
    stream: int
    data: bytes


class Session(abc.ABC):
    """One attached process's streams: an exec, or the workload itself."""

    @abc.abstractmethod
    async def send(self, data: bytes) -> None:
        """stdin, with back-pressure. Dropped silently once the process has closed it."""

    @abc.abstractmethod
    async def close_stdin(self) -> None:
        """End of file on stdin."""

    @abc.abstractmethod
    async def resize(self, rows: int, cols: int) -> None:
        """The terminal's new size; nothing without a TTY."""

    @abc.abstractmethod
    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """(STDOUT|STDERR, data) until both are closed; complete and in order per stream, with back-pressure on the writer."""

    @abc.abstractmethod
    async def wait(self) -> int:
        """Exit code, after all output has been delivered to `output`."""

    @abc.abstractmethod
    async def signal(self, number: int) -> None:
        """A signal to the process."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Detach. An exec's process is ended (its reader is gone); the workload is left running."""


class Instance(abc.ABC):
    """A container, sandbox or VM. See the module's laws."""

    traits: Traits

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    @abc.abstractmethod
    async def create(self) -> None:
        """Make it. Raises CannotRunError (126/127) for a missing or unrunnable program, UserError for an unknown user."""

    def network_namespace(self) -> int:
        """A descriptor of the namespace that `create` made (PortKind.OWN_NETNS); the caller closes it."""
        raise NotImplementedError(f"{type(self).__name__} makes no network namespace")

    @abc.abstractmethod
    async def start(self) -> None:
        """Run the workload. May raise CannotRunError like `create`."""

    @abc.abstractmethod
    async def adopt(self) -> bool:
        """Take over after a daemon restart. True: it runs, or its Exit waits in `wait`. False: nothing is left, or it was never started."""

    @abc.abstractmethod
    async def wait(self) -> Exit:
        """The workload's end. Any number of waiters; returns at once afterwards."""

    @abc.abstractmethod
    async def signal(self, number: int) -> None:
        """To PID 1 of the workload. KILL always works (it may end the VM's process)."""

    @abc.abstractmethod
    async def exec(self, process: Process) -> Session:
        """Another program in the same root, namespaces and limits. Raises CannotRunError 126/127."""

    @abc.abstractmethod
    async def attach(self) -> Session:
        """The workload's own streams; called between create and start no byte is missed."""

    @abc.abstractmethod
    async def stats(self) -> Stats:
        """Present use."""

    @abc.abstractmethod
    async def pause(self) -> None:
        """Freeze all processes."""

    @abc.abstractmethod
    async def resume(self) -> None:
        """Thaw."""

    @abc.abstractmethod
    async def update(self, resources: Resources) -> None:
        """New limits on the running instance. Raises UnsupportedError for what can't change live."""

    @abc.abstractmethod
    async def rotate_log(self) -> None:
        """Rotate now if the log is over its size; called by the daemon now and then."""

    @abc.abstractmethod
    async def top(self) -> list[dict[str, str]]:
        """Processes inside: keys PID (inside), USER, TIME, COMMAND."""

    @abc.abstractmethod
    async def tool(self, *argv: str) -> Session:
        """Run the agent's own file tools inside as root (see agent/README.md): tar-out PATH, tar-in PATH, stat PATH, diff, layer.

        `diff` and `layer` read the writable layer itself.
        """

    async def capture(self, store: Any, about: Any) -> None:
        """Make a snapshot of its application, warm as it is (instance/vm/snapshots.py). Raises UnsupportedError where the hull can't."""
        raise UnsupportedError(f"a snapshot can't be made here: {self.traits.reasons.get('snapshot', 'the hull has no such thing')}")

    async def regions(self) -> tuple[Region, ...]:
        """What devices are emulated towards it (`compare` counts them). Raises UnsupportedError where none are."""
        raise UnsupportedError("no devices are emulated towards it: those it sees are its kernel's")

    @abc.abstractmethod
    async def delete(self, *, purge: bool = False) -> None:
        """End it by force and remove what it made; with purge also its writable layer and log."""
