"""An instance as a virtual machine: QEMU in its jail, the agent inside, one log outside.

There is no process between: QEMU belongs to nobody but its run folder, where `vm.json` names it (see `jail`), `machine.json` says what it
was made with and whether it was started, `exit.json` how its workload ended, and the sockets wait for whichever daemon comes. So a daemon
that dies at any point is followed by one that adopts or deletes.

Invariant: `exit.json` is written before anything is done that ends QEMU on our own account; a QEMU that is gone without it was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from twinhull.errors import ConflictError, NotFoundError, PermanentError, TemporaryError, TwinhullError, UnsupportedError
from twinhull.home import Home
from twinhull.instance import capabilities, seccomp, sources
from twinhull.instance.base import Exit, Instance, Launch, PortKind, Process, Region, RootKind, Session, Stats, Traits
from twinhull.instance.vm import (
    accelerator,
    assets,
    migration,
    parking,
    process,
    qemu,
    regions,
    scratch,
    secretfiles,
    shape,
    snapshots,
    template,
)
from twinhull.instance.vm.agent import AGENT, AgentClient, GuestExit
from twinhull.instance.vm.console import Console
from twinhull.instance.vm.filter import compile_profile
from twinhull.instance.vm.frames import GuestState
from twinhull.instance.vm.guest import GuestConfig, guest_config, guest_identity
from twinhull.instance.vm.jail import RECORD, VOLUMES
from twinhull.instance.vm.log import GuestLog
from twinhull.instance.vm.qmp import Monitor
from twinhull.instance.vm.record import EXIT, MADE, Made, read_exit, read_made, write_exit, write_made
from twinhull.instance.vm.snapshots import About, Resume, Snapshot, Snapshots, Source
from twinhull.spec.instance import Resources
from twinhull.sys import trees
from twinhull.sys.cgroup import Cgroup

TRAITS = Traits(
    root=RootKind.EROFS,
    port=PortKind.TAP,
    host_network=False,
    pause=True,
    reasons={
        "host-network": "a VM has a kernel of its own, and so a network of its own",
    },
)

BOOT_SECONDS = {qemu.Accelerator.KVM: (15.0, 30.0), qemu.Accelerator.TCG: (45.0, 120.0)}
"""From QEMU's start to the agent's answer, for the first try and a second one. Under TCG about one kernel in a hundred locks up while it
boots on an overloaded machine; a second try costs less than patience. A healthy boot took 18 s at worst, with ten runnable processes."""
RECONNECT_SECONDS = 10.0
SHUTDOWN_SECONDS = 10.0
ADOPT_SECONDS = 5.0
"""How long adoption waits for the agent; afterwards that goes on in the background."""
KILL_SECONDS = 2.0
"""How long the guest may take to end a killed workload before its machine is ended."""
LOST_SECONDS = 20.0
"""How long a running QEMU's agent may be unreachable."""
_HOST_SIDE_TOOLS = frozenset(("diff", "layer"))
_LOST = "vmm-lost"
_DISK = "scratch.img"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is the same for every try to bring the machine up."""

    guest: assets.Assets
    cpu: qemu.Cpu
    made: Made
    disk: Path
    volumes: tuple[process.Volume, ...]


class VmInstance(Instance):
    """See the module. `policy`: kvm, tcg or auto. `templates`: whether a start may restore a booted guest instead of booting it.

    `ready`: a parked guest to go on with, and the launch's taps are its own. `resume`: a snapshot of its application to go on from.

    `accelerator`: "kvm" or "tcg" once it is made. `restored`: whether `create` restored it, now or when it was parked. `resumed`:
    whether from the snapshot; then its workload runs already, and is frozen.
    """

    traits = TRAITS

    def __init__(
        self,
        launch: Launch,
        home: Home,
        policy: str = "auto",
        *,
        templates: bool = True,
        ready: parking.Parked | None = None,
        resume: Resume | None = None,
    ) -> None:
        super().__init__(launch)
        self.accelerator = ""
        self.restored = self.resumed = False
        self._home, self._policy, self._templates, self._ready, self._resume = home, policy, templates, ready, resume
        self._run = launch.paths.run
        self._cgroup = Cgroup(launch.cgroup)
        self._resources = launch.resources
        self._made: Made | None = None
        self._vmm: process.Vmm | None = None
        self._agent: AgentClient | None = None
        self._monitor: Monitor | None = None
        self._log: GuestLog | None = None
        self._console = Console()
        self._messages: process.Messages | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._killer: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[Exit] | None = None
        self._paused = False
        self._woken = asyncio.Event()
        self._standstill = asyncio.Lock()

    async def create(self) -> None:
        """Come to the agent and configure the guest; the workload is ready to be started."""
        try:
            with secretfiles.shared(self.launch) as self.launch:
                await self._come_up()
                await self._reach(self._configure(), "the agent")
        finally:
            self._close_taps()
        self._watch()

    async def start(self) -> None:
        """The workload's first instruction. Processor time is limited from here on: the boot isn't the workload's."""
        made, agent = self._require_made(), self._require_agent()
        self._save(replace(made, started=True))
        await asyncio.to_thread(self._cgroup.update, self._host_limits(made))
        if not self.resumed or self._resume is None:
            await agent.start()
            return
        await agent.freeze(frozen=False)
        if self._resume.signal:
            await agent.signal(self._resume.signal)

    async def _configure(self) -> None:
        """What it is to be. A parked guest stood still: the right time first."""
        agent = self._require_agent()
        if self.resumed:
            await asyncio.gather(agent.set_clock(), agent.resume(guest_identity(self.launch)))
            if self._require_made().volumes:
                await agent.volumes(mounted=True)
            agent.listen(self._require_log().take)
        elif self._ready is not None:
            await asyncio.gather(agent.set_clock(), agent.configure(self._guest()))
        else:
            await agent.configure(self._guest())

    async def capture(self, store: Snapshots, about: About) -> None:
        """Make a snapshot of it, warm as it is. Its workload stands still meanwhile, for some tenths of a second."""
        with ExitStack() as stack:
            async with self._standing_still() as source:
                whole = stack.enter_context(contextlib.closing(await snapshots.write(source, self._home)))
            await store.keep(replace(about, root=str(_root_file(self.launch))), whole)

    @contextlib.asynccontextmanager
    async def _standing_still(self) -> AsyncIterator[Source]:
        """For what may stop the guest within: it goes on afterwards, at the latest with the next connection to it (`_connect`)."""
        async with self._standstill:
            source = await self._source()
            self._save(replace(self._require_made(), capturing=True))
            try:
                yield source
            finally:
                try:
                    await snapshots.release(source)
                except BaseException:
                    await source.agent.close()  # who follows it connects anew
                    raise
                self._save(replace(self._require_made(), capturing=False))

    async def _source(self) -> Source:
        made = self._require_made()
        choice = accelerator.Choice(qemu.Accelerator(made.accelerator), "")
        cpu = await asyncio.to_thread(accelerator.cpu, choice, made.cpus)
        wanted = shape.Shape(accelerator.binary(), made.ram, cpu, made.nics, VOLUMES if made.volumes else "")
        return Source(wanted, self._require_monitor(), self._running_agent(), self.launch.paths.state / _DISK)

    async def adopt(self) -> bool:
        """Take over a VM that an earlier daemon made."""
        self._made = read_made(self._run)
        if self._made is None or not self._made.started:
            return False
        self.accelerator = self._made.accelerator
        self._cgroup = Cgroup(self._made.cgroup or self.launch.cgroup)
        self._vmm = process.recorded(self._run)
        known = read_exit(self._run)
        if known is not None:
            self._finish(known)
        elif self._vmm is None or not self._vmm.alive:
            self._finish(Exit(137, time.time(), reason=_LOST))
        else:
            self._open_log(fresh=False)
            with contextlib.suppress(TwinhullError, TimeoutError, OSError):
                async with asyncio.timeout(ADOPT_SECONDS):
                    await self._connect()
            if self._agent is not None and not _was_started(self._agent.state):
                return False
        self._watch()
        return True

    async def wait(self) -> Exit:
        """See `Instance.wait`."""
        return await asyncio.shield(self._end_future())

    async def signal(self, number: int) -> None:
        """To the workload; KILL ends the machine if the guest doesn't within 2 s, or is paused."""
        if self._end_future().done():
            raise ConflictError("the instance isn't running")
        if number == signal.SIGKILL:
            self._killer = self._killer or asyncio.create_task(self._kill(), name=f"kill {self.launch.id[:12]}")
            return
        await self._running_agent().signal(number)

    async def exec(self, process: Process) -> Session:
        """Another program inside."""
        return await self._running_agent().exec(process)

    async def attach(self) -> Session:
        """The workload's own streams."""
        return await self._require_agent().attach()

    async def tool(self, *argv: str) -> Session:
        """The agent's file tools; `diff` and `layer` see the writable layer, which the root doesn't show."""
        host_side = argv[0] in _HOST_SIDE_TOOLS
        program = Process((AGENT, *argv), env=(), user="0:0", stdin=True, privileged=True)
        return await self._running_agent().exec(program, tool=True, host_side=host_side)

    async def top(self) -> list[dict[str, str]]:
        """Processes inside."""
        return await self._running_agent().top()

    async def regions(self) -> tuple[Region, ...]:
        """As QEMU tells them; nobody else can say which of its devices answer where."""
        text = await self._require_monitor().execute("human-monitor-command", command_line=regions.COMMAND)
        return regions.parse(str(text))

    async def stats(self) -> Stats:
        """The guest's view, and what the machine costs on the host. A paused guest can't say; then the inside is zero."""
        outside = await asyncio.to_thread(self._cgroup.usage)
        host = Stats(0, 0, self._require_made().memory, 0, 0, 0, 0, 0, outside.cpu_ns, outside.memory)
        if self._paused:
            return host
        inside = await self._require_agent().stats()
        return replace(
            host,
            cpu_ns=inside.cpu_ns,
            memory=max(0, inside.memory - inside.inactive_file),
            pids=inside.pids,
            net_rx=inside.net_rx,
            net_tx=inside.net_tx,
            block_read=inside.block_read,
            block_write=inside.block_write,
        )

    async def pause(self) -> None:
        """Stop the virtual processors. One that stands still for a snapshot goes on before."""
        async with self._standstill:
            if self._require_made().capturing:
                raise TemporaryError("the VM has yet to go on after a snapshot")
            await self._require_monitor().execute("stop")
            self._paused = True
            self._woken.clear()

    async def resume(self) -> None:
        """Let them run again, with the right time. Nothing happens to one that runs."""
        if not self._paused:
            return
        await self._require_monitor().execute("cont")
        self._paused = False
        try:
            if self._agent is None:
                await self._connect_agent(RECONNECT_SECONDS)
            else:
                await self._agent.set_clock()
        finally:
            self._woken.set()

    async def update(self, resources: Resources) -> None:
        """New limits. Memory and processors can't grow beyond what the machine was made with."""
        made = self._require_made()
        wanted = resources.memory or made.memory
        if wanted > made.memory:
            raise UnsupportedError(f"a running VM's memory can't grow beyond {made.memory} bytes", "recreate it with the new limit")
        if resources.cpus > made.cpus:
            raise UnsupportedError(f"a running VM has {made.cpus} processors", "recreate it with the new limit")
        await self._require_agent().update(replace(resources, memory=wanted, cpus=0))
        await self._require_monitor().execute("qom-set", path="/objects/limits", property="limits", value=qemu.throttle(resources))
        self._resources = resources
        await asyncio.to_thread(self._cgroup.update, self._host_limits(made))

    async def rotate_log(self) -> None:
        """Rotate now if the log is over its size; it is looked at with every write too."""
        if self._log is not None:
            self._log.rotate_if_due()

    async def delete(self, *, purge: bool = False) -> None:
        """See `Instance.delete`."""
        await self._let_go()
        if self._ready is not None:
            await self._ready.discard()
        if self._run.exists():
            await process.end(self._run)
        await asyncio.to_thread(self._remove, purge)
        self._finish(Exit(137, time.time(), reason="deleted"))

    # boot

    async def _come_up(self) -> None:
        """To a guest whose agent answers: one that was parked, else restored from a template, else booted."""
        if self._ready is not None and await self._take_over(self._ready):
            return
        plan = await self._plan()
        await asyncio.to_thread(self._cgroup.create, replace(self._host_limits(plan.made), cpus=0.0))
        if self._resume is not None and await self._go_on(plan, self._resume):
            return
        origin = await self._template(plan)
        if origin is None:
            await self._boot(plan)
            return
        try:
            await self._launch(plan, template.ANSWER_SECONDS[plan.cpu.accelerator], origin)
        except TwinhullError as error:
            await self._boot(plan)
            template.failed(origin, error.message)  # for what fails in both ways isn't the template's fault
        else:
            template.proved(origin)
            self.restored = True

    async def _go_on(self, plan: _Plan, resume: Resume) -> bool:
        """Go on from a snapshot. False: it was of no use, and nothing of it is left."""
        try:
            await asyncio.to_thread(plan.disk.unlink, missing_ok=True)
            await asyncio.to_thread(snapshots.copy_disk, resume.snapshot.disk, plan.disk)
            self.resumed = True
            await self._launch(plan, template.ANSWER_SECONDS[plan.cpu.accelerator], resume.snapshot)
        except (TwinhullError, OSError) as error:
            self.resumed = False
            resume.store.failure(resume.snapshot, str(error))
            plan.disk.unlink(missing_ok=True)
            await self._scratch()
            return False
        resume.store.succeeded(resume.snapshot)
        self.restored = True
        return True

    async def _boot(self, plan: _Plan) -> None:
        """Boot, and once more if the guest hangs; a QEMU that ended by itself would do so again."""
        first, second = BOOT_SECONDS[plan.cpu.accelerator]
        try:
            await self._launch(plan, first)
        except PermanentError:
            if self._vmm is None or not self._vmm.alive:
                raise
            await self._launch(plan, second)

    async def _plan(self) -> _Plan:
        """What the machine will be; its disk is made."""
        launch = self.launch
        if launch.root.erofs is None:
            raise PermanentError("start VM: the image has no erofs root")
        guest = assets.load()
        choice = await accelerator.choose(self._home, guest, self._policy)
        cpus = qemu.cpu_count(launch.resources.cpus, len(os.sched_getaffinity(0)))
        cpu = await asyncio.to_thread(accelerator.cpu, choice, cpus)
        memory = launch.resources.memory or qemu.DEFAULT_MEMORY
        volumes = self._volumes()
        made = Made(choice.accelerator.value, memory, qemu.ram(memory), cpus, len(launch.taps), volumes=bool(volumes))
        self.accelerator = made.accelerator
        return _Plan(guest, cpu, made, await self._scratch(), volumes)

    async def _scratch(self) -> Path:
        """The file of the writable layer, made if it isn't there."""
        self.launch.paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        disk = self.launch.paths.state / _DISK
        await asyncio.to_thread(scratch.ensure, disk, self._home.cache / "vm")
        return disk

    async def _take_over(self, ready: parking.Parked) -> bool:
        """Go on with a parked guest. False: it was of no use, and nothing of it is left."""
        try:
            root = _root_file(self.launch)
            if root.stat().st_size > shape.PLACEHOLDER:
                raise PermanentError("the image is larger than the guest's disk")
            ready.take(self._run)
            self._made, self.accelerator = ready.made, ready.made.accelerator
            self._vmm, self._messages, self._console = ready.vmm, ready.messages, ready.console
            self._monitor, self._agent = ready.monitor, ready.agent
            self._cgroup = await asyncio.to_thread(self._renamed, ready.made)
            with ExitStack() as stack:
                disk = self._own_disk(ready, stack)
                await self._reach(ready.enter(_opened(stack, root, os.O_RDONLY), disk, self.launch.resources), "the agent")
            self._open_log(fresh=True)
            self.resumed = bool(ready.snapshot)
            if not self.resumed:
                self._require_agent().listen(self._require_log().take)
        except (TwinhullError, OSError) as error:
            ready.failed(str(error))
            await self._give_back(ready)
            return False
        self.restored = True
        return True

    def _own_disk(self, ready: parking.Parked, stack: ExitStack) -> int:
        """The writable layer from an earlier start; -1 if there's none, and then the guest's becomes it."""
        disk = self.launch.paths.state / _DISK
        disk.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if disk.exists() and ready.snapshot:
            raise PermanentError("it has a writable layer of its own")
        if disk.exists():
            ready.disk.unlink(missing_ok=True)
            return _opened(stack, disk, os.O_RDWR)
        os.rename(ready.disk, disk)
        return -1

    def _renamed(self, made: Made) -> Cgroup:
        """A parked guest's control group under the instance's name, where the kernel lets one be renamed (v1), with the instance's weight.

        Moving QEMU to another one would leave the memory behind that it has, and costs a grace period of RCU.
        """
        group, own = Cgroup(made.cgroup), Cgroup(self.launch.cgroup)
        with contextlib.suppress(OSError):
            for old, new in zip(group.folders, own.folders, strict=True):
                os.rename(old, new)
            self._save(replace(made, cgroup=""))
            group = own
        group.update(replace(self._host_limits(made), cpus=0.0))
        return group

    async def _give_back(self, ready: parking.Parked) -> None:
        await self._drop_connections()
        await ready.discard()
        if ready.taken:
            await process.end(self._run)
            await asyncio.to_thread(Cgroup(ready.made.cgroup).remove, patience=5.0)
        self._made, self._vmm, self._cgroup = None, None, Cgroup(self.launch.cgroup)

    async def _template(self, plan: _Plan) -> template.Template | None:
        """What to restore from; None: boot."""
        if not self._templates or _root_file(self.launch).stat().st_size > shape.PLACEHOLDER:
            return None
        folder = VOLUMES if plan.volumes else ""
        wanted = shape.Shape(accelerator.binary(), plan.made.ram, plan.cpu, len(self.launch.taps), folder)
        return await template.obtain(self._home, plan.guest, wanted)

    async def _launch(self, plan: _Plan, patience: float, origin: template.Template | Snapshot | None = None) -> None:
        """One try to come to the agent, whatever an earlier one left."""
        with ExitStack() as stack:
            saved = origin.saved(stack) if origin else None
            await self._drop_connections()
            await self._clear()
            await self._spawn(plan, saved)
        self._open_log(fresh=True)
        await self._reach(self._connect(patience, saved), "the agent")

    async def _spawn(self, plan: _Plan, saved: qemu.Saved | None) -> None:
        launch, run, made = self.launch, self._run, plan.made
        self._save(made)
        if self._messages is not None:
            self._messages.close()
        await self._console.close()
        self._messages, self._console = process.Messages(), Console()
        with ExitStack() as stack:
            vm = qemu.Vm(
                name=str(run),
                binary=accelerator.binary(),
                kernel=process.KERNEL,
                initrd=process.INITRD,
                memory=made.ram,
                cpu=plan.cpu,
                channels=process.listen(run, stack),
                root=_opened(stack, _root_file(launch), os.O_RDONLY),
                scratch=_opened(stack, plan.disk, os.O_RDWR),
                nics=tuple(qemu.Nic(nic.mac, tap) for nic, tap in zip(launch.interfaces, launch.taps, strict=True)),
                volumes=VOLUMES if plan.volumes else "",
                resources=launch.resources,
                saved=saved,
            )
            cage = process.Cage(run, launch.id_base, plan.guest.kernel, plan.guest.initrd, plan.volumes, self._cgroup.folders)
            with process.address(run, process.CONSOLE_SOCKET) as path:
                await self._console.connect(path)
            self._vmm = await process.start(vm, cage, self._messages)

    async def _clear(self) -> None:
        """Leave nothing of an earlier, broken try in the run folder."""
        self._run.mkdir(parents=True, exist_ok=True, mode=0o711)
        await process.end(self._run)
        for name in (RECORD, MADE, EXIT):
            (self._run / name).unlink(missing_ok=True)

    def _volumes(self) -> tuple[process.Volume, ...]:
        wanted = [(mount.source, mount.read_only) for mount in self.launch.mounts if mount.source is not None]
        return tuple(
            process.Volume(number, sources.straight(self.launch, source), read_only, mapped=not secretfiles.holds(self.launch, source))
            for number, (source, read_only) in enumerate(wanted)
        )

    def _guest(self) -> GuestConfig:
        launch = self.launch
        targets = [mount.target for mount in launch.mounts if mount.source is not None]
        names = capabilities.effective(launch.security)
        limited = replace(launch, resources=replace(launch.resources, memory=self._require_made().memory, cpus=0))
        return guest_config(
            limited,
            volumes={target: number for number, target in enumerate(targets)},
            seccomp=compile_profile(seccomp.for_security(launch.security, names)),
            caps=capabilities.mask(names),
        )

    def _host_limits(self, made: Made) -> Resources:
        """Around QEMU: the workload's processor time; memory far enough above the guest's RAM. Disk limits are QEMU's own to keep."""
        wanted = self._resources
        memory = made.ram + qemu.HOST_MEMORY[qemu.Accelerator(made.accelerator)]
        return Resources(
            cpus=wanted.cpus, cpu_shares=wanted.cpu_shares, cpuset=wanted.cpuset, memory=memory, memory_swap=-1, pids=qemu.HOST_THREADS
        )

    # the connection to the inside

    async def _connect(self, seconds: float = RECONNECT_SECONDS, saved: qemu.Saved | None = None) -> None:
        """Monitor and agent; both wait until QEMU, then the guest, is so far. `saved`: what QEMU waits for."""
        with process.address(self._run, process.QMP_SOCKET) as path:
            self._monitor = await Monitor.connect(path, seconds)
        if saved is not None:
            restore = migration.restore_stopped if self.resumed else migration.restore
            await restore(self._monitor, saved.state)
        if self._require_made().capturing:
            await migration.go_on(self._monitor)
        self._paused = saved is None and (await self._monitor.execute("query-status")).get("status") == "paused"
        if self._paused:
            return  # nobody answers until it is resumed
        await self._connect_agent(seconds, listen=not self.resumed or saved is None)  # what was said before is another instance's
        if (made := self._require_made()).capturing:
            await snapshots.thaw(self._require_agent(), volumes=made.volumes)
            self._save(replace(made, capturing=False))

    async def _connect_agent(self, seconds: float, *, listen: bool = True) -> None:
        log = self._require_log()
        with process.address(self._run, process.AGENT_SOCKET) as path:
            self._agent = await AgentClient.connect(path, log_offset=log.offset, timeout=seconds, on_output=log.take if listen else None)

    async def _reach(self, action: Awaitable[_T], what: str) -> _T:
        """`action`, unless QEMU ends before: then an error with what QEMU and the console said."""
        vmm = self._vmm
        if vmm is None:
            raise PermanentError("start VM: no QEMU")
        doing = asyncio.ensure_future(action)
        ending = asyncio.create_task(vmm.wait(), name=f"qemu of {self.launch.id[:12]}")
        try:
            await asyncio.wait((doing, ending), return_when=asyncio.FIRST_COMPLETED)
            if doing.done() and not _is_loss(doing):
                return await doing
            if not ending.done():
                await asyncio.wait((ending,), timeout=0.5)
            raise PermanentError(f"start VM: {what} isn't there{self._said()}") from (doing.exception() if doing.done() else None)
        finally:
            for task in (doing, ending):
                task.cancel()
            await asyncio.gather(doing, ending, return_exceptions=True)

    def _said(self) -> str:
        texts = [self._vmm.trouble if self._vmm else "", self._messages.text() if self._messages else "", self._console.text()]
        return "".join(f"\n{text}" for text in texts if text)

    def _open_log(self, *, fresh: bool) -> None:
        launch = self.launch
        if self._log is not None:
            self._log.close()
        self._log = GuestLog(launch.paths.log, self._run, launch.log_max_size, launch.log_max_files, fresh=fresh)

    # the end

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._follow_to_end(), name=f"vm {self.launch.id[:12]}")

    async def _follow_to_end(self) -> None:
        """Wait for the workload's end, write it down, and end the machine; reconnects while QEMU lives."""
        if self._end_future().done():
            return
        ended = await self._workload_end()
        outcome = ended if isinstance(ended, Exit) else Exit(ended.code, time.time(), ended.oom, "oom" if ended.oom else "")
        write_exit(self._run, outcome)
        await self._power_off()
        self._finish(outcome)

    async def _workload_end(self) -> GuestExit | Exit:
        assert self._vmm is not None  # set by create and adopt
        gone = asyncio.create_task(self._vmm.wait(), name=f"qemu of {self.launch.id[:12]}")
        try:
            while True:
                found = await self._agent_says(gone)
                if found is not None:
                    return found
                if gone.done():
                    return self._lost("")
        finally:
            gone.cancel()

    async def _agent_says(self, gone: asyncio.Task[None]) -> GuestExit | Exit | None:
        """The exit as the agent tells it; None if the connection was lost (or QEMU ended), an Exit if it can't be had again."""
        await self._until_awake(gone)
        if self._agent is None or self._agent.lost.is_set() or self._require_made().capturing:
            try:
                async with asyncio.timeout(LOST_SECONDS):
                    await self._reconnect(gone)
            except (TwinhullError, TimeoutError, OSError) as error:
                still = "it stood still for a snapshot and can't go on: " if self._require_made().capturing else ""
                return None if gone.done() else self._lost(f": {still}{error or 'no answer'}")
        agent = self._agent
        if agent is None:  # it was paused when it was reached
            return None
        telling = asyncio.create_task(agent.wait_exit(), name=f"exit of {self.launch.id[:12]}")
        try:
            await asyncio.wait((telling, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not telling.done():
                await asyncio.wait((telling,), timeout=1.0)  # what is still in the socket
            return telling.result() if telling.done() and telling.exception() is None else None
        finally:
            telling.cancel()

    async def _until_awake(self, gone: asyncio.Task[None]) -> None:
        """While a guest is paused to which there is no connection: its agent can't answer."""
        if self._paused and self._agent is None:
            waking = asyncio.create_task(self._woken.wait(), name=f"pause of {self.launch.id[:12]}")
            try:
                await asyncio.wait((waking, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waking.cancel()

    async def _reconnect(self, gone: asyncio.Task[None]) -> None:
        while not gone.done():
            await self._drop_connections()
            try:
                await self._connect()
            except TemporaryError:
                await asyncio.wait((gone,), timeout=0.1)
                continue
            if self._agent is not None and not _was_started(self._agent.state):
                raise PermanentError("the guest started anew")
            return
        raise PermanentError("QEMU ended")

    def _lost(self, why: str) -> Exit:
        killed = self._killer is not None
        trouble = self._vmm.trouble if self._vmm else ""
        return Exit(137, time.time(), reason="" if killed else f"{_LOST}{f': {trouble}' if trouble else why}")

    async def _power_off(self) -> None:
        """Let the guest sync its disk and end; make it end if it doesn't."""
        assert self._vmm is not None  # set by create and adopt
        with contextlib.suppress(OSError):  # the guest's last work needn't be slow
            await asyncio.to_thread(self._cgroup.update, replace(self._host_limits(self._require_made()), cpus=0.0))
        if self._agent is not None and self._vmm.alive:
            with contextlib.suppress(TwinhullError, TimeoutError):
                await self._agent.shutdown(timeout=SHUTDOWN_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_SECONDS):
                    await self._vmm.wait()
        await self._vmm.kill()

    async def _kill(self) -> None:
        """KILL: by the agent if it answers in time, else by ending QEMU."""
        with contextlib.suppress(TwinhullError, TimeoutError):
            if not self._paused and self._agent is not None:
                async with asyncio.timeout(KILL_SECONDS):
                    await self._agent.signal(signal.SIGKILL)
                    await self._agent.wait_exit()
                    return
        if self._vmm is not None:
            await self._vmm.kill()

    def _end_future(self) -> asyncio.Future[Exit]:
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def _finish(self, outcome: Exit) -> None:
        if not self._end_future().done():
            self._end_future().set_result(outcome)

    # letting go

    async def _let_go(self) -> None:
        """Stop all tasks and connections of this object; idempotent."""
        for task in (self._watcher, self._killer):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._drop_connections()
        await self._console.close()
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._messages is not None:
            self._messages.close()
        self._close_taps()

    async def _drop_connections(self) -> None:
        if self._agent is not None:
            await self._agent.close()
            self._agent = None
        if self._monitor is not None:
            await self._monitor.close()
            self._monitor = None

    def _close_taps(self) -> None:
        taps, self.launch = self.launch.taps, replace(self.launch, taps=())
        for tap in taps:
            with contextlib.suppress(OSError):
                os.close(tap)

    def _remove(self, purge: bool) -> None:
        made = self._made or read_made(self._run)
        for path in {self.launch.cgroup, *((made.cgroup,) if made and made.cgroup else ())}:
            Cgroup(path).remove(patience=5.0)
        trees.remove(self._run)
        if purge:
            trees.remove(self.launch.paths.state)

    def _save(self, made: Made) -> None:
        write_made(self._run, made)
        self._made = made

    def _require_made(self) -> Made:
        if self._made is None:
            raise NotFoundError("the VM isn't made")
        return self._made

    def _require_log(self) -> GuestLog:
        if self._log is None:
            raise NotFoundError("the VM's log isn't open")
        return self._log

    def _require_agent(self) -> AgentClient:
        if self._agent is None:
            raise TemporaryError("the VM's agent isn't connected")
        return self._agent

    def _running_agent(self) -> AgentClient:
        if self._paused:
            raise ConflictError("the instance is paused", "unpause it first")
        return self._require_agent()

    def _require_monitor(self) -> Monitor:
        if self._monitor is None:
            raise TemporaryError("QEMU's monitor isn't connected")
        return self._monitor


def _opened(stack: ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _root_file(launch: Launch) -> Path:
    assert launch.root.erofs is not None  # checked before anything was made
    return launch.root.erofs


def _was_started(state: GuestState) -> bool:
    return state in (GuestState.RUNNING, GuestState.EXITED)


def _is_loss(task: asyncio.Future[_T]) -> bool:
    return not task.cancelled() and isinstance(task.exception(), TemporaryError)
