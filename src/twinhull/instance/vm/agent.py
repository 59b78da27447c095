"""The client of the guest agent: one connection to QEMU's socket, over which everything inside a VM is done.

Laws:
- `connect` returns after WELCOME; from then on one connection carries requests, execs and the workload's output.
- Memory is bounded whatever the guest does: exec output by the window given, workload output by the guest's ring (both are checked).
- The workload's output is acknowledged after `on_output` returned and every attached session consumed it, so a slow reader slows the workload.
- When the connection ends, for whatever reason, `lost` is set, every waiter gets `AgentLostError`, and the object is of no more use.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from twinhull.errors import CannotRunError, ConflictError, PermanentError, TemporaryError, TwinhullError, UserError
from twinhull.instance.base import STDERR, STDOUT, Process, Session
from twinhull.instance.vm import frames
from twinhull.instance.vm.frames import GuestState, GuestStats, Kind, PowerOff
from twinhull.instance.vm.guest import GuestConfig, encode_config, encode_process, encode_resources, terminal_size
from twinhull.spec.instance import Resources

OnOutput = Callable[[int, int, int, bytes], None]
"""(offset, realtime in ns, STDOUT|STDERR, data); what it took over when it returns is acknowledged."""
AGENT = "/run/twinhull/agent"
"""Where the agent's own binary is, inside every workload's root."""
_RING = 4 * 1024 * 1024
"""The guest's ring; so much unacknowledged output can be under way, and no more."""
_ACK_STEP = 128 * 1024
_WINDOW_STEP = frames.WINDOW // 4
_T = TypeVar("_T")


class AgentLostError(TemporaryError):
    """The connection to the agent ended: the VM is gone, or the connection was closed."""


@dataclass(frozen=True, slots=True)
class GuestExit:
    """How the workload ended: 0–255, 128 + signal."""

    code: int
    oom: bool


class AgentClient:
    """See the module's laws. Make it with `connect`."""

    def __init__(self, log_offset: int, on_output: OnOutput | None) -> None: ...

    @classmethod
    async def connect(cls, path: Path, *, log_offset: int = 0, timeout: float = 30.0, on_output: OnOutput | None = None) -> AgentClient:
        """Connect to the UNIX socket of QEMU's chardev and wait for WELCOME. Raises TemporaryError, ProtocolError."""
        raise NotImplementedError

    @property
    def state(self) -> GuestState:
        """How far the guest is, as far as is known."""
        raise NotImplementedError

    lost: asyncio.Event
    lost_bytes: int
    """Output that the guest had to drop while no host listened."""

    async def configure(self, config: GuestConfig) -> None:
        """CONFIG. Raises CannotRunError (126, 127), UserError, ConflictError, PermanentError; afterwards only `shutdown` makes sense."""

    async def start(self) -> None:
        """START: the workload's first instruction. Raises as `configure`."""

    async def exec(self, process: Process, *, tool: bool = False, host_side: bool = False) -> Session:
        """Another program; `tool`: root with all capabilities; `host_side`: the agent's own tools, outside the root."""
        raise NotImplementedError

    async def attach(self) -> Session:
        """The workload's streams from now on; `close` leaves the workload alone."""
        raise NotImplementedError

    async def signal(self, number: int) -> None:
        """To the workload."""

    async def stats(self) -> GuestStats:
        raise NotImplementedError

    async def top(self) -> list[dict[str, str]]:
        """PID (inside), USER, TIME, COMMAND."""
        raise NotImplementedError

    async def update(self, resources: Resources) -> None: ...

    async def set_clock(self, realtime_ns: int | None = None) -> None:
        """None: now."""

    async def wait_exit(self) -> GuestExit:
        """The workload's end; any number of waiters; after all its output went through `on_output`."""
        raise NotImplementedError

    async def shutdown(self, how: PowerOff = PowerOff.RESTART, timeout: float = 10.0) -> None:
        """Kill all, sync, unmount, end the machine; returns once the agent said so (or is gone)."""

    async def close(self) -> None:
        """End the connection; the workload lives on. Idempotent."""
