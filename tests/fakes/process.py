"""Programs that a FakeEngine runs: small coroutines in place of processes, with streams of bounded size.

    cat            stdin to stdout until its end          echo WORDS        the words and a newline
    err WORDS      the words to stderr                    env               the environment, one a line
    true, false    exit 0, 1                              exit N            exit N
    size           "ROWS COLS" at every resize            zeros N           N bytes of zeros
    deaf           reads nothing, runs until a signal     flood             zeros without end
    sleep          runs until a signal                    lines N           numbered lines, alternating streams
    missing, denied   cannot run: 127, 126

A signal ends any of them with 128 + its number.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from twinhull.errors import CannotRunError
from twinhull.instance.base import STDERR, STDOUT, Session

CHUNK = 64 * 1024
_DEPTH = 4
"""Chunks that wait in a stream before its writer has to."""


class FakeProcess:
    """One program. `log` gets all output; attached sessions get it with back-pressure."""

    def __init__(self, argv: tuple[str, ...], env: tuple[str, ...] = (), log: Callable[[int, bytes], None] | None = None) -> None:
        if argv[0] in ("missing", "denied"):
            raise CannotRunError(
                f"run {argv[0]}: {'not found' if argv[0] == 'missing' else 'permission denied'}",
                exit_code=127 if argv[0] == "missing" else 126,
            )
        self.argv = argv
        self.env = env
        self.stdin: asyncio.Queue[bytes | None] = asyncio.Queue(_DEPTH)
        self.size: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.sessions: list[FakeSession] = []
        self.signals: list[int] = []
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._log = log
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Run it."""
        self._task = asyncio.create_task(self._run(), name=f"fake-{self.argv[0]}")

    def signal(self, number: int) -> None:
        """End it as a signal would."""
        self.signals.append(number)
        if self._task is not None and not self._task.done():
            self._task.cancel()

    async def end(self) -> None:
        """KILL, and wait."""
        self.signal(9)
        if self._task is not None:
            await asyncio.wait({self._task})

    def attach(self) -> FakeSession:
        """One more session; it gets what comes from now on."""
        session = FakeSession(self)
        if self.exit.done():
            session.finish()
        self.sessions.append(session)
        return session

    async def write(self, stream: int, data: bytes) -> None:
        """Output, as slow as the slowest session."""
        if self._log is not None:
            self._log(stream, data)
        for session in list(self.sessions):
            await session.put(stream, data)

    async def _run(self) -> None:
        program: Callable[[FakeProcess], Awaitable[int]] = _PROGRAMS.get(self.argv[0], _sleep)
        try:
            code = await program(self)
        except asyncio.CancelledError:
            code = 128 + (self.signals[-1] if self.signals else 9)
        self.exit.set_result(code)
        for session in self.sessions:
            session.finish()


class FakeSession(Session):
    """Streams of a FakeProcess. An exec's process ends with its session."""

    def __init__(self, process: FakeProcess, *, owner: bool = False) -> None:
        self.process = process
        self.owner = owner
        self.closed = False
        self._chunks: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(_DEPTH)
        self._finished = asyncio.Event()

    async def put(self, stream: int, data: bytes) -> None:
        if not self.closed:
            await self._chunks.put((stream, data))

    def finish(self) -> None:
        self._finished.set()

    async def send(self, data: bytes) -> None:
        await self._put(data)

    async def close_stdin(self) -> None:
        await self._put(None)

    async def _put(self, data: bytes | None) -> None:
        """Wait for room, or for the process's end."""
        putting: asyncio.Future[Any] = asyncio.ensure_future(self.process.stdin.put(data))
        ends: set[asyncio.Future[Any]] = {putting, self.process.exit}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
            await asyncio.wait({putting})

    async def resize(self, rows: int, cols: int) -> None:
        self.process.size.put_nowait((rows, cols))

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        while not self._finished.is_set() or not self._chunks.empty():
            getting = asyncio.ensure_future(self._chunks.get())
            finished = asyncio.ensure_future(self._finished.wait())
            try:
                await asyncio.wait({getting, finished}, return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    yield getting.result()
            finally:
                for task in (getting, finished):
                    task.cancel()
                await asyncio.wait({getting, finished})

    async def wait(self) -> int:
        return await asyncio.shield(self.process.exit)

    async def signal(self, number: int) -> None:
        self.process.signal(number)

    async def close(self) -> None:
        self.closed = True
        with contextlib.suppress(ValueError):
            self.process.sessions.remove(self)
        while not self._chunks.empty():
            self._chunks.get_nowait()
        if self.owner:
            await self.process.end()


async def _cat(process: FakeProcess) -> int:
    while (data := await process.stdin.get()) is not None:
        await process.write(STDOUT, data)
    return 0


async def _echo(process: FakeProcess) -> int:
    await process.write(STDOUT, " ".join(process.argv[1:]).encode("utf-8", "surrogateescape") + b"\n")
    return 0


async def _err(process: FakeProcess) -> int:
    await process.write(STDERR, " ".join(process.argv[1:]).encode("utf-8", "surrogateescape") + b"\n")
    return 0


async def _env(process: FakeProcess) -> int:
    await process.write(STDOUT, "".join(f"{entry}\n" for entry in process.env).encode())
    return 0


async def _exit(process: FakeProcess) -> int:
    return int(process.argv[1])


async def _true(_process: FakeProcess) -> int:
    return 0


async def _false(_process: FakeProcess) -> int:
    return 1


async def _size(process: FakeProcess) -> int:
    while True:
        rows, cols = await process.size.get()
        await process.write(STDOUT, f"{rows} {cols}\n".encode())


async def _zeros(process: FakeProcess) -> int:
    left = int(process.argv[1])
    while left > 0:
        await process.write(STDOUT, bytes(min(left, CHUNK)))
        left -= CHUNK
    return 0


async def _flood(process: FakeProcess) -> int:
    while True:
        await process.write(STDOUT, bytes(CHUNK))
        await asyncio.sleep(0)


async def _lines(process: FakeProcess) -> int:
    for number in range(int(process.argv[1])):
        await process.write(STDERR if number % 2 else STDOUT, f"line {number}\n".encode())
    return 0


async def _sleep(_process: FakeProcess) -> int:
    await asyncio.Event().wait()
    return 0


_PROGRAMS: dict[str, Callable[[FakeProcess], Awaitable[int]]] = {
    "cat": _cat,
    "echo": _echo,
    "err": _err,
    "env": _env,
    "exit": _exit,
    "true": _true,
    "false": _false,
    "size": _size,
    "zeros": _zeros,
    "flood": _flood,
    "lines": _lines,
}
