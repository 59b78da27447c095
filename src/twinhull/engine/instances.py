"""The life of instances: create, start, stop, end, restart, remove.

Laws: what is wanted is written down before it is done, so that a daemon killed half-way knows what to finish or undo
(recover.py). One lock per instance; nobody waits for an exit while holding it. A failed start leaves the state from before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from twinhull.engine import health, names
from twinhull.engine.attached import Attached
from twinhull.engine.events import Events
from twinhull.engine.launch import SLOTS, Launcher
from twinhull.engine.live import Live
from twinhull.engine.tasks import Tasks
from twinhull.errors import ConflictError, NotFoundError, TwinhullError, UserError
from twinhull.image.base import ImageView
from twinhull.instance.base import Exit, Instance, Session
from twinhull.network import addresses
from twinhull.network.host import Name
from twinhull.plan import lifecycle
from twinhull.plan.health import begin
from twinhull.plan.lifecycle import Ended, Event, State
from twinhull.spec.instance import InstanceSpec, MountSpec, MountType, PortMapping
from twinhull.spec.network import NetworkRecord
from twinhull.spec.process import ImageConfig, argv, stop_signal
from twinhull.spec.validate import normalize
from twinhull.store.db import Database, EndpointRecord, InstanceRecord
from twinhull.volume.base import VolumeSpec
from twinhull.volume.store import ANONYMOUS

_log = logging.getLogger(__name__)
_KILL_PATIENCE = 15.0
"""Seconds in which a killed hull must be gone, before an error says that it isn't."""


@dataclass(eq=False)
class Instances:
    """All instances of one engine."""

    launcher: Launcher
    database: Database
    events: Events
    tasks: Tasks
    lives: dict[str, Live] = field(default_factory=dict)
    reserved: Callable[[str], set[str]] = lambda _network_id: set()
    """Addresses on a network that no instance may have: the virtual ones of services."""
    creating: asyncio.Lock = field(default_factory=asyncio.Lock)

    # finding

    def find(self, ref: str) -> Live:
        """By name, id, or unambiguous id prefix. Raises NotFoundError, ConflictError (ambiguous)."""
        word = ref.lstrip("/")
        if word in self.lives:
            return self.lives[word]
        named = [live for live in self.lives.values() if live.record.name == word]
        found = named or [live for live in self.lives.values() if word and live.id.startswith(word)]
        if not found:
            raise NotFoundError(f"no such instance: {ref}", "twinhull ps -a lists all")
        if len(found) > 1:
            raise ConflictError(f"{ref} is the beginning of {len(found)} ids", "give more digits")
        return found[0]

    # creating

    async def create(self, wanted: InstanceSpec, *, image: str = "") -> Live:
        """Write the record, reserve name, ids and addresses, make volumes. Nothing is left after a failure.

        image: the id of the one that is used, where `wanted.image` is only how it was called when it was looked up.
        """
        spec = normalize(wanted)
        self.launcher.refuse_unsupported(spec)
        found = await self.launcher.images.resolve(image or spec.image)
        argv(spec, ImageConfig.parse(found.config))  # refuses where there is nothing to run
        async with self.creating:
            record = self._record(spec, found)
            endpoints = self._endpoints(record)
            self.database.add_instance(record, list(endpoints))
            live = Live(record, endpoints)
            self.lives[record.id] = live
        try:
            await self._make_volumes(live)
        except BaseException:
            await asyncio.shield(self.forget(live, volumes=True))
            raise
        self.database.save_instance(live.change(desired="stopped"))
        self.events.emit("instance", "create", live.id, record.name, image=spec.image, runtime=str(spec.runtime))
        return live

    def _record(self, spec: InstanceSpec, image: ImageView) -> InstanceRecord:
        taken = {live.record.name for live in self.lives.values()}
        name = names.check(spec.name) if spec.name else names.generate(taken, random.choice)
        if name in taken:
            holder = self.find(name)
            raise ConflictError(f"the name {name} is taken by instance {holder.id[:12]}", f"twinhull rm {name}, or choose another")
        config = ImageConfig.parse(image.config)
        return InstanceRecord(
            id=secrets.token_hex(32),
            name=name,
            spec=_with_volumes(replace(spec, name=name), config),
            image_id=image.id,
            image_config=dict(image.config),
            id_slot=self._free_slot(),
            created_at=time.time(),
            desired="creating",
            state=State.CREATED,
        )

    def _free_slot(self) -> int:
        used = {live.record.id_slot for live in self.lives.values()}
        for slot in range(SLOTS):
            if slot not in used:
                return slot
        raise ConflictError(f"all {SLOTS} ranges of user ids are in use", "remove instances: twinhull system prune")

    def _endpoints(self, record: InstanceRecord) -> tuple[EndpointRecord, ...]:
        made: list[EndpointRecord] = []
        numbers = {endpoint.number for live in self.lives.values() for endpoint in live.endpoints}
        for position, wanted in enumerate(record.spec.networks):
            network = self._network(wanted.network)
            used = {e.address for live in self.lives.values() for e in live.endpoints if e.network_id == network.id}
            used |= self.reserved(network.id)
            address = _address(network, wanted.address, used)
            number = addresses.free_number(numbers)
            numbers.add(number)
            mac = addresses.check_mac(wanted.mac) if wanted.mac else addresses.mac_of(address)
            made.append(EndpointRecord(record.id, network.id, position, number, address, mac, wanted.aliases))
        return tuple(made)

    def _network(self, name: str) -> NetworkRecord:
        for network in self.launcher.networks.values():
            if name in (network.name, network.id):
                return network
        raise NotFoundError(f"no such network: {name}", f"twinhull network create {name}")

    async def _make_volumes(self, live: Live) -> None:
        volumes = self.launcher.volumes
        for mount in live.record.spec.mounts:
            if mount.type is MountType.VOLUME:
                labels = {ANONYMOUS: live.id} if _is_anonymous(mount) else {}
                await volumes.ensure(VolumeSpec(mount.source, labels=labels))
                if not mount.no_copy:
                    layers = await self.launcher.images.layers(live.record.image_id)
                    await volumes.copy_up(mount.source, layers, mount.target)

    # starting

    async def start(self, live: Live, *, attach: bool = False) -> Session | None:
        """Run it. With attach, its streams from the first byte on. Nothing happens if it runs already."""
        async with live.lock:
            if live.removed:
                raise NotFoundError(f"no such instance: {live.record.name}")
            if live.record.state is State.RUNNING:
                return await self.attach(live) if attach else None
            live.next_state(Event.START)
            self._cancel_tasks(live)
            live.asked_to_end = False
            return await self._bring_up(live, restarts=0, attach=attach)

    def _give_up_start(self, live: Live) -> None:
        """Break off a start that is under way, so that `rm --force` and `kill` needn't wait for a machine that may never answer."""
        if live.starting is not None:
            live.starting.cancel()

    async def _bring_up(self, live: Live, *, restarts: int, attach: bool = False) -> Session | None:
        before = live.record
        self.database.save_instance(live.change(desired="running", error=""))
        live.starting = asyncio.create_task(self._launch(live, attach), name=f"start {live.record.name}")
        try:
            instance, session = await live.starting
        except BaseException as error:
            broken_off = isinstance(error, asyncio.CancelledError) and not _is_cancelled()
            await asyncio.shield(self._undo_start(live, before, error))
            if broken_off:
                raise ConflictError(f"the start of {live.record.name} was broken off: it is being removed") from None
            raise
        finally:
            live.starting = None
        self.database.save_instance(
            live.change(
                state=State.RUNNING, started_at=time.time(), finished_at=0.0, restart_count=restarts, exit_reason="", oom_killed=False
            )
        )
        self._watch(live, instance)
        self.events.emit("instance", "start", live.id, live.record.name, image=live.record.spec.image)
        return session

    async def _launch(self, live: Live, attach: bool) -> tuple[Instance, Session | None]:
        paths = self.launcher.paths(live.id)
        paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths.run.mkdir(parents=True, exist_ok=True, mode=0o711)
        attachment = await self.launcher.attach(live)
        try:
            launch = await self.launcher.full(live, attachment)
            instance = live.instance = self.launcher.hull(live, launch, attachment)  # it ends what it took, however `create` ends
            await instance.create()
            await self.launcher.equip(live, instance)
        finally:
            attachment.close()
        await self.join_network(live, live.record.spec.ports)
        session = Attached(live, await instance.attach()) if attach else None
        await instance.start()
        return instance, session

    async def attach(self, live: Live) -> Session:
        """The streams of a running instance."""
        return Attached(live, await live.running().attach())

    async def join_network(self, live: Live, ports: tuple[PortMapping, ...]) -> None:
        """Names and published ports; idempotent. The host ports chosen are in the record, which the caller saves."""
        network = self.launcher.network
        if not live.endpoints:
            return
        await network.set_names(live.id, dns_names(live))
        if ports:
            live.change(published=await network.publish(live.id, self.launcher.reached_at(live), ports, name=live.record.name))

    async def _undo_start(self, live: Live, before: InstanceRecord, error: BaseException) -> None:
        with contextlib.suppress(Exception):
            await self.tear_down(live)
        message = str(error) or type(error).__name__
        state = State.EXITED if before.state is State.RESTARTING else before.state
        code = getattr(error, "exit_code", 128)
        self.database.save_instance(live.change(desired="stopped", state=state, error=message, exit_code=code))
        live.announce()

    def _watch(self, live: Live, instance: Instance) -> None:
        live.health = begin(live.check)
        live.tasks = [self.tasks.spawn(f"wait {live.record.name}", self._wait(live, instance))]
        if live.health.status != "none":
            live.tasks.append(self.tasks.spawn(f"health {live.record.name}", health.watch(live, instance, self._health_changed)))
        if live.record.spec.snapshot:
            live.tasks.append(self.tasks.spawn(f"snapshot {live.record.name}", self._snapshot_when_warm(live)))
        live.announce()

    async def _snapshot_when_warm(self, live: Live) -> None:
        address = self.launcher.reached_at(live) if live.endpoints else ""
        if await self.launcher.captures.when_warm(live, self.launcher.contents(live), address):
            self.events.emit("instance", "snapshot", live.id, live.record.name)

    def resume_watch(self, live: Live, instance: Instance) -> None:
        """For an adopted survivor."""
        live.instance = instance
        self._watch(live, instance)

    def _health_changed(self, live: Live) -> None:
        self.events.emit("instance", "health_status", live.id, live.record.name, health=live.health.status)
        live.announce()

    # ending

    async def _wait(self, live: Live, instance: Instance) -> None:
        outcome = await instance.wait()
        async with live.lock:
            if live.instance is instance:
                await self.ended(live, outcome)

    async def ended(self, live: Live, outcome: Exit) -> None:
        """Clean up after an exit and decide what follows; the lock is held."""
        record = live.record
        ran = max(0.0, outcome.at - record.started_at)
        again = lifecycle.restart_after(record.spec.restart, Ended(outcome.code, ran, record.restart_count, live.asked_to_end))
        await self.tear_down(live, purge=record.spec.auto_remove)
        self._cancel_tasks(live)
        live.exits += 1
        state = live.next_state(Event.EXIT_AND_RESTART if again else Event.EXIT)
        self.database.save_instance(
            live.change(
                state=state,
                desired="running" if again else "stopped",
                finished_at=outcome.at,
                exit_code=outcome.code,
                oom_killed=outcome.oom,
                exit_reason=outcome.reason,
                restart_count=again.restarts if again else record.restart_count,
            )
        )
        self._tell_end(live, outcome)
        if again:
            self.schedule_restart(live, again.delay)
        elif record.spec.auto_remove:
            await self._forget_record(live, volumes=True)

    def _tell_end(self, live: Live, outcome: Exit) -> None:
        if outcome.oom:
            self.events.emit("instance", "oom", live.id, live.record.name)
        self.events.emit("instance", "die", live.id, live.record.name, exit_code=str(outcome.code), reason=outcome.reason)
        live.announce()

    def schedule_restart(self, live: Live, delay: float) -> None:
        """Start again after `delay` seconds, unless somebody intervenes."""
        live.tasks.append(self.tasks.spawn(f"restart {live.record.name}", self._restart_later(live, delay)))

    async def _restart_later(self, live: Live, delay: float) -> None:
        await asyncio.sleep(delay)
        async with live.lock:
            if live.record.state is not State.RESTARTING or live.removed:
                return
            live.tasks = []
            try:
                await self._bring_up(live, restarts=live.record.restart_count)
            except TwinhullError as error:
                self._restart_failed(live, error)

    def _restart_failed(self, live: Live, error: TwinhullError) -> None:
        record = live.change(state=State.RESTARTING)
        again = lifecycle.restart_after(record.spec.restart, Ended(getattr(error, "exit_code", 128), 0, record.restart_count, asked=False))
        if again is None:
            self.database.save_instance(live.change(state=State.EXITED, desired="stopped", finished_at=time.time()))
            self._tell_end(live, Exit(record.exit_code, time.time(), reason=f"start-failed: {error}"))
            return
        self.database.save_instance(live.change(restart_count=again.restarts, desired="running"))
        self.schedule_restart(live, again.delay)

    async def stop(self, live: Live, timeout: float | None = None, word: str = "") -> None:
        """Ask with the stop signal, and kill after the timeout (seconds; negative: never)."""
        async with live.lock:
            if not self._ask_to_end(live):
                return
            instance = live.instance
        spec = live.record.spec
        number = stop_signal(replace(spec, stop_signal=word) if word else spec, live.image)
        exits = live.exits
        if instance is not None:
            if live.record.state is State.PAUSED:
                await self.unpause(live)
            await _tolerant(instance.signal(number))
            patience = spec.stop_timeout if timeout is None else timeout
            if not await self._ends_within(live, exits, None if patience < 0 else patience):
                await _tolerant(instance.signal(signal.SIGKILL))
                await self._must_end(live, exits)
        self.events.emit("instance", "stop", live.id, live.record.name)

    def _ask_to_end(self, live: Live) -> bool:
        """Note that the end is wanted. False if there is nothing to end."""
        if live.record.state is State.RESTARTING:
            self._cancel_tasks(live)
            self.database.save_instance(live.change(state=live.next_state(Event.GIVE_UP), desired="stopped"))
            live.announce()
            return False
        if not live.up:
            return False
        live.asked_to_end = True
        self.database.save_instance(live.change(desired="stopped"))
        return True

    async def kill(self, live: Live, number: int) -> None:
        """A signal to the workload; KILL also says that its end is wanted."""
        async with live.lock:
            if live.record.state is State.PAUSED and number == signal.SIGKILL and live.instance is not None:
                await live.instance.resume()
                self.database.save_instance(live.change(state=State.RUNNING))
            instance = live.running()
            if number == signal.SIGKILL:
                self._ask_to_end(live)
        await instance.signal(number)
        self.events.emit("instance", "kill", live.id, live.record.name, signal=str(number))

    async def pause(self, live: Live) -> None:
        """Freeze."""
        async with live.lock:
            state = live.next_state(Event.PAUSE)
            await live.running().pause()
            self.database.save_instance(live.change(state=state))
        self.events.emit("instance", "pause", live.id, live.record.name)
        live.announce()

    async def unpause(self, live: Live) -> None:
        """Thaw."""
        async with live.lock:
            state = live.next_state(Event.UNPAUSE)
            if live.instance is not None:
                await live.instance.resume()
            self.database.save_instance(live.change(state=state))
        self.events.emit("instance", "unpause", live.id, live.record.name)
        live.announce()

    # removing

    async def remove(self, live: Live, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it with all that it left. A second call waits for nothing and finds nothing."""
        if force:
            self._give_up_start(live)
        if (live.up or live.record.state is State.RESTARTING) and not force:
            hint = f"twinhull stop {live.record.name}, or rm --force"
            raise ConflictError(f"instance {live.record.name} is {live.record.state}", hint)
        async with live.lock:
            if live.removed:
                return
            self._ask_to_end(live)
            self.database.save_instance(live.change(desired="removed"))
            try:
                await self.forget(live, volumes=volumes)
            except Exception as error:
                self.database.save_instance(live.change(state=State.DEAD, error=f"remove: {error}"))
                live.announce()
                raise

    async def forget(self, live: Live, *, volumes: bool) -> None:
        """End the hull by force, remove everything, and the record last, so that a killed daemon finds it again."""
        await self.tear_down(live, purge=True)
        self._cancel_tasks(live)
        await self._forget_record(live, volumes=volumes)

    async def _forget_record(self, live: Live, *, volumes: bool) -> None:
        if volumes:
            await self._remove_anonymous(live)
        self.database.remove_instance(live.id)
        live.removed = True
        live.change(state=State.EXITED)
        self.lives.pop(live.id, None)
        self.events.emit("instance", "destroy", live.id, live.record.name)
        live.announce()

    async def _remove_anonymous(self, live: Live) -> None:
        for mount in live.record.spec.mounts:
            if mount.type is MountType.VOLUME and _is_anonymous(mount):
                with contextlib.suppress(NotFoundError):
                    await self.launcher.volumes.remove(mount.source)

    async def tear_down(self, live: Live, *, purge: bool = False) -> None:
        """Remove hull, names, ports and interfaces. Each step is tried, whatever happened to the one before."""
        network = self.launcher.network
        instance, live.instance = live.instance, None
        if instance is None:
            instance = self.launcher.hull(live, self.launcher.bare(live))
        steps: list[Callable[[], Awaitable[None]]] = [
            lambda: network.unpublish(live.id),
            lambda: network.remove_names(live.id),
            lambda: instance.delete(purge=purge),
        ]
        failures = [failure for step in steps if (failure := await _attempt(step)) is not None]
        live.change(published=())
        if ports := self.launcher.network_ports(live):
            # a link takes the kernel 40 ms to delete; whoever uses its number again waits, and a killed daemon's successor finds it
            self.tasks.spawn(f"detach {live.record.name}", network.detach(ports))
        if failures:
            raise failures[0]

    def _cancel_tasks(self, live: Live) -> None:
        current = asyncio.current_task()
        for task in live.tasks:
            if task is not current:
                task.cancel()
        live.tasks = []

    async def _ends_within(self, live: Live, exits: int, seconds: float | None) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await live.wait_for(lambda: live.exits > exits or live.removed)
        return live.exits > exits or live.removed

    async def _must_end(self, live: Live, exits: int) -> None:
        if not await self._ends_within(live, exits, _KILL_PATIENCE):
            raise TwinhullError(f"instance {live.record.name} doesn't end, not even by KILL", f"twinhull rm --force {live.record.name}")


def _with_volumes(spec: InstanceSpec, image: ImageConfig) -> InstanceSpec:
    """Names for anonymous volumes, the image's own VOLUMEs included unless something is mounted there."""
    targets = {mount.target for mount in spec.mounts}
    own = tuple(MountSpec(MountType.VOLUME, target) for target in image.volumes if target not in targets and target != "/")
    return replace(spec, mounts=tuple(_named(mount) for mount in (*spec.mounts, *own)))


def _address(network: NetworkRecord, wanted: str, used: set[str]) -> str:
    if wanted:
        return addresses.check_address(wanted, network.subnet, network.gateway, used)
    return addresses.choose_address(network.subnet, network.gateway, used)


def _named(mount: MountSpec) -> MountSpec:
    return replace(mount, source=secrets.token_hex(32)) if mount.type is MountType.VOLUME and not mount.source else mount


def _is_anonymous(mount: MountSpec) -> bool:
    return len(mount.source) == 64 and set(mount.source) <= set("0123456789abcdef")


def dns_names(live: Live) -> list[Name]:
    """Name, short id, hostname and aliases on each network."""
    own = (live.record.name, live.id[:12], live.record.spec.hostname or live.id[:12])
    return [(e.network_id, word, e.address) for e in live.endpoints for word in dict.fromkeys((*own, *e.aliases))]


def _is_cancelled() -> bool:
    """Whether it is the caller that was cancelled, not something it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _tolerant(work: Awaitable[None]) -> None:
    """The workload may end by itself between the question and the signal."""
    with contextlib.suppress(TwinhullError, ProcessLookupError):
        await work


async def _attempt(step: Callable[[], Awaitable[None]]) -> Exception | None:
    try:
        await step()
    except UserError:
        return None
    except Exception as error:
        _log.exception("tear down")
        return error
    return None
