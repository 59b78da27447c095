"""QEMU as a process on the host: started through the jail, found again after a daemon's death, ended for certain.

Invariant: a process is signalled through a pidfd after its identity was checked, never by a number that may have been used again.
`end` leaves no process behind, whatever moment the daemon that started it died at: what isn't recorded yet has the run folder in its
arguments. Called by `machine.py` and `accelerator.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from twinhull.errors import PermanentError
from twinhull.instance.vm import jail, qemu
from twinhull.instance.vm.launchers import launchers
from twinhull.sys import proc

AGENT_SOCKET, QMP_SOCKET, CONSOLE_SOCKET = "agent.sock", "qmp.sock", "console.sock"
KERNEL, INITRD = "/kernel", "/initrd"
"""Where the jail shows them."""

_ROOT = "root"
_START_SECONDS = 20.0
_MESSAGES = 65536
_F_ADD_SEALS, _F_SEAL_SHRINK, _F_SEAL_GROW = 1033, 2, 4
_PIDFD_GET_INFO, _PIDFD_INFO_EXIT = 0xC040FF0B, 8
_PIDFD_INFO = struct.Struct("QQ11Ii")
"""Of linux/pidfd.h: mask, cgroup, eleven ids, wait status."""
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/share/qemu", "/usr/share/seabios")


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder or file for the guest, at `number` below the 9p share."""

    number: int
    source: Path
    read_only: bool = False
    mapped: bool = True
    """Whether owners on disk are counted from the guest's 0; else they are the jail's own ids already."""


@dataclass(frozen=True, slots=True)
class Cage:
    """Where and as whom QEMU runs. `cgroups`: folders to join."""

    run: Path
    id_base: int
    kernel: Path
    initrd: Path
    volumes: tuple[Volume, ...] = ()
    cgroups: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Vmm:
    """A QEMU process: its pid with its start time (clock ticks since boot)."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return proc.alive(self.pid, self.started)

    @property
    def trouble(self) -> str:
        """What ended it, if that was its filter (syscalls.py); where the kernel tells (Linux 6.15)."""
        return "QEMU made a system call that it has no use for, and was ended for it" if self.pid in _strayed else ""

    async def wait(self) -> None:
        """Return when it has ended; reaps it if it has become a child of ours."""
        with _pidfd(self.pid) as descriptor:
            if self.alive:
                await proc.wait_pid(self.pid)
            if descriptor is not None and os.WTERMSIG(_wait_status(self.pid, descriptor)) == signal.SIGSYS:
                _strayed.add(self.pid)
            _reap(self.pid)

    async def kill(self) -> None:
        """End it at once, and wait for that."""
        with _pidfd(self.pid) as descriptor:
            if descriptor is not None and self.alive:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        await self.wait()


class Messages:
    """What QEMU says on stderr, in memory that can't grow: complaints that a guest may provoke without end fill nothing."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("qemu-messages", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, _MESSAGES)
        fcntl.fcntl(self.descriptor, _F_ADD_SEALS, _F_SEAL_GROW | _F_SEAL_SHRINK)

    def text(self) -> str:
        """The last 2,000 characters."""
        raw = os.pread(self.descriptor, _MESSAGES, 0).rstrip(b"\0")
        return raw.decode("utf-8", "replace").strip()[-2000:]

    def close(self) -> None:
        """Let go; QEMU keeps its copy. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Messages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listen(run: Path, stack: ExitStack) -> qemu.Channels:
    """Listening sockets in the run folder, closed here with the stack: QEMU has its own copies. Clients may connect before QEMU runs."""
    agent, monitor, console = (_socket(run, name, stack) for name in (AGENT_SOCKET, QMP_SOCKET, CONSOLE_SOCKET))
    return qemu.Channels(agent, monitor, console)


async def start(vm: qemu.Vm, cage: Cage, messages: Messages) -> Vmm:
    """Start QEMU; it is recorded in the run folder and outlives us. Raises PermanentError if the jail can't be made.

    QEMU may still refuse its arguments afterwards: then it ends, and `messages` says why.
    """
    (cage.run / _ROOT).mkdir(exist_ok=True)
    description = _describe(vm, cage, messages.descriptor)
    package = str(Path(__file__).resolve().parents[3])
    launcher = (sys.executable, "-I", "-S", "-c", jail.BOOT, package, str(cage.run))
    descriptors = (*_descriptors(vm), messages.descriptor)
    result = await launchers.launch(cage.run, description, descriptors, _START_SECONDS)
    if result is None:
        text = json.dumps(description).encode()
        result = await proc.run(launcher, stdin=text, timeout=_START_SECONDS, check=False, pass_fds=descriptors)
    vmm = recorded(cage.run)
    if vmm is not None:
        _strayed.discard(vmm.pid)
    if result.status != 0 or vmm is None:
        raise PermanentError(f"start QEMU: {result.stderr.decode('utf-8', 'replace').strip() or 'the launcher failed'}")
    return vmm


@contextlib.contextmanager
def address(run: Path, name: str) -> Iterator[Path]:
    """A path to connect to a socket in the run folder, at most 107 bytes long wherever that folder is."""
    folder = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{folder}/{name}")
    finally:
        os.close(folder)


def recorded(run: Path) -> Vmm | None:
    """The process that the run folder names, alive or not."""
    try:
        raw = json.loads((run / jail.RECORD).read_text())
        return Vmm(int(raw["pid"]), int(raw["started"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def lost(run: Path) -> list[int]:
    """Pids of launchers and QEMUs of a run folder, by their arguments."""
    marks = (os.fsencode(run), f"guest={str(run).replace(',', ',,')},".encode())
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _belongs(entry.name, marks)]


async def end(run: Path) -> None:
    """Kill whatever runs for this folder. Idempotent; returns when it's gone."""
    if not (run / _ROOT).exists():
        return  # made before the launcher is started
    vmm = recorded(run)
    if vmm is not None:
        await vmm.kill()
        return  # recorded before its first instruction, by a launcher that starts no other
    while pids := lost(run):
        for pid in pids:
            await _kill_if_lost(pid, run)
    vmm = recorded(run)  # a launcher got as far as that meanwhile
    if vmm is not None:
        await vmm.kill()


async def _kill_if_lost(pid: int, run: Path) -> None:
    with _pidfd(pid) as descriptor:
        if descriptor is None or pid not in lost(run):
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    await proc.wait_pid(pid)
    _reap(pid)


def _describe(vm: qemu.Vm, cage: Cage, stderr: int) -> jail.Description:
    return {
        "argv": list(qemu.argv(vm)),
        "root": str(cage.run / _ROOT),
        "id_base": cage.id_base,
        "files": _files(vm, cage),
        "folders": [folder for folder in _folders(vm.binary) if os.path.isdir(folder)],
        "devices": ["/dev/null", "/dev/urandom", *(["/dev/kvm"] if vm.cpu.accelerator is qemu.Accelerator.KVM else [])],
        "volumes": [{"number": v.number, "source": str(v.source), "read_only": v.read_only, "mapped": v.mapped} for v in cage.volumes],
        "cgroups": [str(folder) for folder in cage.cgroups],
        "stderr": stderr,
    }


def _files(vm: qemu.Vm, cage: Cage) -> dict[str, str]:
    files = {vm.binary: vm.binary} | ({KERNEL: str(cage.kernel), INITRD: str(cage.initrd)} if vm.boots else {})
    return files | ({"/etc/ld.so.cache": "/etc/ld.so.cache"} if os.path.exists("/etc/ld.so.cache") else {})


def _folders(binary: str) -> tuple[str, ...]:
    """Libraries and firmware; for a QEMU outside /usr its whole prefix."""
    prefix = os.path.dirname(os.path.dirname(binary))
    return _LIBRARIES if prefix == "/usr" else (*_LIBRARIES, prefix)


def _descriptors(vm: qemu.Vm) -> tuple[int, ...]:
    saved = (vm.saved.memory, vm.saved.state) if vm.saved else ()
    wanted = (vm.channels.agent, vm.channels.qmp, vm.channels.console, vm.root, vm.scratch, *(nic.tap for nic in vm.nics), *saved)
    return tuple(descriptor for descriptor in wanted if descriptor >= 0)


def _socket(run: Path, name: str, stack: ExitStack) -> int:
    """Bound through /proc/self/fd, because a socket's path may have 107 bytes only."""
    folder = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        server = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        server.bind(f"/proc/self/fd/{folder}/{name}")
        os.chmod(run / name, 0o600)
        server.listen(4)
    finally:
        os.close(folder)
    return server.fileno()


def _belongs(pid: str, marks: tuple[bytes, ...]) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read().split(b"\0")
    except OSError:
        return False
    launcher = marks[0] in arguments[-3:] and os.fsencode(jail.BOOT) in arguments
    return launcher or any(argument.startswith(marks[1]) for argument in arguments)


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int | None]:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


_strayed: set[int] = set()
"""Pids of what SIGSYS has ended; a number that comes again is taken out."""


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _wait_status(pid: int, descriptor: int) -> int:
    """How a process that has ended did, though it is no child of ours: as long as init hasn't reaped it /proc says it, then its pidfd.

    0 if it's gone from /proc and the kernel is older than 6.15.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().split()[-1])
    except (OSError, ValueError):
        info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _PIDFD_GET_INFO, info)
        return int(_PIDFD_INFO.unpack(info)[-1])
