"""Snapshots of applications, as the engine sees them: which one an instance may go on from, when one is made, and for whom not.

Laws: an instance goes on from a snapshot only if its key is the same: application, image, command, environment, and all else that the
workload can see, names and addresses excepted. Only its first start does, for a writable layer that is there already is worth more.
Whatever fails here, the instance runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from dataclasses import dataclass, field, replace

from twinhull.engine.live import Live
from twinhull.errors import ConflictError, PermanentError, TwinhullError, UnsupportedError, UserError
from twinhull.instance.base import InjectedFile
from twinhull.instance.vm.guest import BOOT_ID, RESUMED
from twinhull.instance.vm.parking import want
from twinhull.instance.vm.snapshots import About, Resume, Snapshots
from twinhull.plan.health import enabled
from twinhull.spec.app import APP_LABEL
from twinhull.spec.instance import InstanceSpec, LogOptions, MountType, NetworkMode, RestartPolicy
from twinhull.spec.process import argv, environment, signal_number

WORD = "app"
SIGNAL_LABEL = "twinhull.snapshot.signal"
"""An instance's or image's label: the signal that the workload gets when it went on from a snapshot."""
PORT_LABEL = "twinhull.snapshot.port"
"""An instance's label: the TCP port that answers once it is warm, where neither its ports nor its image say so."""
_CONNECT_SECONDS, _AGAIN = 1.0, 0.05
_OPT_IN = "leave out one of the two, or say that the application opens them anew: --snapshot-reconnect"
_log = logging.getLogger(__name__)


def refuse(spec: InstanceSpec) -> None:
    """Raise for what can't be in a snapshot. Whether the runtime can is the caller's to ask."""
    if not spec.snapshot and spec.snapshot_reconnect:
        raise UserError("--snapshot-reconnect: of which snapshot?", "add --snapshot app")
    if not spec.snapshot:
        return
    if spec.snapshot != WORD:
        raise UserError(f"snapshot {spec.snapshot!r}: only {WORD!r} is known")
    if spec.snapshot_reconnect:
        return
    if any(mount.type is not MountType.TMPFS for mount in spec.mounts):
        raise UnsupportedError("--snapshot app: a connection to a volume can't be saved", _OPT_IN)
    if any(file.secret for file in spec.files):
        raise UnsupportedError("--snapshot app: a secret would be on the disk with the memory it is in", _OPT_IN)


def can_be_parked(spec: InstanceSpec) -> bool:
    """Whether a guest that waits can become it: what a guest shares with the host is there from its QEMU's start on."""
    secrets = spec.snapshot_reconnect and any(file.secret for file in spec.files)
    return not secrets and all(mount.type is MountType.TMPFS for mount in spec.mounts)


Contents = tuple[InjectedFile, ...]


def key(live: Live, contents: Contents) -> str:
    """32 hexadecimal digits. `contents`: the files that the specification names."""
    spec = live.record.spec
    still = replace(
        spec, name="", hostname="", labels={}, networks=(), ports=(), dns=(), dns_search=(), extra_hosts=(), stop_signal="", snapshot="",
        health=None, restart=RestartPolicy(), logging=LogOptions(), auto_remove=False, stop_timeout=0.0, files=(), image="",
    )  # fmt: skip
    facts = (
        spec.labels.get(APP_LABEL, ""),
        live.record.image_id,
        argv(spec, live.image),
        environment(spec, live.image, ""),
        want(spec.resources, len(live.endpoints)),
        [(file.target, file.mode, file.uid, file.gid, file.content) for file in contents],
        still,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def files(live: Live, *, resumed: bool) -> tuple[InjectedFile, ...]:
    """What tells a workload that it went on, and an id of its boot that isn't the snapshot's."""
    if not live.record.spec.snapshot:
        return ()
    text = ""
    if resumed:
        addresses = [endpoint.address for endpoint in live.endpoints]
        hostname = live.record.spec.hostname or live.id[:12]
        text = json.dumps({"at": time.time(), "id": live.id, "hostname": hostname, "addresses": addresses}) + "\n"
    digest = hashlib.sha256(f"{live.id} {live.record.started_at} {time.time_ns()}".encode()).hexdigest()
    boot = f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}\n"
    return InjectedFile(RESUMED, text.encode(), 0o444), InjectedFile(BOOT_ID, boot.encode(), 0o444, read_only=True)


def resume_signal(live: Live) -> int:
    """The number of the signal that the labels name, 0: none. Raises UserError."""
    word = live.record.spec.labels.get(SIGNAL_LABEL) or live.image.labels.get(SIGNAL_LABEL, "")
    return signal_number(word) if word else 0


@dataclass
class Captures:
    """Makes snapshots, one at a time. `contents`: the files that an instance's specification names."""

    store: Snapshots
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def resume(self, live: Live, contents: Contents, *, fresh: bool) -> Resume | None:
        """What a start goes on from. `fresh`: it has no writable layer yet."""
        if live.record.spec.snapshot != WORD or not fresh:
            return None
        found = await self.store.obtain(key(live, contents))
        return Resume(found, self.store, resume_signal(live)) if found else None

    async def when_warm(self, live: Live, contents: Contents, address: str) -> bool:
        """Make one of a running instance as soon as it is warm, if there is none. False: none was made, and the log says why.

        `address`: where this machine reaches it.
        """
        if self.store.has(key(live, contents)):
            return False
        try:
            if await self._warm(live, address):
                await self.capture(live, contents, again=False)
                return True
        except (TwinhullError, OSError, TimeoutError) as error:
            _log.warning("snapshot of %s: %s", live.record.name, error)
        return False

    async def _warm(self, live: Live, address: str) -> bool:
        """After its health check passes, else when its first port answers. False: it ended, or there's no way to tell."""
        if live.check is not None and enabled(live.check):
            await live.wait_for(lambda: live.health.status == "healthy" or not live.up)
            return live.up
        port = _port(live)
        if not port:
            _log.warning("snapshot of %s: it has neither a health check nor a port: twinhull snapshot create", live.record.name)
            return False
        while live.up:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    _, writer = await asyncio.open_connection(address, port)
                writer.close()
                return True
            await asyncio.sleep(_AGAIN)
        return False

    async def capture(self, live: Live, contents: Contents, *, again: bool = True) -> About:
        """Make one now. `again`: in the place of one that is there. Raises TwinhullError."""
        spec = live.record.spec
        if spec.snapshot != WORD:
            raise UserError(f"instance {live.record.name} wasn't made for snapshots", "create it with --snapshot app")
        async with self._busy:
            instance = live.running()
            if live.check is not None and enabled(live.check) and live.health.status != "healthy":
                raise ConflictError(f"instance {live.record.name} is {live.health.status}: a snapshot is taken of what is well")
            app, made = spec.labels.get(APP_LABEL, ""), key(live, contents)
            about = About(made, app, spec.image, live.record.image_id, argv(spec, live.image), time.time(), "")
            if again or not self.store.has(about.key):
                try:
                    await instance.capture(self.store, about)
                except (OSError, TimeoutError) as error:
                    raise PermanentError(f"make a snapshot of {live.record.name}: {error or 'it took too long'}") from error
        return self.store.find(about.key)


def _port(live: Live) -> int:
    """The port that its label names, else the first published TCP port of an instance, else the first that its image exposes; 0: none."""
    if live.record.spec.network_mode is NetworkMode.NONE:
        return 0
    named = live.record.spec.labels.get(PORT_LABEL, "")
    if named.isdigit():
        return int(named)
    published = [mapping.container_port for mapping in live.record.spec.ports if mapping.protocol == "tcp"]
    exposed = [int(port.partition("/")[0]) for port in live.image.exposed if not port.endswith("/udp")]
    return next(iter((*published, *exposed)), 0)
