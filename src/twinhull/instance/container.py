"""A container: crun (or runc) under conmon, on an overlay of the image's layers.

State on disk, so that a new daemon takes over (see `conmon.Folders` for the rest):

    Paths.run/state.json   pids with their start times, and whether `start` was called
    Paths.run/exit/ID      the exit code, written by conmon, also while no daemon lives
    Paths.state            upper, work, skeleton, log

Nothing waits in the background: `wait` watches conmon's pid, for conmon ends after it wrote the exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import time
import weakref
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from twinhull import home
from twinhull.errors import ConflictError, PermanentError, TwinhullError, UnsupportedError, UserError
from twinhull.instance import compiled, conmon, logs, oci, processes, programs, runtimes, sessions, staging, users
from twinhull.instance.base import Exit, Instance, Launch, PortKind, Process, RootKind, Session, Stats, Traits
from twinhull.instance.host import facts, reclaim_null
from twinhull.instance.streams import Stream
from twinhull.spec.instance import Resources
from twinhull.sys import cgroup, fs, mounts, proc, trees

_NO_SNAPSHOT = "only a VM's memory can be kept (Debian's crun is built without checkpoints)"
TRAITS = Traits(root=RootKind.LAYERS, port=PortKind.OWN_NETNS, host_network=True, pause=True, reasons={"snapshot": _NO_SNAPSHOT})
_KILL_PATIENCE = 10.0
"""Seconds for the processes of a cgroup to go after KILL."""
_MONITOR_PATIENCE = 2.0
"""Seconds for conmon to write the exit code after its child has gone."""
_FREEZE_PATIENCE = 5.0
_EXECUTE_PATIENCE = 5.0
_STALL = 20.0
"""Seconds without a read after which an attached reader no longer holds up the news of the workload's end."""
_LOST = 137


@dataclass(frozen=True, slots=True)
class Running:
    """state.json. Start times are those of `proc.start_time`."""

    pid: int
    pid_started: int
    monitor: int
    monitor_started: int
    started: bool = False


class ContainerInstance(Instance):
    """See the module's text. `runtimes_state`: the runtimes' state folder, shared by all instances of a home."""

    traits = TRAITS

    def __init__(self, launch: Launch, runtimes_state: Path | None = None) -> None:
        super().__init__(launch)
        self._folders = conmon.Folders(launch.paths.run)
        self._runtimes_state = runtimes_state or launch.paths.run.parent.parent / "oci"
        self._cgroup = cgroup.Cgroup(launch.cgroup)
        self._running: Running | None = None
        self._exit: Exit | None = None
        self._parked: _Parked | None = None
        self._size: tuple[int, int] | None = None
        self._attached: weakref.WeakSet[sessions.Workload] = weakref.WeakSet()

    # life

    async def create(self) -> None:
        self._refuse()
        stage, identity = self._prepared()
        process = replace(self.launch.process, argv=oci.argv(self.launch), env=users.with_home(self.launch.process.env, identity))
        launch = replace(self.launch, process=process)
        config = compiled.with_filter(self._adapted(oci.config(launch, identity, stage, self._facts())))
        (self._folders.bundle / "config.json").write_text(json.dumps(config))
        pid = await self._create_under_monitor()
        compiled.keep(config, self._runtime().state / launch.id / "seccomp.bpf")
        monitor = int(self._folders.monitor_pid.read_text())
        self._note(Running(pid, proc.start_time(pid) or 0, monitor, proc.start_time(monitor) or 0))
        staging.release(self.launch)
        reclaim_null()

    def network_namespace(self) -> int:
        return os.open(f"/proc/{self._required().pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    async def start(self) -> None:
        running = self._required()
        waiting = processes.executable(running.pid)
        self._note(replace(running, started=True))
        if not self._runtime().open_gate(self.launch.id):
            command = self._runtime().start(self.launch.id, self._folders.runtime_log)
            result = await proc.run(self._starting(command), check=False)
            if result.status != 0:
                raise self._failure("start", conmon.runtime_error(self._folders) or result.stderr.decode("utf-8", "replace"))
        await self._wait_executed(running, waiting)

    async def adopt(self) -> bool:
        running = self._read_note()
        if running is None or not running.started:
            return False
        self._running = running
        if conmon.exit_code(self._folders, self.launch.id) is not None:
            return True
        if not proc.alive(running.pid, running.pid_started) and not proc.alive(running.monitor, running.monitor_started):
            return False
        return await self._has_started()

    async def wait(self) -> Exit:
        while self._exit is None:
            running = self._required()
            await self._wait_monitor(running)
            if self._exit is None:
                await self._settle(running)
        return self._exit

    async def delete(self, *, purge: bool = False) -> None:
        reclaim_null()  # for a predecessor that was killed within `create`
        self._unpark()
        await self._end()
        staging.release(self.launch)
        await self._forget()
        await asyncio.to_thread(self._remove_files, purge)

    # control

    async def signal(self, number: int) -> None:
        running = self._required()
        if not proc.alive(running.pid, running.pid_started):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, number)
        if number == signal.SIGKILL:
            with contextlib.suppress(OSError):
                self._cgroup.thaw()

    async def pause(self) -> None:
        self._alive()
        self._cgroup.freeze()
        deadline = time.monotonic() + _FREEZE_PATIENCE
        while not self._cgroup.frozen():
            if time.monotonic() > deadline:
                self._cgroup.thaw()
                raise PermanentError(f"pause {self.launch.name}: not all processes stood still within {_FREEZE_PATIENCE:.0f} s")
            await asyncio.sleep(0.002)

    async def resume(self) -> None:
        self._alive()
        self._cgroup.thaw()

    async def update(self, resources: Resources) -> None:
        self._alive()
        try:
            self._cgroup.update(resources, _disk(self.launch.paths.state, resources))
        except OSError as error:
            raise UserError(f"update {self.launch.name}: {error.strerror} ({os.path.basename(error.filename or '')})") from error

    async def rotate_log(self) -> None:
        limit = self.launch.log_max_size
        with contextlib.suppress(FileNotFoundError):
            if limit and self.launch.paths.log.stat().st_size >= limit:
                logs.rotate(self.launch.paths.log, self.launch.log_max_files)
                conmon.reopen_log(self._folders)

    # what runs inside

    async def exec(self, process: Process) -> Session:
        running = self._alive()
        if self._is_paused():
            raise ConflictError(f"{self.launch.name} is paused", f"twinhull unpause {self.launch.name}")
        with self._inside(running) as root:
            identity = _identity(root, process.user)
            env = users.with_home(process.env, identity)
            programs.check(root, process.argv, env, process.cwd, self._unseen())
        spec = oci.process(self.launch, replace(process, env=env), identity, self._facts())
        return await self._start_exec(spec, process)

    async def attach(self) -> Session:
        self._required()
        launch = self.launch
        parked, self._parked = self._parked, None
        try:
            stream = parked.take() if parked is not None else None
            stream = stream or sessions.connect(self._folders)
        except OSError as error:
            raise ConflictError(f"{launch.name} isn't running") from error
        session = sessions.Workload(
            stream,
            tty=launch.process.tty,
            stdin=launch.process.stdin,
            ended=self._exit_code,
            resize=self._resize,
            kill=self.signal,
            park=self._park,
        )
        self._attached.add(session)
        return session

    async def tool(self, *argv: str) -> Session:
        if argv and argv[0] in ("diff", "layer"):
            return await self._host_tool(*argv)
        return await self.exec(Process(argv=(oci.AGENT, *argv), env=(), user="0:0", stdin=True, privileged=True))

    async def stats(self) -> Stats:
        running = self._alive()
        usage = self._cgroup.usage()
        received, sent = (0, 0) if self.launch.host_network else processes.network_bytes(running.pid)
        return Stats(
            cpu_ns=usage.cpu_ns,
            memory=usage.memory,
            memory_limit=usage.memory_limit,
            pids=usage.pids,
            net_rx=received,
            net_tx=sent,
            block_read=usage.block_read,
            block_write=usage.block_write,
            host_cpu_ns=usage.cpu_ns,
            host_memory=usage.memory,
        )

    async def top(self) -> list[dict[str, str]]:
        running = self._alive()
        with self._inside(running) as root:
            names = users.names(text_inside(root, "/etc/passwd"))
        base = self.launch.id_base if oci.has_user_namespace(self.launch) else 0
        return processes.table(self._cgroup.pids(), base, names)

    # steps of create

    def _refuse(self) -> None:
        if self._folders.monitor_pid.exists():
            raise ConflictError(f"{self.launch.name} was created already")
        if self.launch.init and self._agent() is None:
            raise UnsupportedError("--init needs the agent's binary", "make setup")

    def _prepared(self) -> tuple[oci.Stage, users.Identity]:
        """Root, binds and files are there; the user and the program exist."""
        launch, folders = self.launch, self._folders
        for folder in (folders.bundle, folders.exits, folders.persist, self._runtime().state):
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        runtime = self._runtime()
        stage = staging.prepare(launch, self._agent(), boot_id=runtime.mounts_in_proc)
        with mounts.folder(stage.root) as root:
            identity = _identity(root, launch.process.user)
            programs.check(root, launch.process.argv, launch.process.env, launch.process.cwd, staging.covered(launch))
        return stage, identity

    async def _create_under_monitor(self) -> int:
        """Start conmon and wait for the workload's pid."""
        launch, folders = self.launch, self._folders
        command = conmon.argv(
            conmon=runtimes.monitor(),
            runtime=self._creating(self._runtime().command(folders.runtime_log)),
            instance=launch.id,
            name=launch.name,
            folders=folders,
            log=launch.paths.log,
            tty=launch.process.tty,
            stdin=launch.process.stdin,
        )
        reader, writer = os.pipe2(os.O_CLOEXEC)
        answers = Stream(reader)
        try:
            try:
                env = {"_OCI_SYNCPIPE": str(writer)} | self._monitor_environment()
                await proc.run(command, env=env, pass_fds=(writer,), cwd=launch.paths.run)  # conmon drops a file "oom" where it is
            finally:
                os.close(writer)
            return conmon.parse_answer(await _line(answers))
        except RuntimeError as error:
            raise self._failure("create", conmon.runtime_error(folders) or str(error)) from None
        finally:
            answers.close()

    async def _wait_executed(self, running: Running, waiting: tuple[int, int] | None) -> None:
        """Until the first process is no longer the runtime itself: into that one no exec can be joined, for it isn't dumpable."""
        deadline = time.monotonic() + _EXECUTE_PATIENCE
        while waiting is not None and processes.executable(running.pid) == waiting:
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0.0005)

    def _adapted(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration as the runtime needs it."""
        return config

    def _creating(self, command: list[str]) -> list[str]:
        """How the monitor calls the runtime."""
        return command

    def _starting(self, command: list[str]) -> list[str]:
        """How `start` calls the runtime."""
        return command

    def _monitor_environment(self) -> dict[str, str]:
        """conmon puts a terminal's socket into TMPDIR."""
        return {"TMPDIR": "/tmp", "XDG_RUNTIME_DIR": "/run"}

    def _failure(self, verb: str, message: str) -> TwinhullError:
        found = programs.from_message(message, self.launch.process.argv[0])
        return found or PermanentError(f"{verb} {self.launch.name}: {message.strip() or 'the runtime gave no reason'}")

    # steps of exec

    def _inside(self, running: Running) -> contextlib.AbstractContextManager[int]:
        """The root as the workload sees it."""
        return mounts.folder(f"/proc/{running.pid}/root")

    def _unseen(self) -> tuple[str, ...]:
        """Targets below which `_inside` doesn't show what the workload sees."""
        return ()

    def _execs(self, said: sessions.Said, *descriptors: int) -> sessions.Launcher:
        return sessions.Launcher(said, descriptors)

    async def _start_exec(self, spec: dict[str, object], process: Process) -> Session:
        described = os.memfd_create("process", os.MFD_CLOEXEC)
        runtime = self._runtime()
        name = f"exec-{secrets.token_hex(6)}"
        said = sessions.Said(None if runtime.hands_over else self.launch.paths.run / f"{name}.pid")
        try:
            os.write(described, json.dumps(spec).encode())
            launcher = self._execs(said, described)
            command = runtime.exec(self.launch.id, f"/proc/self/fd/{described}", said.pid_file, said.log_file)
            if not runtime.hands_over:
                staging.leave_root(self.launch)
            if not process.tty:
                return await launcher.with_pipes(command, stdin=process.stdin)
            if runtime.hands_over:
                return await launcher.with_terminal(command, self.launch.paths.run, name)
            return await launcher.behind_terminal(command, process.rows, process.cols)
        except BaseException:
            said.close()
            raise
        finally:
            os.close(described)

    async def _host_tool(self, *argv: str) -> Session:
        """diff and layer read the writable layer from outside, so they work on an instance that doesn't run, too."""
        agent = self._agent()
        if agent is None:
            raise UnsupportedError("the agent's binary isn't there", "make setup")
        launcher = sessions.Launcher(sessions.Said(), ())
        lowers = self.launch.root.layers if argv[0] == "diff" else ()
        layers = (self.launch.paths.state / "upper", *lowers)
        return await launcher.with_pipes([str(agent), *argv, *(str(layer) for layer in layers)], stdin=False)

    # steps of the end

    async def _wait_monitor(self, running: Running) -> None:
        """Until conmon has ended. Attached readers that stalled are dropped once the workload has gone, for conmon waits for them."""
        while proc.alive(running.monitor, running.monitor_started):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STALL):
                    await proc.wait_pid(running.monitor)
            if not proc.alive(running.pid, running.pid_started):
                for session in [session for session in self._attached if session.stalled(_STALL)]:
                    session.drop()

    async def _settle(self, running: Running) -> None:
        """conmon has gone: the exit code is there, or conmon was killed and the workload must go as well."""
        found = conmon.exit_code(self._folders, self.launch.id)
        if found is None:
            await self._kill_all()
            self._exit = self._exit or Exit(_LOST, time.time(), reason="monitor-lost")
            return
        code, at = found
        oom = code != 0 and self._oom()
        self._exit = self._exit or Exit(code, at, oom, "oom" if oom else "")

    def _oom(self) -> bool:
        return (self._folders.persist / "oom").exists() or self._cgroup.oom_kills() > 0

    async def _end(self) -> None:
        """Kill the workload, let conmon note it, and make sure that both are gone; whatever of them there is."""
        running = self._running or self._read_note()
        if running is not None:
            if proc.alive(running.pid, running.pid_started):
                await self._kill_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MONITOR_PATIENCE):
                    if proc.alive(running.monitor, running.monitor_started):
                        await proc.wait_pid(running.monitor)
            if self._running is not None and self._exit is None:
                await self._settle(running)
        await self._kill_leftovers(running)
        await self._kill_all()

    async def _kill_leftovers(self, running: Running | None) -> None:
        """Monitors and runtimes of this bundle. Without a note there may be some that nobody wrote down; then /proc is searched."""
        if running is not None:
            for pid, started in ((running.monitor, running.monitor_started), (running.pid, running.pid_started)):
                if proc.alive(pid, started):
                    await _kill(pid)
            return
        bundle = os.fsencode(self._folders.bundle)
        while self._folders.bundle.exists() and (found := processes.mentioning(bundle)):
            for pid in found:
                await _kill(pid)

    async def _kill_all(self) -> None:
        """KILL all processes in the cgroup and wait until they are gone. Raises PermanentError if they aren't."""
        deadline = time.monotonic() + _KILL_PATIENCE
        while not self._cgroup.kill():
            if time.monotonic() > deadline:
                raise PermanentError(f"kill {self.launch.name}: {len(self._cgroup.pids())} processes don't end (waiting for a device?)")
            await asyncio.sleep(0.002)

    async def _forget(self) -> None:
        """The runtime's own record and the cgroup. crun and runc keep nothing but a folder."""
        trees.remove(self._runtime().state / self.launch.id)
        self._cgroup.remove()

    def _remove_files(self, purge: bool) -> None:
        trees.remove(self.launch.paths.run)
        if purge:
            trees.remove(self.launch.paths.state)

    # smaller things

    def _runtime(self) -> runtimes.OciRuntime:
        return runtimes.container_runtime(self._runtimes_state)

    def _agent(self) -> Path | None:
        path = home.assets() / "agent"
        return path if path.exists() else None

    def _facts(self) -> oci.Host:
        return facts(self.launch.paths.state, devices=self.launch.security.privileged)

    def _required(self) -> Running:
        if self._running is None:
            raise ConflictError(f"{self.launch.name} isn't created")
        return self._running

    def _alive(self) -> Running:
        running = self._required()
        if self._exit is not None or not proc.alive(running.pid, running.pid_started):
            raise ConflictError(f"{self.launch.name} isn't running")
        return running

    def _is_paused(self) -> bool:
        with contextlib.suppress(OSError):
            return self._cgroup.frozen()
        return False

    async def _has_started(self) -> bool:
        """False while the workload still waits for `start`: the daemon died between its note and the call."""
        result = await proc.run(self._runtime().inspect(self.launch.id), check=False)
        with contextlib.suppress(ValueError, KeyError):
            return str(json.loads(result.stdout)["status"]) != "created"
        return True

    async def _exit_code(self) -> int:
        return (await self.wait()).code

    def _resize(self, rows: int, cols: int) -> None:
        self._size = (rows, cols)
        conmon.resize(self._folders, rows, cols)

    def _park(self, stream: Stream) -> None:
        self._unpark()
        self._parked = _Parked(stream)

    def _unpark(self) -> None:
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.close()

    def _note(self, running: Running) -> None:
        self._running = running
        fs.write_atomic(self.launch.paths.run / "state.json", json.dumps(asdict(running)), sync=False)

    def _read_note(self) -> Running | None:
        try:
            return Running(**json.loads((self.launch.paths.run / "state.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None


class _Parked:
    """A connection nobody reads from now: kept open so that the workload's stdin stays open, and emptied so that it isn't held back."""

    def __init__(self, stream: Stream) -> None:
        self._stream: Stream | None = stream
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(stream.fileno(), self._empty)

    def take(self) -> Stream | None:
        """The connection back, None if the workload has ended."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._loop.remove_reader(stream.fileno())
        return stream

    def close(self) -> None:
        """Let it go."""
        if stream := self.take():
            stream.close()

    def _empty(self) -> None:
        assert self._stream is not None  # the reader is removed with it
        try:
            if os.read(self._stream.fileno(), conmon.PACKET):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()


async def _line(stream: Stream) -> bytes:
    """conmon's one line of JSON."""
    data = b""
    while not data.endswith(b"\n") and (chunk := await stream.read()):
        data += chunk
    return data


async def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    await proc.wait_pid(pid)


def _identity(root: int, user: str) -> users.Identity:
    return users.resolve(user, text_inside(root, "/etc/passwd"), text_inside(root, "/etc/group"))


def text_inside(root: int, path: str) -> str:
    return (mounts.read_inside(root, path) or b"").decode("utf-8", "surrogateescape")


def _disk(state: Path, resources: Resources) -> tuple[int, int] | None:
    wanted = (resources.read_bps, resources.write_bps, resources.read_iops, resources.write_iops)
    return cgroup.block_device(state) if any(wanted) else None
