"""A launcher of QEMU that is there before it is needed: starting Python and importing the jail takes longer than all that it does.

It waits on a socket for one description with its descriptors, does what any launcher does, and ends. It knows nothing before that, so
it isn't found by a run folder among its arguments; instead it dies with the daemon that started it (PDEATHSIG), whatever it was doing, and
what it had begun ends with it: QEMU's first instruction comes after its record (jail.py). Off unless the daemon wants it (`keep`), from
its first VM on, or from the beginning if it parks some.

Called by `process.py` (`launch`) and the engine (`keep`, `close`).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinhull.instance.vm import jail
from twinhull.sys import proc

_NULL, _PIPE = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
_PAUSE = 0.5
"""Seconds between a start and the next launcher's: the start has the processors for itself."""


@dataclass(eq=False)
class _Spare:
    process: asyncio.subprocess.Process
    socket: socket.socket


@dataclass(eq=False)
class Launchers:
    """At most one that waits."""

    wanted: bool = False
    _spare: _Spare | None = None
    _renewal: asyncio.Task[None] | None = field(default=None)

    def keep(self) -> None:
        """Have one from now on."""
        self.wanted = True
        self._renew(0.0)

    async def close(self) -> None:
        """Have none any more."""
        self.wanted = False
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
            self._renewal = None
        if self._spare is not None:
            spare, self._spare = self._spare, None
            spare.socket.close()
            await proc.end(spare.process)

    async def launch(self, run: Path, description: Any, descriptors: Sequence[int], timeout: float) -> proc.Result | None:
        """What the launcher said; None if none waited, and nothing was done."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        try:
            message = json.dumps({"run": str(run), "descriptors": list(descriptors), "description": description}).encode()
            with spare.socket:
                try:
                    socket.send_fds(spare.socket, [message], list(descriptors))
                except OSError:  # it has died
                    await proc.end(spare.process)
                    return None
            async with asyncio.timeout(timeout):
                out, err = await spare.process.communicate()
        except BaseException:
            await proc.end(spare.process)
            raise
        finally:
            self._renew(_PAUSE)
        return proc.Result(spare.process.returncode or 0, out or b"", err)

    def _renew(self, pause: float) -> None:
        if self.wanted and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._make(pause), name="launcher")

    async def _make(self, pause: float) -> None:
        await asyncio.sleep(pause)
        if self._spare is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package = str(Path(__file__).resolve().parents[3])
        argv = (sys.executable, "-I", "-S", "-c", jail.BOOT_AHEAD, package, str(theirs.fileno()), str(os.getpid()))
        with theirs:
            try:
                process = await proc.start(argv, pass_fds=(theirs.fileno(),), stdin=_NULL, stdout=_NULL, stderr=_PIPE)
            except BaseException:
                ours.close()
                raise
        self._spare = _Spare(process, ours)


launchers = Launchers()
"""This process's."""
