"""What a guest is told to be: pure, from a Launch to the records of CONFIG (agent/PROTOCOL.md).

Invariant: mounts reach the guest outer before inner, files after all mounts, whatever order the Launch has them in.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from twinhull.errors import UserError
from twinhull.instance.base import HostMount, InjectedFile, Interface, Launch, Process
from twinhull.instance.vm.frames import record
from twinhull.spec.instance import Resources, Ulimit

ALL_CAPABILITIES = (1 << 41) - 1
"""CAP_CHOWN (0) to CAP_CHECKPOINT_RESTORE (40)."""
MAX_FILE = 1024 * 1024
_PERIOD = 100_000
_RLIMITS = {
    "cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7,
    "memlock": 8, "as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14, "rttime": 15,
}  # fmt: skip
_SYSCTLS = {"net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0"}
"""As Docker sets them in a network namespace: ping and low ports without privileges."""

_TTY, _STDIN, _TOOL, _HOST_SIDE, _PRIVILEGED, _INIT = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """All of CONFIG. `caps`: bounding set as a mask; `seccomp`: array of struct sock_filter; `volumes`: target → subfolder's number."""

    process: Process
    init: bool
    hostname: str
    read_only: bool
    unmasked: bool
    no_new_privileges: bool
    caps: int
    seccomp: bytes
    resources: Resources
    rlimits: tuple[Ulimit, ...]
    sysctls: tuple[tuple[str, str], ...]
    mounts: tuple[HostMount, ...]
    volumes: Mapping[str, int]
    files: tuple[InjectedFile, ...]
    interfaces: tuple[Interface, ...]
    shm_size: int
    volume_options: str = ""


def guest_config(launch: Launch, *, volumes: Mapping[str, int], seccomp: bytes, caps: int, volume_options: str = "") -> GuestConfig:
    """The guest of a Launch. `volumes` has a number for the target of every mount with a source. Raises UserError."""
    privileged = launch.security.privileged
    return GuestConfig(
        process=launch.process,
        init=launch.init,
        hostname=launch.hostname,
        read_only=launch.security.read_only,
        unmasked=privileged,
        no_new_privileges=launch.security.no_new_privileges and not privileged,
        caps=ALL_CAPABILITIES if privileged else caps,
        seccomp=b"" if privileged else seccomp,
        resources=launch.resources,
        rlimits=launch.ulimits,
        sysctls=tuple((_SYSCTLS | launch.sysctls).items()),
        mounts=tuple(sorted(launch.mounts, key=_depth)),
        volumes=volumes,
        files=launch.files,
        interfaces=launch.interfaces,
        shm_size=launch.shm_size,
        volume_options=volume_options,
    )


def _depth(mount: HostMount) -> int:
    return len([part for part in mount.target.split("/") if part])


def encode_config(config: GuestConfig) -> bytes:
    """The records of CONFIG."""
    options = config.read_only * 1 | config.unmasked * 2 | config.no_new_privileges * 4
    parts = [
        encode_process(config.process, init=config.init),
        record(16, _text(config.hostname)),
        record(17, struct.pack("<I", options)),
        record(18, struct.pack("<Q", config.caps)),
        *(record(19, _rlimit(limit)) for limit in config.rlimits),
        *(record(20, _text(f"{name}={value}")) for name, value in config.sysctls),
        record(21, config.seccomp),
        encode_resources(config.resources),
        *([record(26, _text(config.volume_options))] if config.volume_options else []),
        *(_mount(mount, config.volumes) for mount in config.mounts),
        *(record(23, _file(file)) for file in config.files),
        *(record(27, _interface(interface)) for interface in config.interfaces),
        record(28, struct.pack("<Q", config.shm_size)),
    ]
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class GuestIdentity:
    """All of RESUME: what a workload that was saved gets for its own. `files`: new contents of files it has already."""

    hostname: str
    files: tuple[InjectedFile, ...]
    interfaces: tuple[Interface, ...]


RESUMED = "/run/twinhull/resumed"
"""Empty until its instance went on from a snapshot; then a JSON object: at (seconds since the epoch), id, hostname, addresses."""
BOOT_ID = "/proc/sys/kernel/random/boot_id"
_IDENTITY = frozenset(("/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/etc/machine-id", RESUMED, BOOT_ID))


def guest_identity(launch: Launch) -> GuestIdentity:
    """What a Launch has for its own: name, addresses, and the files that tell them."""
    return GuestIdentity(launch.hostname, tuple(file for file in launch.files if file.target in _IDENTITY), launch.interfaces)


def encode_identity(identity: GuestIdentity) -> bytes:
    """The records of RESUME."""
    parts = [
        record(1, b"resume"),
        record(16, _text(identity.hostname)),
        *(record(23, _file(file)) for file in identity.files),
        *(record(27, _interface(interface)) for interface in identity.interfaces),
    ]
    return b"".join(parts)


def encode_process(process: Process, *, init: bool = False, tool: bool = False, host_side: bool = False) -> bytes:
    """The process records of CONFIG and EXEC. Raises UserError for what no kernel would take."""
    if not process.argv or not process.argv[0]:
        raise UserError("no command given")
    flags = (
        process.tty * _TTY
        | process.stdin * _STDIN
        | tool * _TOOL
        | host_side * _HOST_SIDE
        | process.privileged * _PRIVILEGED
        | init * _INIT
    )
    return b"".join(
        (
            *(record(1, _text(argument)) for argument in process.argv),
            *(record(2, _text(variable)) for variable in process.env),
            record(3, _text(process.cwd)),
            record(4, _text(process.user)),
            record(5, struct.pack("<I", flags)),
            record(6, terminal_size(process.rows, process.cols)),
        )
    )


def encode_resources(resources: Resources) -> bytes:
    """The RESOURCES record; the CPU weight is made from Docker's shares (1024 → 39) as runc makes it."""
    quota = round(resources.cpus * _PERIOD)
    shares = resources.cpu_shares
    weight = 1 + (min(max(shares, 2), 262_144) - 2) * 9999 // 262_142 if shares else 0
    pids = max(resources.pids, 0)
    return record(22, struct.pack("<QQIII", max(resources.memory, 0), pids, weight, max(quota, 0), _PERIOD))


def terminal_size(rows: int, cols: int) -> bytes:
    """A TTY's size as on the wire. Raises UserError outside 0–65,535."""
    if not (0 <= rows <= 0xFFFF and 0 <= cols <= 0xFFFF):
        raise UserError(f"terminal size {rows} × {cols}: both must be 0 to 65535")
    return struct.pack("<HH", rows, cols)


def _rlimit(limit: Ulimit) -> bytes:
    try:
        number = _RLIMITS[limit.name]
    except KeyError:
        raise UserError(f"ulimit {limit.name}: unknown", f"known are {', '.join(sorted(_RLIMITS))}") from None
    infinity = (1 << 64) - 1
    soft, hard = (infinity if value < 0 else value for value in (limit.soft, limit.hard))
    if soft > hard:
        raise UserError(f"ulimit {limit.name}: the soft limit {limit.soft} is above the hard limit {limit.hard}")
    return struct.pack("<IQQ", number, soft, hard)


def _mount(mount: HostMount, volumes: Mapping[str, int]) -> bytes:
    target = _text(mount.target)
    if mount.source is None:
        return record(24, struct.pack("<QI", mount.tmpfs_size, mount.tmpfs_mode) + target)
    return record(25, struct.pack("<II", volumes[mount.target], mount.read_only) + target)


def _file(file: InjectedFile) -> bytes:
    if len(file.content) > MAX_FILE:
        raise UserError(f"file {file.target}: {len(file.content)} bytes are above the limit of {MAX_FILE}")
    target = _text(file.target)
    flags = file.read_only * 1 | file.secret * 2
    return struct.pack("<IIIIH", file.mode, file.uid, file.gid, flags, len(target)) + target + file.content


def _interface(interface: Interface) -> bytes:
    mac = bytes.fromhex(interface.mac.replace(":", ""))
    texts = [interface.ifname, interface.address, interface.gateway, interface.address6, interface.gateway6]
    return mac + struct.pack("<BI", interface.default, interface.mtu) + b"".join(_terminated(_without_prefix(texts), interface.routes))


def _without_prefix(texts: Iterable[str]) -> list[str]:
    """Addresses are hosts inside (/32, /128), with or without it being said."""
    return [text.partition("/")[0] for text in texts]


def _terminated(*groups: Iterable[str]) -> Iterator[bytes]:
    for group in groups:
        for text in group:
            yield _text(text) + b"\0"


def _text(value: str) -> bytes:
    raw = os.fsencode(value)
    if b"\0" in raw:
        raise UserError(f"{value[:40]!r}: a NUL can't be passed on")
    return raw
