"""Carries out the actions of a plan, each by itself: it either has its whole effect, or leaves the planner another try."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import assert_never

from twinhull.engine import programs
from twinhull.engine.apps import anonymous
from twinhull.engine.apps.balance import Balance
from twinhull.engine.apps.sizing import sized
from twinhull.engine.apps.state import App
from twinhull.engine.base import NetworkSpec
from twinhull.engine.instances import Instances
from twinhull.engine.live import Live
from twinhull.engine.snapshots import PORT_LABEL
from twinhull.errors import ConflictError, NotFoundError, TwinhullError
from twinhull.instance import logs as logbook
from twinhull.instance.base import Process
from twinhull.plan.actions import (
    Action,
    Create,
    CreateNetwork,
    CreateVolume,
    Drain,
    Hooks,
    Remove,
    RemoveNetwork,
    RemoveVolume,
    Restart,
    RunHook,
    Serve,
    Start,
    Stop,
    Tell,
)
from twinhull.plan.observed import HookState
from twinhull.spec.app import (
    APP_LABEL,
    FINGERPRINT_LABEL,
    ONE_OFF_LABEL,
    SERVICE_LABEL,
    SLOT_LABEL,
    AppNetwork,
    AppSpec,
    AppVolume,
    Hook,
    ServiceSpec,
)
from twinhull.spec.instance import InstanceSpec, MountType
from twinhull.spec.process import merge_environment
from twinhull.store.apps import AppTable, Member
from twinhull.volume.base import VolumeSpec

_log = logging.getLogger(__name__)
_LAST_LINES = 8
_HOOK_OUTPUT = 2000


@dataclass(frozen=True)
class Hands:
    """What actions are carried out with. `create_network` and `remove_network` are the engine's own."""

    table: AppTable
    instances: Instances
    balance: Balance
    create_network: Callable[[NetworkSpec], Awaitable[object]]
    remove_network: Callable[[str], Awaitable[None]]

    async def do(self, app: App, action: Action) -> None:
        """Raises TwinhullError. Serve and Drain go through Balance.apply, together."""
        match action:
            case CreateNetwork() | RemoveNetwork() | CreateVolume() | RemoveVolume():
                await self._part(app, action)
            case Create():
                await self._create(app, action)
            case Start():
                app.mark(action.id, stopped=False, held=False, post_start="none", pre_stop="none")
                await self.instances.start(self.instances.find(action.id))
            case Restart():
                await self._restart(app, action)
            case Stop():
                await self._stop(app, action)
            case Remove():
                await self._remove(app, action.id)
            case RunHook():
                await self._run_hooks(app, action)
            case Tell():
                await self._tell(app, action)
            case Serve() | Drain():
                raise AssertionError("made together, by Balance.apply")
            case _:
                assert_never(action)

    # networks and volumes

    async def _part(self, app: App, action: CreateNetwork | RemoveNetwork | CreateVolume | RemoveVolume) -> None:
        volumes = self.instances.launcher.volumes
        match action:
            case CreateNetwork(network):
                await self._make_network(app, app.spec.networks[network])
            case RemoveNetwork(network):
                await self.balance.forget_network(app, network)
                with contextlib.suppress(NotFoundError), _kept(app, action):
                    await self.remove_network(network)
            case CreateVolume(volume):
                await self._make_volume(app, app.spec.volumes[volume])
            case RemoveVolume(volume):
                with contextlib.suppress(NotFoundError), _kept(app, action):
                    self._refuse_used(volume)
                    await volumes.remove(volume)

    async def make_parts(self, app: App, spec: AppSpec, service: ServiceSpec) -> None:
        """The networks and volumes of an instance that no plan makes, as far as they are missing. spec: the application that has them."""
        there = {record.name for record in self.balance.networks.values()}
        for name in {attachment.network for attachment in service.template.networks} - there:
            if name in spec.networks and not spec.networks[name].external:
                await self._make_network(app, spec.networks[name])
        for name in {mount.source for mount in service.template.mounts if mount.type is MountType.VOLUME}:
            if name in spec.volumes and not spec.volumes[name].external:
                await self._make_volume(app, spec.volumes[name])

    async def _make_network(self, app: App, network: AppNetwork) -> None:
        labels = {**network.labels, APP_LABEL: app.name}
        await self.create_network(NetworkSpec(network.name, network.subnet, network.internal, labels=labels))

    async def _make_volume(self, app: App, volume: AppVolume) -> None:
        labels = {**volume.labels, APP_LABEL: app.name}
        await self.instances.launcher.volumes.ensure(VolumeSpec(volume.name, volume.driver, labels, dict(volume.options)))

    def _refuse_used(self, volume: str) -> None:
        found = (live.record for live in self.instances.lives.values())
        users = [each.name for each in found if any((m.type, m.source) == (MountType.VOLUME, volume) for m in each.spec.mounts)]
        if users:
            raise ConflictError(f"volume {volume} is used by {', '.join(users)}")

    # instances

    async def _create(self, app: App, action: Create) -> None:
        found = app.made_from(action.service, action.fingerprint)
        if found is None:
            raise NotFoundError(f"revision {action.fingerprint} of service {action.service} is no longer known")
        spec, pin = found
        name = self._name(app, spec, action.slot)
        wanted = instance_spec(app.name, spec, name=name, slot=action.slot, mark=action.fingerprint)
        if (size := app.wanted.sizes.get(action.service)) is not None:
            wanted = replace(wanted, resources=sized(wanted.resources, size))
        await self._own_volumes(app, spec, action.slot)
        live = await self.instances.create(wanted, image=pin.image_id)
        member = Member(live.id, app.name, action.service, action.slot, action.fingerprint)
        self.table.save_member(member)
        app.members[live.id] = member
        await self.balance.refresh(app)

    async def _own_volumes(self, app: App, spec: ServiceSpec, slot: int) -> None:
        """The anonymous ones of a slot: there already, if it had an instance before."""
        own = [mount for mount in spec.template.mounts if anonymous.is_own(mount)]
        for mount in anonymous.of_slot(own, slot):
            labels = {APP_LABEL: app.name, **anonymous.labels(spec.name, slot)}
            await self.instances.launcher.volumes.ensure(VolumeSpec(mount.source, labels=labels))

    def _name(self, app: App, spec: ServiceSpec, slot: int) -> str:
        """The container_name of the file, if nobody has it now (the instance that is replaced may)."""
        plain = f"{app.name}-{spec.name}-{slot}"
        if not spec.container_name:
            return plain
        taken = any(live.record.name == spec.container_name for live in self.instances.lives.values())
        return plain if taken else spec.container_name

    async def _restart(self, app: App, action: Restart) -> None:
        live = self.instances.find(action.id)
        app.mark(action.id, stopped=True)
        await self.instances.stop(live, app.grace.get(action.service))
        app.answering.pop(action.id, None)
        app.mark(action.id, stopped=False, held=False, post_start="none", pre_stop="none", draining_since=0.0)
        await self.instances.start(live)

    async def _stop(self, app: App, action: Stop) -> None:
        app.mark(action.id, stopped=True)
        await self.balance.leave(app, action.id)
        with contextlib.suppress(NotFoundError):
            await self.instances.stop(self.instances.find(action.id), app.grace.get(action.service))

    async def _remove(self, app: App, instance_id: str) -> None:
        await self.balance.leave(app, instance_id)
        live = self.instances.lives.get(instance_id)
        if live is not None:
            await self.instances.remove(live, force=True, volumes=True)
        app.members.pop(instance_id, None)
        await self.balance.refresh(app)

    # hooks

    async def _run_hooks(self, app: App, action: RunHook) -> None:
        live = self.instances.find(action.id)
        member = app.members[action.id]
        found = app.made_from(member.service, member.fingerprint)
        spec = found[0] if found else app.service(member.service)
        hooks = spec.post_start if action.hooks is Hooks.POST_START else spec.pre_stop
        trouble = ""
        for hook in hooks:
            if trouble := await self._run_hook(live, hook):
                break
        outcome = str(HookState.FAILED if trouble else HookState.DONE)
        if trouble:
            app.note(f"{action.hooks} hook", live.record.name, trouble, failed=True)
        if action.hooks is Hooks.POST_START:
            app.mark(action.id, post_start=outcome, post_start_of=live.record.started_at)
        else:
            app.mark(action.id, pre_stop=outcome)

    async def _run_hook(self, live: Live, hook: Hook) -> str:
        """What went wrong, "" nothing."""
        try:
            instance = live.running()
            own = instance.launch.process
            process = Process(hook.command, merge_environment(own.env, hook.env), cwd=hook.workdir or own.cwd, user=hook.user or own.user)
            session = await instance.exec(process)
        except TwinhullError as error:
            return str(error)
        output = bytearray()
        code = await programs.to_end(session, output, _HOOK_OUTPUT)
        return f"{' '.join(hook.command)} ended with {code}: {output.decode('utf-8', 'replace').strip()}" if code else ""

    # telling

    async def _tell(self, app: App, action: Tell) -> None:
        live = self.instances.lives.get(action.instance)
        lines = await self._last_lines(live) if live is not None and action.level != "info" else ""
        reason = f"{action.reason}; its last lines:\n{lines}" if lines else action.reason
        app.note("tell", action.service, reason, failed=action.level == "error")
        attributes = {"service": action.service, "level": action.level, "reason": reason}
        self.instances.events.emit("app", "message", "", app.name, **attributes)

    async def _last_lines(self, live: Live) -> str:
        log = self.instances.launcher.paths(live.id).log
        lines = [line.data.decode("utf-8", "replace").rstrip() async for line in logbook.read(log, logbook.Selection(0, 0, _LAST_LINES))]
        return "\n".join(f"  {line[:200]}" for line in lines)


@contextlib.contextmanager
def _kept(app: App, action: RemoveNetwork | RemoveVolume) -> Iterator[None]:
    """What others use stays, as with docker compose: `down` neither fails nor waits for them, it says who they are."""
    try:
        yield
    except ConflictError as error:
        app.kept[action.key] = error.message
        app.note("keep", action.key, error.message)


def instance_spec(app: str, spec: ServiceSpec, *, name: str = "", slot: int = 0, mark: str = "") -> InstanceSpec:
    """One instance of a service; without a slot a one-off. Names and addresses of the service stay with the service."""
    labels = {**spec.template.labels, APP_LABEL: app, SERVICE_LABEL: spec.name}
    labels |= {SLOT_LABEL: str(slot), FINGERPRINT_LABEL: mark} if slot else {ONE_OFF_LABEL: "True"}
    if spec.template.snapshot and (port := probed_port(spec)):
        labels[PORT_LABEL] = str(port)
    networks = tuple(replace(attachment, aliases=(), address="") for attachment in spec.template.networks)
    mounts = anonymous.of_slot(spec.template.mounts, slot)
    return replace(spec.template, name=name, labels=labels, networks=networks, ports=(), mounts=mounts)


def probed_port(spec: ServiceSpec) -> int:
    """The TCP port that has to answer before an instance without a health check is ready: the first routed or published one. 0: none."""
    routed = [route.port for route in spec.routes if route.port]
    published = [mapping.container_port for mapping in spec.ports if mapping.protocol == "tcp"]
    return next(iter([*routed, *published]), 0)


async def answers(address: str, port: int) -> bool:
    """Whether a TCP connection can be made."""
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
