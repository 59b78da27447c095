"""HAProxy's runtime API: one command a connection over UNIX sockets, and the answers parsed.

A worker that a reload left behind lives until its last connection is over; it is asked and told through the master's socket, because
those connections still choose servers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from twinhull.errors import PermanentError, TemporaryError

_TIMEOUT = 10.0
_MOST = 64 * 1024 * 1024
"""Bytes of an answer: 10,000 servers take 3 MB of statistics."""
_MAINTENANCE = 0x01 | 0x20 | 0x40
"""srv_admin_state: forced, and by address resolution (HAProxy's management guide, "show servers state")."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that serves. current: it accepts connections; else it is leaving."""

    pid: int
    current: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """A server as a worker has it. leaving: in maintenance, so it gets nothing new."""

    pool: str
    name: str
    address: str
    port: int
    weight: int
    leaving: bool


class Runtime:
    """The sockets below `folder`: admin (the current worker) and master."""

    def __init__(self, folder: Path) -> None:
        self._admin = folder / "admin"
        self._master = folder / "master"
        self._metrics = folder / "metrics"

    async def workers(self) -> tuple[Worker, ...]:
        """The current one first. Raises TemporaryError when the master doesn't answer."""
        found, old = [], False
        for line in (await self._ask(self._master, "show proc")).splitlines():
            words = line.split()
            old = old or line.startswith("# old")
            if len(words) > 1 and words[1] == "worker" and words[0].isdigit():
                found.append(Worker(int(words[0]), not old))
        return tuple(sorted(found, key=lambda worker: not worker.current))

    async def master(self) -> tuple[int, int]:
        """The master's pid, and how many reloads failed since the last that worked."""
        for line in (await self._ask(self._master, "show proc")).splitlines():
            words = line.split()
            if len(words) > 4 and words[1] == "master":
                return int(words[0]), int(words[4].rstrip("]"))
        raise TemporaryError("ask HAProxy: its master doesn't tell about itself")

    async def tell(self, worker: Worker, command: str) -> None:
        """A command that answers nothing, or a word of success. Raises PermanentError with what it says else."""
        answer = (await self.ask(worker, command)).strip()
        if answer and not any(word in answer for word in _SUCCESS):
            raise PermanentError(f"HAProxy: {command.splitlines()[0][:200]}: {answer[:500]}")

    async def ask(self, worker: Worker, command: str) -> str:
        """The answer's text."""
        if worker.current:
            return await self._ask(self._admin, command)
        return await self._ask(self._master, f"@!{worker.pid} {command}")

    async def servers(self, worker: Worker) -> tuple[Seen, ...]:
        """All servers of all pools, without activators."""
        found = []
        for line in (await self.ask(worker, "show servers state")).splitlines():
            words = line.split()
            if len(words) > 18 and words[0].isdigit() and words[1].count(":") == 2 and not words[3].startswith(":"):
                leaving = bool(int(words[6]) & _MAINTENANCE)
                found.append(Seen(words[1], words[3], words[4], int(words[18]), int(words[7]), leaving))
        return tuple(found)

    async def statistics(self, worker: Worker, pool: str = "") -> list[dict[str, str]]:
        """Rows of `show stat` by column name; of a pool's servers only, where one is named."""
        head, *rows = (await self.ask(worker, f"show stat {pool} 4 -1" if pool else "show stat")).strip().splitlines() or [""]
        columns = head.removeprefix("# ").split(",")
        return [dict(zip(columns, row.split(","), strict=False)) for row in rows if row]

    async def metrics(self) -> bytes:
        """What its exporter says, in Prometheus' text format."""
        answer = await self._exchange(self._metrics, b"GET /metrics HTTP/1.0\r\n\r\n")
        return answer.partition(b"\r\n\r\n")[2]

    async def replace_map(self, worker: Worker, name: str, text: str) -> None:
        """All entries at once: no request sees half of it."""
        answer = await self.ask(worker, f"prepare map {name}")
        version = answer.rpartition(":")[2].strip()
        if not version.isdigit():
            raise PermanentError(f"HAProxy: prepare map {name}: {answer.strip()[:500]}")
        for part in _parts(text):
            await self.tell(worker, f"add map @{version} {name} <<\n{part}")
        await self.tell(worker, f"commit map @{version} {name}")

    async def _ask(self, path: Path, command: str) -> str:
        return (await self._exchange(path, command.encode() + b"\n")).decode("utf-8", "replace")

    async def _exchange(self, path: Path, question: bytes) -> bytes:
        try:
            async with asyncio.timeout(_TIMEOUT), _connected(path) as (reader, writer):
                writer.write(question)
                writer.write_eof()
                answer = bytearray()
                while more := await reader.read(1 << 20):
                    answer += more
                    if len(answer) > _MOST:
                        raise PermanentError(f"HAProxy: the answer to {question[:60]!r} is too long")
                return bytes(answer)
        except (OSError, TimeoutError) as error:
            raise TemporaryError(f"ask HAProxy: {error or 'no answer'}", "the gateway restarts it", 1.0) from error


_SUCCESS = (
    "New server registered",
    "Server deleted",
    "IP changed from",
    "no need to change",
    "port changed",
    "Success",
    "New empty certificate",
    "updated",
    "created",
)


def _parts(text: str, most: int = 12_000) -> list[str]:
    """Whole lines in portions below HAProxy's buffer (16 kB)."""
    parts: list[list[str]] = [[]]
    size = 0
    for line in text.splitlines():
        if size + len(line) > most:
            parts.append([])
            size = 0
        parts[-1].append(line)
        size += len(line.encode()) + 1
    return ["\n".join(part) + "\n" for part in parts if part]


@contextlib.asynccontextmanager
async def _connected(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 20)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
