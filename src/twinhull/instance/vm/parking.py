"""Parked guests: restored, exercised once, stopped, and waiting for an instance to give them an image, an interface and an identity.

A parked guest lives in a run folder of its own (`park-…`), under ids, a cgroup and taps of its own. An instance that claims it gets all of
that: the folder becomes the instance's by one rename, which is the moment of the handover for whoever is killed around it.

Laws: a claim never waits and never fails: without a guest of its shape (None) the instance starts as ever, and the demand is noted. Guests
are made one at a time, in a cgroup of little weight, after a pause since the last claim. What a process that was killed left is ended by
`recover`: the folder's lock tells it from what is in use. A parked guest has no secret, no address and no image; its entropy is its own.

Called by the engine (`Pool`) and by `machine.py` (`Parked`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from twinhull.errors import PermanentError, TwinhullError
from twinhull.home import Home
from twinhull.instance.vm import accelerator, assets, exercise, migration, placeholders, process, qemu, scratch, shape, template, trial
from twinhull.instance.vm.agent import AgentClient
from twinhull.instance.vm.assets import Assets
from twinhull.instance.vm.console import Console
from twinhull.instance.vm.disks import Disks
from twinhull.instance.vm.guest import GuestIdentity
from twinhull.instance.vm.qmp import Monitor
from twinhull.instance.vm.record import Made, read_made, write_made
from twinhull.instance.vm.snapshots import Snapshot, Snapshots, copy_disk
from twinhull.plan import parking
from twinhull.spec.instance import Resources
from twinhull.sys import trees
from twinhull.sys.cgroup import Cgroup

KIND = "park"
FIRST_SLOT, SLOTS = 3_583, 511
"""Ranges of ids that no instance is given by the engine (engine/launch.py), and that `trial.py` doesn't use."""
COST = {qemu.Accelerator.KVM: 24 << 20, qemu.Accelerator.TCG: 72 << 20}
"""Bytes of one parked guest beyond what all share; under TCG mostly its code cache."""
_FIRST_ID, _IDS = 0x7000_0000, 65_536
_SHARES = 64
"""CPU weight of a guest that is being parked; 1024 is everybody's."""
_PAUSE, _PATIENCE = 1.0, 8.0
"""Seconds without a claim before the next guest is made, and how long that is waited for at most."""
_EXERCISE_SECONDS = 60.0
_ANSWER_SECONDS = 0.1
"""In which a guest answers most pings; what it hasn't answered then isn't warm."""
_RETRY_SECONDS = 300.0
_LOOK_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Want:
    """What an instance must have in common with its guest. `memory`: bytes of the workload's limit; `nics`: number of interfaces.

    `snapshot`: key of the snapshot that it is to go on from, "": none.
    """

    memory: int
    cpus: int
    nics: int
    snapshot: str = ""


def want(resources: Resources, nics: int, snapshot: str = "") -> Want:
    """Of an instance without volumes."""
    return Want(resources.memory or qemu.DEFAULT_MEMORY, qemu.cpu_count(resources.cpus, len(os.sched_getaffinity(0))), nics, snapshot)


@dataclass(eq=False)
class Parked:
    """One guest. Exactly one of `take` (once) and `discard` ends its waiting; afterwards the connections are the taker's to close."""

    home: Home
    run: Path
    lock: int
    made: Made
    vmm: process.Vmm | None = None
    messages: process.Messages = field(default_factory=process.Messages)
    console: Console = field(default_factory=Console)
    monitor: Monitor | None = None
    agent: AgentClient | None = None
    disks: Disks | None = None
    taps: tuple[int, ...] = ()
    taken: bool = False
    snapshot: str = ""
    """Key of the one it goes on from; then its disks are the application's already."""
    pool: Pool | None = None

    def failed(self, reason: str) -> None:
        """It was claimed and is of no use: its instance starts in another way."""
        if self.pool is not None:
            self.pool.failed(reason)

    @property
    def disk(self) -> Path:
        """Its writable layer, on the file system where instances have theirs, until somebody takes it."""
        return self.home.state / "parked" / f"{self.run.name}.img"

    def take(self, run: Path) -> None:
        """Its folder becomes `run`, which is empty or isn't there. Raises OSError; then it still waits."""
        run.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.run, run)
        self.taken = True
        self._let_go()

    async def enter(self, root: int, disk: int, resources: Resources) -> None:
        """Give it the files behind its disks and let it run. `disk`: a writable layer that is there already, -1: its own new one."""
        assert self.monitor is not None  # set before anybody sees it
        assert self.agent is not None
        if self.disks is not None:
            await self.disks.exchange("root", root)
        if self.disks is not None and disk >= 0:
            await self.monitor.execute("cont")
            await self.agent.reset()
            await self.disks.exchange("scratch", disk)
        limits = qemu.throttle(resources)
        if any(limits.values()):
            await self.monitor.execute("qom-set", path="/objects/limits", property="limits", value=limits)
        await self.monitor.execute("cont")

    def release(self) -> None:
        """`discard`, by the pool and in the background."""
        if self.pool is not None:
            self.pool.release(self)

    async def discard(self) -> None:
        """End it if nobody took it. Idempotent."""
        if self.taken:
            return
        for connection in (self.agent, self.monitor, self.console):
            if connection is not None:
                await connection.close()
        await process.end(self.run)
        self.messages.close()
        self._let_go()
        await asyncio.to_thread(self._remove)

    def _let_go(self) -> None:
        for tap in self.taps:
            os.close(tap)
        self.taps = ()
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def _remove(self) -> None:
        Cgroup(self.made.cgroup).remove(patience=5.0)
        self.disk.unlink(missing_ok=True)
        trees.remove(self.run)


@dataclass
class _Counts:
    made: int = 0
    claimed: int = 0
    missed: int = 0
    failed: int = 0
    last_failure: str = ""


@dataclass(eq=False)
class Pool:
    """All parked guests of a daemon. `limit`: of one shape, 0 = off; `budget`: bytes for all."""

    home: Home
    policy: str
    limit: int
    budget: int
    store: Snapshots
    _waiting: dict[Want, deque[Parked]] = field(default_factory=dict)
    _demand: dict[Want, deque[float]] = field(default_factory=dict)
    _counts: _Counts = field(default_factory=_Counts)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _given_up: dict[Want, float] = field(default_factory=dict)
    _discards: set[asyncio.Task[None]] = field(default_factory=set)
    _last_claim: float = 0.0

    def claim(self, wish: Want) -> Parked | None:
        """A guest of that shape, if one waits. The demand is noted either way."""
        if self.limit <= 0:
            return None
        self.expect(wish)
        self._last_claim = time.monotonic()
        waiting = self._waiting.get(wish, deque())
        while waiting:
            found = waiting.popleft()
            if found.vmm is not None and found.vmm.alive:
                self._counts.claimed += 1
                return found
            self.release(found)
        self._counts.missed += 1
        return None

    def expect(self, wish: Want) -> None:
        """Note that one of that shape is wanted soon."""
        self._demand.setdefault(wish, deque(maxlen=max(self.limit, 1))).append(time.monotonic())
        self._wake.set()

    def release(self, found: Parked) -> None:
        """End one that was claimed and isn't used, in the background."""
        task = asyncio.create_task(found.discard(), name="discard a parked guest")
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)

    def failed(self, reason: str) -> None:
        """A guest that was claimed wasn't of use; its instance started in another way."""
        self._counts.failed += 1
        self._counts.last_failure = reason

    def statistics(self) -> dict[str, int | str]:
        """Guests that wait, and that are yet to be made; since this process began: made, claimed, starts that found none, failures."""
        counts = self._counts
        wanted = self._wanted()
        return {
            "waiting": sum(map(len, self._waiting.values())),
            "missing": sum(max(0, count - len(self._waiting.get(wish, ()))) for wish, count in wanted.items()),
            "made": counts.made,
            "claimed": counts.claimed,
            "missed": counts.missed,
            "failed": counts.failed,
            "last_failure": counts.last_failure,
        }

    async def keep(self) -> None:
        """Have as many as are wanted, for ever."""
        while self.limit > 0:
            await self._settle()
            wish = await self._next()
            if wish is not None:
                await self._add(wish)
                continue
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()

    async def close(self) -> None:
        """End all that wait. `keep` has been cancelled."""
        self.limit = 0
        for waiting in self._waiting.values():
            while waiting:
                self.release(waiting.popleft())
        await asyncio.gather(*self._discards, return_exceptions=True)

    async def _settle(self) -> None:
        """Until the starts that are under way have the processors for themselves no longer."""
        end = time.monotonic() + _PATIENCE
        while (quiet := time.monotonic() - self._last_claim) < _PAUSE and time.monotonic() < end:  # noqa: ASYNC110 - a pause has no event
            await asyncio.sleep(_PAUSE - quiet)

    async def _next(self) -> Want | None:
        """A shape of which one is missing; those that nobody wants any more go."""
        now, wanted = time.monotonic(), self._wanted()
        for wish, waiting in self._waiting.items():
            while len(waiting) > wanted.get(wish, 0):
                self.release(waiting.popleft())
        for wish, count in wanted.items():
            refused = now - self._given_up.get(wish, -_RETRY_SECONDS) < _RETRY_SECONDS
            if len(self._waiting.get(wish, ())) < count and not refused:
                return wish
        return None

    def _wanted(self) -> dict[Want, int]:
        kind = qemu.Accelerator(accelerator.cached(self.home) or qemu.Accelerator.TCG)
        return parking.wanted(self._demand, time.monotonic(), parking.Bounds(self.limit, self.budget, COST[kind]))

    async def _add(self, wish: Want) -> None:
        try:
            found = await park(self.home, self.policy, wish, self.store)
        except (TwinhullError, OSError, TimeoutError) as error:
            self.failed(f"park a guest: {error or type(error).__name__}")
            self._given_up[wish] = time.monotonic()
            _log.warning("%s", self._counts.last_failure)
            return
        found.pool = self
        self._counts.made += 1
        self._waiting.setdefault(wish, deque()).append(found)


async def park(home: Home, policy: str, wish: Want, store: Snapshots | None = None) -> Parked:
    """Make one. Raises TwinhullError, OSError, TimeoutError; then nothing of it is left. `store`: where its snapshot is."""
    guest = assets.load()
    choice = await accelerator.choose(home, guest, policy)
    cpu = await asyncio.to_thread(accelerator.cpu, choice, wish.cpus)
    wanted = shape.Shape(accelerator.binary(), qemu.ram(wish.memory), cpu, wish.nics, "")
    origin = await _origin(home, guest, wanted, wish, store)
    with ExitStack() as stack:
        saved = origin.saved(stack)
        found = await asyncio.to_thread(_folder, home, wish, choice.accelerator)
        try:
            async with asyncio.timeout(_EXERCISE_SECONDS):
                if isinstance(origin, Snapshot):
                    await _resume(found, guest, wanted, origin, saved)
                else:
                    await _warm_up(found, guest, wanted, origin, saved)
        except BaseException as error:
            said = found.messages.text()
            await asyncio.shield(found.discard())
            if isinstance(error, TwinhullError) and said:
                raise PermanentError(f"{error.message}: {said}") from error
            raise
    return found


async def _origin(home: Home, guest: Assets, wanted: shape.Shape, wish: Want, store: Snapshots | None) -> template.Template | Snapshot:
    found = (await store.obtain(wish.snapshot) if store else None) if wish.snapshot else await template.obtain(home, guest, wanted)
    if found is None:
        raise PermanentError("the snapshot is gone" if wish.snapshot else "there's no template")
    return found


async def _warm_up(found: Parked, guest: Assets, wanted: shape.Shape, origin: template.Template, saved: qemu.Saved) -> None:
    """From a template: fresh, exercised, with a writable layer, stopped."""
    disk = found.run / "exercise.img"
    await asyncio.to_thread(scratch.ensure, disk, found.home.cache / "vm")
    await _start(found, guest, wanted, Files(await asyncio.to_thread(exercise.image, found.home, guest), disk, saved))
    disk.unlink()
    template.proved(origin)
    await _exercise(found, wanted.nics)
    await _prepare(found)


async def _resume(found: Parked, guest: Assets, wanted: shape.Shape, origin: Snapshot, saved: qemu.Saved) -> None:
    """From a snapshot: its workload frozen, as nobody, stopped. What it did to become nobody it will do once more, and faster."""
    found.snapshot = origin.key
    found.disk.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    await asyncio.to_thread(copy_disk, origin.disk, found.disk)
    await _start(found, guest, wanted, Files(origin.root, found.disk, saved))
    assert found.monitor is not None
    assert found.agent is not None
    await found.agent.resume(GuestIdentity("parked", (), exercise.config(wanted.nics).interfaces))
    await _knock(found)
    await asyncio.sleep(_ANSWER_SECONDS)
    await _quieten(found)
    await found.monitor.execute("stop")


@dataclass(frozen=True, slots=True)
class Files:
    """What is behind a guest's disks, and what it is restored from."""

    root: Path
    disk: Path
    saved: qemu.Saved


def _folder(home: Home, wish: Want, kind: qemu.Accelerator) -> Parked:
    """Its run folder, locked, with what says whose it is."""
    home.run.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix=f"{KIND}-", dir=home.run))
    run.chmod(0o711)
    lock = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    group = f"{home.cgroup}/{run.name}"
    made = Made(kind.value, wish.memory, qemu.ram(wish.memory), wish.cpus, wish.nics, slot=_free_slot(home), cgroup=group)
    write_made(run, made)
    return Parked(home, run, lock, made)


def _free_slot(home: Home) -> int:
    folders = (*home.run.glob(f"{KIND}-*"), *home.run.glob("i/*"))
    used = {made.slot for folder in folders if (made := read_made(folder)) is not None}
    for slot in range(FIRST_SLOT, FIRST_SLOT + SLOTS):
        if slot not in used:
            return slot
    raise PermanentError(f"all {SLOTS} ranges of ids for parked guests are in use")


def host_limits(made: Made) -> Resources:
    """Around a QEMU that works for nobody yet."""
    memory = made.ram + qemu.HOST_MEMORY[qemu.Accelerator(made.accelerator)]
    return Resources(cpu_shares=_SHARES, memory=memory, memory_swap=-1, pids=qemu.HOST_THREADS)


async def _start(found: Parked, guest: Assets, wanted: shape.Shape, files: Files) -> None:
    """To an agent that answers."""
    home, run, made = found.home, found.run, found.made
    group = Cgroup(made.cgroup)
    await asyncio.to_thread(group.create, host_limits(made))
    names = tuple(home.ifname("p", (made.slot - FIRST_SLOT) * 16 + number) for number in range(wanted.nics))
    found.taps = await asyncio.to_thread(placeholders.named_taps, names)
    with ExitStack() as stack:
        vm = qemu.Vm(
            name=str(run),
            binary=wanted.binary,
            kernel=process.KERNEL,
            initrd=process.INITRD,
            memory=wanted.memory,
            cpu=wanted.cpu,
            channels=process.listen(run, stack),
            root=_opened(stack, files.root, os.O_RDONLY),
            scratch=_opened(stack, files.disk, os.O_RDWR),
            nics=tuple(qemu.Nic(shape.mac(number), tap) for number, tap in enumerate(found.taps)),
            saved=files.saved,
        )
        with process.address(run, process.CONSOLE_SOCKET) as path:
            await found.console.connect(path)
        cage = process.Cage(run, _FIRST_ID + made.slot * _IDS, guest.kernel, guest.initrd, cgroups=group.folders)
        found.vmm = await process.start(vm, cage, found.messages)
    with process.address(run, process.QMP_SOCKET) as path:
        found.monitor = await Monitor.connect(path)
    restore = migration.restore_stopped if found.snapshot else migration.restore
    await restore(found.monitor, files.saved.state)
    with process.address(run, process.AGENT_SOCKET) as path:
        found.agent = await AgentClient.connect(path, timeout=template.ANSWER_SECONDS[wanted.cpu.accelerator])


async def _exercise(found: Parked, nics: int) -> None:
    """Let it work, forget the work, and stop it."""
    agent = found.agent
    assert agent is not None
    ready = asyncio.Event()

    def listen(*_: object) -> None:
        ready.set()

    agent.listen(listen)
    await agent.configure(exercise.config(nics))
    await agent.start()
    ended = asyncio.create_task(agent.wait_exit(), name="exercise")
    said = asyncio.create_task(ready.wait(), name="exercise is ready")
    try:
        await asyncio.wait((ended, said), return_when=asyncio.FIRST_COMPLETED)
        await _knock(found)
        if (await ended).code != 0:
            raise PermanentError(f"the exercise ended with {ended.result().code}")
    finally:
        for task in (ended, said):
            task.cancel()
        await asyncio.gather(ended, said, return_exceptions=True)
    await _quieten(found)
    await agent.reset()


async def _prepare(found: Parked) -> None:
    """A writable layer of its own, mounted: that takes a third of what is left of a start."""
    assert found.monitor is not None
    assert found.agent is not None
    found.disks = Disks(found.monitor)
    disk = found.disk
    disk.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    await asyncio.to_thread(scratch.ensure, disk, found.home.cache / "vm")
    with ExitStack() as stack:
        await found.disks.exchange("scratch", _opened(stack, disk, os.O_RDWR))
    await found.agent.prepare()
    await found.monitor.execute("stop")


async def _knock(found: Parked) -> None:
    """Packets from outside; without them only a part isn't warm."""
    for tap in found.taps[:1]:
        name = placeholders.name_of(tap)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(exercise.knock, name)


async def _quieten(found: Parked) -> None:
    """Down again: only then can every kernel rename it."""
    for tap in found.taps[:1]:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(exercise.set_up, placeholders.name_of(tap), up=False)


async def recover(home: Home) -> None:
    """End and remove what a process that was killed left parked."""
    await trial.sweep(home, KIND)
    await asyncio.to_thread(_remove_strays, home)


def _remove_strays(home: Home) -> None:
    """Disks and cgroups whose guest is gone. One that an instance has taken over is the instance's."""
    for disk in (home.state / "parked").glob("*.img"):
        if not (home.run / disk.stem).exists():
            disk.unlink(missing_ok=True)
    held = {made.cgroup for folder in home.run.glob("i/*") if (made := read_made(folder)) is not None}
    for folder in Cgroup(home.cgroup).folders:
        for child in folder.glob(f"{KIND}-*"):
            path = f"{home.cgroup}/{child.name}"
            if path not in held and not (home.run / child.name).exists():
                with contextlib.suppress(OSError):
                    Cgroup(path).remove(patience=2.0)


def _opened(stack: ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor
