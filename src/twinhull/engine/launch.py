"""From a record to a `Launch`: everything that is the same for all runtimes is resolved here, once per start."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from twinhull.engine import snapshots
from twinhull.engine.live import Live
from twinhull.engine.settings import Settings
from twinhull.engine.snapshots import Captures
from twinhull.errors import NotFoundError, UnsupportedError, UserError
from twinhull.home import Home
from twinhull.image.store import ImageStore
from twinhull.instance.base import (
    HostMount,
    InjectedFile,
    Instance,
    Launch,
    Paths,
    PortKind,
    Process,
    Root,
    RootKind,
)
from twinhull.instance.factory import make_instance, traits
from twinhull.instance.runtimes import sandbox_trouble
from twinhull.instance.vm.launchers import launchers
from twinhull.instance.vm.parking import FIRST_SLOT, Parked, Pool, want
from twinhull.instance.vm.snapshots import Resume
from twinhull.network.files import hosts, resolv_conf
from twinhull.network.host import NetworkHost, interface
from twinhull.network.netns import Netns
from twinhull.network.ports import Port
from twinhull.spec.instance import FileSpec, InstanceSpec, MountSpec, MountType, NetworkMode, Runtime
from twinhull.spec.network import NetworkRecord
from twinhull.spec.process import argv, environment
from twinhull.volume.store import VolumeStore

_FIRST_ID = 0x7000_0000
"""Below podman's range (2147483647) and above systemd-nspawn's (1879048191): 4,095 ranges of 65,536 ids, the last ones for parked VMs."""
_IDS = 65_536
SLOTS = FIRST_SLOT
FILE_LIMIT = 1024 * 1024
"""Bytes of one secret or config; the guest agent takes no more (agent/PROTOCOL.md)."""
MAINTENANCE = ("/run/twinhull/agent", "pause")
"""argv of a start that only holds the root for `cp`, `export` and their kin."""


@dataclass
class Attachment:
    """What the network gave to one start; closed once the hull holds it."""

    ports: tuple[Port, ...] = ()
    netns: Netns | None = None
    taps: tuple[int, ...] = field(default=())
    ready: Parked | None = None
    """A VM's guest that waits for it; the taps are its own."""
    resume: Resume | None = None
    """A snapshot of its application to go on from."""

    def close(self) -> None:
        """Let go of what no hull has taken over. Idempotent."""
        if self.ready is not None:
            self.ready.release()
            self.ready = None
        if self.netns is not None:
            self.netns.close()
        for tap in self.taps:
            os.close(tap)
        self.taps = ()


@dataclass(frozen=True)
class Launcher:
    """Builds launches for one engine."""

    home: Home
    settings: Settings
    images: ImageStore
    volumes: VolumeStore
    network: NetworkHost
    networks: dict[str, NetworkRecord]
    pool: Pool
    captures: Captures

    def refuse_unsupported(self, spec: InstanceSpec) -> None:
        """Raise UnsupportedError for what the runtime or the machine's owner doesn't allow; called before anything is made."""
        if spec.runtime is Runtime.SANDBOX and (trouble := sandbox_trouble()):
            raise UnsupportedError(f"runtime sandbox isn't offered here: {trouble}", "use --runtime vm, or container")
        kind = traits(spec.runtime)
        for feature, wanted in _features(spec).items():
            if wanted and feature in kind.reasons:
                raise UnsupportedError(f"runtime {spec.runtime} can't do {feature}: {kind.reasons[feature]}")
        if spec.network_mode is NetworkMode.HOST and not kind.host_network:
            raise UnsupportedError(
                f"runtime {spec.runtime} can't share the host's network: it has a kernel of its own", "publish ports: -p"
            )
        snapshots.refuse(spec)
        self._refuse_forbidden(spec)

    def contents(self, live: Live) -> tuple[InjectedFile, ...]:
        """The files that the specification names. Raises UserError for one that can't be read."""
        return tuple(_file(file) for file in live.record.spec.files)

    def hull(self, live: Live, launch: Launch, attachment: Attachment | None = None) -> Instance:
        """The instance's hull for a launch; nothing is made yet. It takes over the attachment's taps and guest."""
        ready = attachment.ready if attachment else None
        made = make_instance(
            live.record.spec.runtime,
            launch,
            self.home,
            self.settings.accelerator,
            ready=ready,
            resume=attachment.resume if attachment else None,
        )
        if attachment:
            attachment.taps, attachment.ready = (), None
        return made

    def bare(self, live: Live) -> Launch:
        """Enough to adopt, use or delete what an earlier daemon started; nothing is read from images or secrets."""
        spec = live.record.spec
        return Launch(
            id=live.id,
            name=live.record.name,
            paths=self.paths(live.id),
            root=Root(live.record.image_id),
            process=self._process(live),
            hostname=_hostname(live),
            mounts=(),
            files=(),
            interfaces=(),
            resources=spec.resources,
            security=spec.security,
            ulimits=spec.ulimits,
            sysctls=spec.sysctls,
            shm_size=spec.shm_size,
            init=spec.init,
            id_base=_FIRST_ID + live.record.id_slot * _IDS,
            cgroup=f"{self.home.cgroup}/{live.id[:12]}",
            log_max_size=spec.logging.max_size or self.settings.log_max_size,
            log_max_files=spec.logging.max_files or self.settings.log_max_files,
            reconnect=bool(spec.snapshot) and spec.snapshot_reconnect,
        )

    async def known(self, live: Live) -> Launch:
        """`bare` plus the image's root, for adoption; an image that was removed meanwhile is no hindrance."""
        try:
            return replace(self.bare(live), root=await self._root(live))
        except NotFoundError:
            return self.bare(live)

    async def full(self, live: Live, attachment: Attachment) -> Launch:
        """For a start: root, mounts, files and network are ready."""
        spec = live.record.spec
        return replace(
            self.bare(live),
            root=await self._root(live),
            mounts=tuple(self._mount(mount) for mount in spec.mounts),
            files=(
                *self._network_files(live),
                _machine_id(live),
                *snapshots.files(live, resumed=attachment.resume is not None),
                *self.contents(live),
            ),
            interfaces=tuple(port.interface for port in attachment.ports),
            netns=attachment.netns.path if attachment.netns else None,
            host_network=spec.network_mode is NetworkMode.HOST,
            taps=attachment.taps,
        )

    async def maintenance(self, live: Live) -> Launch:
        """For file tools on an instance that doesn't run: its root and mounts, no network, a process that only waits."""
        spec = live.record.spec
        return replace(
            self.bare(live),
            root=await self._root(live),
            mounts=tuple(self._mount(mount) for mount in spec.mounts),
            process=Process(argv=MAINTENANCE, env=(), user="0:0"),
            init=False,
        )

    async def attach(self, live: Live) -> Attachment:
        """Interfaces for one start, as far as they can be made before the hull."""
        ports, servers = self.network_ports(live), live.record.spec.dns
        kind = traits(live.record.spec.runtime).port
        if kind is PortKind.TAP:
            return await self._attach_vm(live, ports)
        if ports and kind is PortKind.NETNS:
            return Attachment(ports, netns=await self.network.attach_netns(ports, dns=servers))
        return Attachment(ports)

    async def _attach_vm(self, live: Live, ports: tuple[Port, ...]) -> Attachment:
        """A guest that waits for it, if there is one; its taps get the ports' names."""
        spec = live.record.spec
        launchers.keep()
        resume = await self.captures.resume(live, self.contents(live), fresh=not (self.paths(live.id).state / "scratch.img").exists())
        wish = want(spec.resources, len(ports), resume.snapshot.key if resume else "")
        attachment = Attachment(ports, ready=self.pool.claim(wish) if snapshots.can_be_parked(spec) else None, resume=resume)
        if ports:
            try:
                ready = attachment.ready.taps if attachment.ready else ()
                attachment.taps = await self.network.attach_taps(ports, dns=spec.dns, ready=ready)
            except BaseException:
                attachment.close()
                raise
        return attachment

    async def equip(self, live: Live, instance: Instance) -> None:
        """Interfaces for a hull that brought its own network namespace."""
        spec = live.record.spec
        if traits(spec.runtime).port is not PortKind.OWN_NETNS or spec.network_mode is NetworkMode.HOST:
            return
        descriptor = instance.network_namespace()
        try:
            equipped = await self.network.attach_netns(self.network_ports(live), dns=spec.dns, netns_fd=descriptor)
            equipped.close()
        finally:
            os.close(descriptor)

    def network_ports(self, live: Live) -> tuple[Port, ...]:
        """The instance's endpoints in the network layer's terms."""
        records = [self.networks[endpoint.network_id] for endpoint in live.endpoints]
        way_out = next((n for n, record in enumerate(records) if not record.internal), 0)
        return tuple(
            Port(
                record,
                endpoint.number,
                interface(record, endpoint.address, ifname=f"eth{position}", mac=endpoint.mac, default=position == way_out),
            )
            for position, (record, endpoint) in enumerate(zip(records, live.endpoints, strict=True))
        )

    def reached_at(self, live: Live) -> str:
        """The address that published ports lead to: the one on the network with the default route."""
        ports = self.network_ports(live)
        return next((port.interface.address for port in ports if port.interface.default), ports[0].interface.address)

    def paths(self, instance_id: str) -> Paths:
        """The instance's two folders."""
        return Paths(self.home.instance_state(instance_id), self.home.instance_run(instance_id))

    def _refuse_forbidden(self, spec: InstanceSpec) -> None:
        if spec.security.privileged and not self.settings.allow_privileged:
            raise UnsupportedError("privileged instances are off on this machine", "config.toml: [security] allow_privileged = true")
        if spec.security.seccomp == "unconfined" and not self.settings.allow_unconfined:
            raise UnsupportedError("seccomp=unconfined is off on this machine", "config.toml: [security] allow_unconfined = true")

    def _process(self, live: Live) -> Process:
        spec, image = live.record.spec, live.image
        return Process(
            argv=argv(spec, image),
            env=environment(spec, image, _hostname(live)),
            cwd=spec.workdir or image.workdir or "/",
            user=spec.user or image.user,
            tty=spec.tty,
            stdin=spec.stdin,
        )

    async def _root(self, live: Live) -> Root:
        image_id = live.record.image_id
        if traits(live.record.spec.runtime).root is RootKind.EROFS:
            return Root(image_id, erofs=await self.images.erofs(image_id))
        return Root(image_id, layers=await self.images.layers(image_id))

    def _mount(self, mount: MountSpec) -> HostMount:
        if mount.type is MountType.TMPFS:
            return HostMount(mount.target, None, mount.read_only, mount.tmpfs_size, mount.tmpfs_mode)
        bound = mount.type is MountType.BIND
        source = Path(os.path.realpath(mount.source)) if bound else self.volumes.path(mount.source, mount.subpath)
        if not source.exists():
            raise UserError(f"mount source {source} doesn't exist", "create it first, or use a named volume")
        return HostMount(mount.target, source, mount.read_only)

    def _network_files(self, live: Live) -> tuple[InjectedFile, ...]:
        spec = live.record.spec
        hostname = _hostname(live)
        if spec.network_mode is NetworkMode.HOST:
            return tuple(_host_file(path) for path in ("/etc/hosts", "/etc/resolv.conf"))
        gateway = self.networks[live.endpoints[0].network_id].gateway if live.endpoints else ""
        own = [endpoint.address for endpoint in live.endpoints]
        return (
            InjectedFile("/etc/hosts", hosts(hostname, own, spec.extra_hosts, gateway)),
            InjectedFile("/etc/resolv.conf", resolv_conf(gateway, spec.dns, spec.dns_search)),
            InjectedFile("/etc/hostname", f"{hostname}\n".encode()),
        )


def _hostname(live: Live) -> str:
    return live.record.spec.hostname or live.id[:12]


def _machine_id(live: Live) -> InjectedFile:
    """Images carry none or an empty one (machine-id(5)); two instances must not share one."""
    return InjectedFile("/etc/machine-id", f"{live.id[:32]}\n".encode(), 0o444)


def _host_file(path: str) -> InjectedFile:
    return InjectedFile(path, Path(path).read_bytes() if Path(path).exists() else b"")


def _file(file: FileSpec) -> InjectedFile:
    content = file.content.encode()
    if file.source:
        content = _read(Path(file.source))
    return InjectedFile(file.target, content, file.mode, file.uid, file.gid, file.secret, read_only=True)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(FILE_LIMIT + 1)
    except OSError as error:
        raise UserError(f"read {path}: {error.strerror}") from None
    if len(content) > FILE_LIMIT:
        raise UserError(f"{path} is larger than {FILE_LIMIT} bytes", "mount it instead: -v")
    return content


def _features(spec: InstanceSpec) -> dict[str, bool]:
    """What a runtime may refuse, by the names used in Traits.reasons."""
    return {
        "snapshot": bool(spec.snapshot),
        "sysctls": bool(spec.sysctls),
        "privileged": spec.security.privileged,
        "io-limits": any((spec.resources.read_bps, spec.resources.write_bps, spec.resources.read_iops, spec.resources.write_iops)),
        "pids-limit": bool(spec.resources.pids),
        "seccomp-profile": spec.security.seccomp not in ("default", "unconfined"),
    }
