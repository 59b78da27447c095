"""A sandbox: gVisor's runsc under conmon, with the container's bundle.

What differs from a container:

- The kernel inside is gVisor's, so ids aren't mapped: the file server is the host's root, and the sandbox itself nobody's.
- runsc is told to ignore cgroups (those of 2022 know no hybrid hosts); the command that starts it steps into the instance's own first, so
  limits hold for the sandbox as a whole, its own memory of some 30 MB included.
- It refuses a network namespace in which /proc/sys/net has what only the first one had on older kernels, so it sees an empty folder there.
- Pids are gVisor's: signals, `top` and the end of an exec go through runsc, and users are looked up in a view of the root.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from twinhull.errors import PermanentError, UnsupportedError
from twinhull.instance import oci, runtimes, sessions, staging, users
from twinhull.instance.base import Launch, PortKind, RootKind, Traits
from twinhull.instance.container import ContainerInstance, Running, text_inside
from twinhull.spec.instance import Resources
from twinhull.sys import proc

_NO_PIDS = "its processes aren't the host's, and the host's limit would count gVisor's own threads"
_NO_SECCOMP = "system calls don't reach the host's kernel; gVisor filters its own"
TRAITS = Traits(
    root=RootKind.LAYERS,
    port=PortKind.NETNS,
    host_network=False,
    pause=True,
    reasons={
        "snapshot": "runsc's checkpoints are experimental",
        "privileged": "gVisor shows no host devices",
        "sysctls": "gVisor has few, and none that can be set from outside",
        "io-limits": "the file server's reads and writes aren't the workload's own",
        "pids-limit": _NO_PIDS,
        "seccomp-profile": _NO_SECCOMP,
    },
)


class SandboxInstance(ContainerInstance):
    """See the module's text."""

    traits = TRAITS

    def __init__(self, launch: Launch, runtimes_state: Path | None = None) -> None:
        super().__init__(replace(launch, id_base=0), runtimes_state)

    async def create(self) -> None:
        if self.launch.resources.pids:
            raise UnsupportedError(f"runtime sandbox can't do pids-limit: {_NO_PIDS}")
        if self.launch.security.seccomp not in ("default", "unconfined"):
            raise UnsupportedError(f"runtime sandbox can't do seccomp-profile: {_NO_SECCOMP}")
        await super().create()

    async def start(self) -> None:
        process = self.launch.process
        if process.tty and self._size is None:
            self._resize(process.rows, process.cols)
        await super().start()

    async def update(self, resources: Resources) -> None:
        if resources.pids:
            raise UnsupportedError(f"runtime sandbox can't do pids-limit: {_NO_PIDS}")
        await super().update(resources)

    async def signal(self, number: int) -> None:
        running = self._required()
        if not proc.alive(running.pid, running.pid_started):
            return
        if number == signal.SIGKILL:
            with contextlib.suppress(OSError):
                self._cgroup.thaw()
        await self._call("kill", self.launch.id, str(number))

    async def top(self) -> list[dict[str, str]]:
        running = self._alive()
        with self._inside(running) as root:
            names = users.names(text_inside(root, "/etc/passwd"))
        return table(await self._call("ps", self.launch.id), names)

    def _runtime(self) -> runtimes.OciRuntime:
        network = "sandbox" if self.launch.netns else "none"
        return runtimes.sandbox_runtime(self._runtimes_state, network=network)

    async def _wait_executed(self, running: Running, waiting: tuple[int, int] | None) -> None:
        """The process is gVisor's, before and after."""

    def _adapted(self, config: dict[str, Any]) -> dict[str, Any]:
        """runsc sets consoleSize at `start`, over what a client that attached before has asked for."""
        config["process"].pop("consoleSize", None)
        return config

    def _creating(self, command: list[str]) -> list[str]:
        join = [f"echo $$ > {shlex.quote(str(folder / 'cgroup.procs'))}" for folder in self._cgroup.folders]
        return _without_sysctls([*join, 'exec "$0" "$@"'], command)

    def _starting(self, command: list[str]) -> list[str]:
        return _without_sysctls(['exec "$0" "$@"'], command)

    def _prepared(self) -> tuple[oci.Stage, users.Identity]:
        self._cgroup.create(self.launch.resources)
        return super()._prepared()

    def _inside(self, running: Running) -> contextlib.AbstractContextManager[int]:
        return staging.view(self.launch)

    def _unseen(self) -> tuple[str, ...]:
        return (oci.AGENT, *staging.covered(self.launch))

    def _execs(self, said: sessions.Said, *descriptors: int) -> sessions.Launcher:
        return sessions.Launcher(said, descriptors, self._kill_inside)

    async def _kill_inside(self, pid: int, number: int) -> None:
        with contextlib.suppress(PermanentError):
            await self._call("kill", "--pid", str(pid), self.launch.id, str(number))

    async def _forget(self) -> None:
        runtime = self._runtime()
        if any(runtime.state.glob(f"{self.launch.id}*")):
            await proc.run(runtime.remove(self.launch.id), check=False, timeout=20)
        for path in runtime.state.glob(f"{self.launch.id}*"):
            path.unlink()
        self._cgroup.remove()

    async def _call(self, *words: str) -> str:
        return (await proc.run([*self._runtime().command(), *words])).text


def table(text: str, names: Mapping[int, str]) -> list[dict[str, str]]:
    """runsc's table (UID PID PPID C TTY STIME TIME CMD) as the rows of `top`."""
    rows = []
    for line in text.splitlines()[1:]:
        words = line.split(None, 7)
        if len(words) == 8 and words[0].isdigit():
            user = names.get(int(words[0]), words[0])
            rows.append({"PID": words[1], "USER": user, "TIME": words[6], "COMMAND": words[7]})
    return rows


def _without_sysctls(steps: list[str], command: list[str]) -> list[str]:
    """The command in a mount namespace of its own with nothing in /proc/sys/net, after `steps` of a shell."""
    script = " && ".join(["mount -t tmpfs none /proc/sys/net", *steps])
    return ["/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c", script, *command]
