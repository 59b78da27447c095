"""The tail of a VM's serial console, for error messages: kernel and agent write there when they can't go on.

Invariant: a guest that floods its console costs at most `_RATE` bytes a second of attention and 16 KiB of memory; nothing reaches a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

_KEEP = 16 * 1024
_CHUNK = 4096
_RATE = 256 * 1024
_LINES = 8


class Console:
    """Connected from `connect` until `close`; loses nothing that was written in between but what is older than 16 KiB."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._task: asyncio.Task[None] | None = None

    async def connect(self, path: Path) -> None:
        """Connect, before or after QEMU was started. Raises OSError."""
        reader, writer = await asyncio.open_unix_connection(path, limit=_CHUNK)
        self._task = asyncio.create_task(self._read(reader, writer), name="vm console")

    def text(self) -> str:
        """The last lines, printable characters only: what a guest writes goes to people's terminals."""
        lines = self._tail.decode("utf-8", "replace").splitlines()
        clean = ("".join(char for char in line if char.isprintable()).strip() for line in lines)
        return "\n".join([line for line in clean if line][-_LINES:])

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_CHUNK):
                self._tail += data
                del self._tail[:-_KEEP]
                await asyncio.sleep(len(data) / _RATE)
        except OSError:
            pass  # QEMU is gone; what it wrote stays
        finally:
            writer.close()
