"""The OCI runtime configuration of one instance: Launch → config.json. Pure; compared whole in golden tests.

Everything that depends on the machine comes in as `Host`, everything that was mounted or written beforehand as `Stage`.
Called by `container.py` and `sandbox.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinhull.errors import UserError
from twinhull.instance import capabilities, seccomp
from twinhull.instance.base import HostMount, Launch, Process
from twinhull.instance.users import Identity
from twinhull.spec.instance import Resources, Ulimit
from twinhull.sys.cgroup import PERIOD_US, swap_limit
from twinhull.sys.namespaces import IDS

AGENT = "/run/twinhull/agent"
"""Where the agent's binary is seen inside, read-only."""
_VERSION = "1.0.2"
_INFINITY = 2**64 - 1

_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_RLIMITS = frozenset("as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split())
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


@dataclass(frozen=True, slots=True)
class Device:
    """A host device for a privileged instance. kind: "c" or "b"."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Host:
    """Facts of this machine. hard_limits: rlimit name → hard limit of the daemon, -1 is none. capabilities: the daemon's bounding set."""

    hard_limits: dict[str, int] = field(default_factory=dict)
    capabilities: int = (1 << 41) - 1
    swap_accounting: bool = True
    disk: tuple[int, int] | None = None
    machine: str = "x86_64"
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Bind:
    """Something staged on the host that appears at `target`."""

    target: str
    source: Path
    read_only: bool = False
    executable: bool = True


@dataclass(frozen=True, slots=True)
class Stage:
    """What is ready on the host: the root, and what is bound into it. sysfs None: the runtime mounts its own."""

    root: Path
    binds: tuple[Bind, ...] = ()
    sysfs: Path | None = None


def has_user_namespace(launch: Launch) -> bool:
    """Always, but for privileged instances (they are the host's root, as in Docker) and an id_base of 0."""
    return launch.id_base != 0 and not launch.security.privileged


def config(launch: Launch, identity: Identity, stage: Stage, host: Host) -> dict[str, Any]:
    """The whole config.json. Raises UserError for what can't be granted."""
    return {
        "ociVersion": _VERSION,
        "process": process(launch, launch.process, identity, host),
        "root": {"path": str(stage.root), "readonly": launch.security.read_only},
        "hostname": launch.hostname,
        "mounts": _mounts(launch, stage),
        "linux": _linux(launch, host),
    }


def process(launch: Launch, wanted: Process, identity: Identity, host: Host) -> dict[str, Any]:
    """The `process` object, for the workload and for each exec."""
    if has_user_namespace(launch) and max(identity.uid, identity.gid, *identity.groups, 0) >= IDS:
        raise UserError(f"user {wanted.user}: ids above {IDS - 1} don't exist in this instance", "use a uid and gid below 65536")
    security = launch.security
    granted = list(capabilities.ALL if wanted.privileged else capabilities.effective(security, host.capabilities))
    granted = [name for name in granted if host.capabilities >> capabilities.ALL.index(name) & 1]
    result: dict[str, Any] = {
        "terminal": wanted.tty,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": list(identity.groups)},
        "args": list(wanted.argv),
        "env": list(wanted.env),
        "cwd": wanted.cwd or "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), granted),
        "rlimits": [_rlimit(limit, host) for limit in launch.ulimits],
        "noNewPrivileges": security.no_new_privileges and not security.privileged and not wanted.privileged,
    }
    if wanted.tty:
        result["consoleSize"] = {"height": wanted.rows, "width": wanted.cols}
    return result


def argv(launch: Launch) -> tuple[str, ...]:
    """The workload's argv, below the agent's init if asked for."""
    return (AGENT, "init", "--", *launch.process.argv) if launch.init else launch.process.argv


def network_sysctls(launch: Launch) -> dict[str, str]:
    """What is written below /proc/sys/net of the instance's namespace: Docker's two defaults, and what was asked for.

    Unprivileged ping and low ports. With a namespace made outside, only the host's root may write them (see staging.py).
    """
    if launch.host_network:
        return {}
    last = IDS - 1 if has_user_namespace(launch) and launch.netns is None else 2**31 - 1
    defaults = {"net.ipv4.ping_group_range": f"0 {last}", "net.ipv4.ip_unprivileged_port_start": "0"}
    return defaults | {name: value for name, value in launch.sysctls.items() if name.startswith("net.")}


def check_sysctls(launch: Launch) -> None:
    """Raises UserError for one that isn't the instance's own."""
    for name in launch.sysctls:
        if name.startswith("net."):
            if launch.host_network:
                raise UserError(f"sysctl {name}: the network is the host's", "set it on the host, or use a network of its own")
        elif not (name.startswith("fs.mqueue.") or name in _IPC_SYSCTLS):
            raise UserError(
                f"sysctl {name} isn't namespaced: it would change the host", "only net.*, fs.mqueue.* and kernel's IPC ones can be set"
            )


def _rlimit(limit: Ulimit, host: Host) -> dict[str, Any]:
    if limit.name not in _RLIMITS:
        raise UserError(f"unknown ulimit {limit.name!r}", f"one of {', '.join(sorted(_RLIMITS))}")
    soft, hard = limit.soft, limit.hard
    if hard != -1 and (soft == -1 or soft > hard):
        raise UserError(f"ulimit {limit.name}: the soft limit is above the hard limit")
    ceiling = host.hard_limits.get(limit.name, -1)
    if ceiling != -1 and (hard == -1 or hard > ceiling):
        raise UserError(
            f"ulimit {limit.name}={hard}: the daemon itself has a hard limit of {ceiling}",
            "ask for no more than that, or raise the daemon's",
        )
    return {"type": f"RLIMIT_{limit.name.upper()}", "soft": soft & _INFINITY, "hard": hard & _INFINITY}


def _mounts(launch: Launch, stage: Stage) -> list[dict[str, Any]]:
    privileged = launch.security.privileged
    read_only = [] if privileged else ["ro"]
    fixed = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={launch.shm_size}"),
    ]
    if stage.sysfs is None:
        fixed.append(_mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", *read_only))
    else:
        fixed.append(_mount("/sys", "bind", str(stage.sysfs), "bind", "nosuid", "noexec", "nodev", *read_only))
    fixed.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", *read_only))
    own = [_bind(bind) for bind in stage.binds] + [_tmpfs(mount) for mount in launch.mounts if mount.source is None]
    wanted = {entry["destination"] for entry in own}
    fixed = [entry for entry in fixed if entry["destination"] not in wanted]
    return fixed + sorted(own, key=lambda entry: str(entry["destination"]).rstrip("/").count("/"))


def _bind(bind: Bind) -> dict[str, Any]:
    options = ["rbind", "rprivate", "ro" if bind.read_only else "rw"]
    if not bind.executable:
        options += ["nosuid", "noexec", "nodev"]
    return _mount(bind.target, "bind", str(bind.source), *options)


def _tmpfs(mount: HostMount) -> dict[str, Any]:
    options = ["nosuid", "nodev", "noexec", f"mode={mount.tmpfs_mode:o}"]
    if mount.tmpfs_size:
        options.append(f"size={mount.tmpfs_size}")
    return _mount(mount.target, "tmpfs", "tmpfs", *options, *(["ro"] if mount.read_only else []))


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _linux(launch: Launch, host: Host) -> dict[str, Any]:
    check_sysctls(launch)
    privileged = launch.security.privileged
    result: dict[str, Any] = {
        "cgroupsPath": f"/{launch.cgroup}",
        "namespaces": _namespaces(launch),
        "resources": _resources(launch.resources, host, privileged),
        "sysctl": _sysctls(launch),
        "maskedPaths": [] if privileged else list(_MASKED),
        "readonlyPaths": [] if privileged else list(_READ_ONLY),
    }
    if has_user_namespace(launch):
        mapping = [{"containerID": 0, "hostID": launch.id_base, "size": IDS}]
        result |= {"uidMappings": mapping, "gidMappings": mapping}
    profile = seccomp.for_security(launch.security, capabilities.effective(launch.security, host.capabilities), host.machine)
    if profile is not None:
        result["seccomp"] = profile
    if privileged:
        result["devices"] = [_device(device) for device in host.devices]
    return result


def _namespaces(launch: Launch) -> list[dict[str, str]]:
    kinds = ["pid", "ipc", "uts", "mount", "cgroup"] + (["user"] if has_user_namespace(launch) else [])
    result = [{"type": kind} for kind in kinds]
    if not launch.host_network:
        result.append({"type": "network"} | ({"path": launch.netns} if launch.netns else {}))
    return result


def _sysctls(launch: Launch) -> dict[str, str]:
    own = {name: value for name, value in launch.sysctls.items() if not name.startswith("net.")}
    return own | (network_sysctls(launch) if launch.netns is None else {})


def _resources(wanted: Resources, host: Host, privileged: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"devices": [{"allow": privileged, "access": "rwm"}]}
    cpu: dict[str, Any] = {}
    if wanted.cpus:
        cpu |= {"quota": int(wanted.cpus * PERIOD_US), "period": PERIOD_US}
    if wanted.cpu_shares:
        cpu["shares"] = wanted.cpu_shares
    if wanted.cpuset:
        cpu["cpus"] = wanted.cpuset
    if cpu:
        result["cpu"] = cpu
    if wanted.memory:
        result["memory"] = {"limit": wanted.memory} | ({"swap": swap_limit(wanted)} if host.swap_accounting else {})
    if wanted.pids:
        result["pids"] = {"limit": wanted.pids}
    block = _block_io(wanted, host.disk)
    return result | ({"blockIO": block} if block else {})


def _block_io(wanted: Resources, disk: tuple[int, int] | None) -> dict[str, Any]:
    rates = {
        "throttleReadBpsDevice": wanted.read_bps,
        "throttleWriteBpsDevice": wanted.write_bps,
        "throttleReadIOPSDevice": wanted.read_iops,
        "throttleWriteIOPSDevice": wanted.write_iops,
    }
    if not any(rates.values()):
        return {}
    if disk is None:
        raise UserError("I/O limits: the state folder isn't on a block device", "keep TWINHULL_HOME on a disk, or leave the limits out")
    return {name: [{"major": disk[0], "minor": disk[1], "rate": rate}] for name, rate in rates.items() if rate}


def _device(device: Device) -> dict[str, Any]:
    return {
        "path": device.path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    }
