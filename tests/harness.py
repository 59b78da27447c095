"""A daemon under test: a home of its own, a network namespace without a way out, and an end that leaves nothing.

The network namespace belongs to the test, not to the daemon: it is held open here, so that it outlives a daemon that was killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests import leaks

from twinhull import home as homes
from twinhull.home import Home

PROGRAM = str(Path(sys.executable).parent / "twinhull")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
START, STOP = 60.0, 60.0
"""Seconds a daemon may take to answer first (a probe boot included), and to end with its workloads."""


def new_home() -> Home:
    """A short path: a UNIX socket's may have 107 bytes."""
    return homes.at(Path(tempfile.mkdtemp(prefix="th-", dir="/tmp")))


def remove_home(home: Home) -> None:
    """Everything of it on disk. Its mounts must have gone before: a leak must not make this cross into another file system."""
    root = home.state.parent
    deadline = time.monotonic() + 20  # a program of another test may hold a copy of the mount for as long as it runs
    while mounts := [str(leak) for leak in leaks.snapshot(home) if leak.kind == "mount"]:
        if time.monotonic() > deadline:
            raise leaks.LeakError(f"{root} still has mounts and is left for a look: {mounts[0]}")
        time.sleep(0.1)
    shutil.rmtree(root)


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    argv: tuple[str, ...]
    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """stdout without the last newline."""
        return self.out.decode("utf-8", "surrogateescape").removesuffix("\n")

    @property
    def lines(self) -> list[str]:
        """stdout, line by line."""
        return self.text.splitlines()

    def __str__(self) -> str:
        streams = b"\n".join(part[-2000:] for part in (self.out, self.err) if part)
        return f"{' '.join(self.argv)}: exit status {self.code}\n{streams.decode('utf-8', 'replace')}"


class CommandError(AssertionError):
    """A command of the test ended with a status that wasn't expected."""


class Netns:
    """A network namespace that lives as long as this object holds it open; its loopback is up."""

    def __init__(self) -> None:
        self.descriptor = _new_netns()

    @property
    def path(self) -> str:
        """How a child that inherits the descriptor names it."""
        return f"/proc/self/fd/{self.descriptor}"

    def run(self, *argv: str, stdin: bytes = b"", check: bool = True, timeout: float = 120.0) -> Done:
        """A command inside. Raises CommandError for a status other than 0."""
        return _run(self._enter(argv), _ENVIRONMENT, stdin, check=check, timeout=timeout, fds=(self.descriptor,))

    def popen(self, *argv: str, env: Mapping[str, str] = MappingProxyType({}), **options: Any) -> subprocess.Popen[bytes]:
        """A command inside that goes on; its pid is the command's own. The caller ends it and waits for it."""
        return subprocess.Popen(self._enter(argv), env=_ENVIRONMENT | dict(env), pass_fds=(self.descriptor,), **options)

    def adopt(self, interface: str, other: Netns) -> None:
        """Move an interface from here into `other`."""
        argv = self._enter(["ip", "link", "set", interface, "netns", other.path])
        _run(argv, _ENVIRONMENT, b"", check=True, timeout=20, fds=(self.descriptor, other.descriptor))

    def close(self) -> None:
        """Let it go; the kernel removes it with everything in it once no process is left inside."""
        os.close(self.descriptor)

    def _enter(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net={self.path}", "--", *argv]


class Daemon:
    """`twinhull daemon` for one home. `start`, `kill` and `stop` may follow each other any number of times; `close` is the end."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.net = Netns()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = home.state.parent / "daemon.log"

    @property
    def environment(self) -> dict[str, str]:
        """What its clients need."""
        return _ENVIRONMENT | {"TWINHULL_HOME": str(self.home.state.parent)}

    def start(self, env: Mapping[str, str] | None = None) -> None:
        """Return once it answers. Nothing is prepared in the background, unless TWINHULL_TEST_PARKED says how many VMs should wait."""
        configuration = self.home.config / "config.toml"
        if not configuration.exists():
            configuration.parent.mkdir(parents=True, exist_ok=True)
            configuration.write_text(f"[vm]\nparked = {os.environ.get('TWINHULL_TEST_PARKED', '0')}\n")
        with self.log.open("ab") as log:
            self.process = self.net.popen(
                PROGRAM,
                "daemon",
                env=self.environment | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_ready()

    def wait_ready(self, timeout: float = START) -> None:
        """Until `version` gets an answer from it; fails with its log if it ends before."""
        assert self.process is not None
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self.process.poll() is not None:
                raise CommandError(f"the daemon ended with {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise CommandError(f"the daemon doesn't answer after {timeout:g} s:\n{self.log_tail()}")
            time.sleep(0.05)

    def cli(self, *argv: str, stdin: bytes = b"", check: bool = True, timeout: float = 120.0, env: Mapping[str, str] | None = None) -> Done:
        """One `twinhull` command, outside of the daemon's network namespace. Raises CommandError for a status other than 0."""
        return _run([PROGRAM, *argv], self.environment | dict(env or {}), stdin, check=check, timeout=timeout)

    def popen(self, *argv: str, **options: Any) -> subprocess.Popen[bytes]:
        """A `twinhull` command that goes on; the caller ends it and waits for it."""
        return subprocess.Popen([PROGRAM, *argv], env=self.environment, **options)

    def kill(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, *, everything: bool) -> None:
        """`daemon stop`, with `--all` if `everything`. Returns after its end."""
        assert self.process is not None
        self.cli("daemon", "stop", *(["--all"] if everything else []), timeout=STOP)
        self.process.wait(STOP)

    def clear(self) -> None:
        """Remove all applications, instances, volumes and networks that tests made."""
        for name in self.cli("ls", "-q").lines:
            self.cli("down", "-p", name, "-v", timeout=240)
        if names := self.cli("ps", "-aq").lines:
            self.cli("rm", "-f", "-v", *names)
        for kind in ("volume", "network"):
            for name in self.cli(kind, "ls", "-q").lines:
                self.cli(kind, "rm", name, check=False)

    def close(self) -> None:
        """End everything, fail if anything is left, and remove it in any case."""
        with contextlib.ExitStack() as last:
            last.callback(remove_home, self.home)
            last.callback(self.net.close)
            last.callback(sweep, self.home)
            last.callback(self._end)
            if self._runs():
                self.clear()
                self.stop(everything=True)
            leaks.assert_clean(self.home, timeout=20)

    def _end(self) -> None:
        if self._runs():
            self.kill()

    def _runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log_tail(self) -> str:
        """The last 4,000 characters it said."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def _answers(self) -> bool:
        return self.home.socket.exists() and self.cli("system", "info", check=False, timeout=START).code == 0


def sweep(home: Home) -> None:
    """End and remove what still belongs to a home after a failed test: by pid and path, never by a program's name."""
    for kind, act in _SWEEPERS.items():
        for leak in sorted(leaks.snapshot(home), reverse=True):
            if leak.kind == kind:
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    act(leak.name)


def _end(name: str) -> None:
    """KILL and wait for the end of "PID NAME"."""
    descriptor = os.pidfd_open(int(name.partition(" ")[0]))
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], 5)
    finally:
        os.close(descriptor)


_SWEEPERS: dict[str, Callable[[str], object]] = {
    "process": _end,
    "mount": lambda name: subprocess.run(["umount", "-l", name], check=False, capture_output=True),
    "loop device": lambda name: subprocess.run(["losetup", "-d", f"/dev/{name}"], check=False, capture_output=True),
    "cgroup": os.rmdir,
}


def _new_netns() -> int:
    """A descriptor of a new network namespace whose loopback is up."""
    holder = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && read -r line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    if holder.stdout.readline() != b"up\n":
        raise CommandError("can't make a network namespace: these tests need root and iproute2")
    try:
        return os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        holder.communicate(b"\n")


def _run(argv: Sequence[str], env: Mapping[str, str], stdin: bytes, *, check: bool, timeout: float, fds: tuple[int, ...] = ()) -> Done:
    ended = subprocess.run(list(argv), input=stdin, capture_output=True, env=dict(env), timeout=timeout, pass_fds=fds, check=False)
    done = Done(tuple(argv), ended.returncode, ended.stdout, ended.stderr)
    if check and done.code != 0:
        raise CommandError(str(done))
    return done
