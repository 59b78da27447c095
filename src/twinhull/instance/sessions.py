"""Attached streams of a container: the workload's (through conmon) and an exec's (pipes or a terminal of its own)."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from twinhull.errors import PermanentError
from twinhull.instance import conmon
from twinhull.instance.base import STDERR, STDOUT, Session
from twinhull.instance.streams import Stream, merged
from twinhull.sys import proc

Kill = Callable[[int, int], Awaitable[None]]
"""(pid inside, signal)."""
_MARKS = {conmon.STDOUT_MARK: STDOUT, conmon.STDERR_MARK: STDERR}
_PID_PATIENCE = 2.0
"""Seconds for the runtime to say the exec's pid."""


def connect(folders: conmon.Folders) -> Stream:
    """A new connection to the workload's attach socket. Raises OSError when the monitor is gone."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with contextlib.closing(peer):
        folder = os.open(folders.bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            peer.connect(f"/proc/self/fd/{folder}/attach")  # a socket's path may have 107 bytes only
        finally:
            os.close(folder)
        return Stream(peer.detach())


class Workload(Session):
    """conmon holds the workload back while this session doesn't read: nothing is dropped."""

    def __init__(
        self,
        stream: Stream,
        *,
        tty: bool,
        stdin: bool,
        ended: Callable[[], Awaitable[int]],
        resize: Callable[[int, int], None],
        kill: Callable[[int], Awaitable[None]],
        park: Callable[[Stream], None],
    ) -> None:
        self._stream, self._tty, self._stdin, self._resize = stream, tty, stdin, resize
        self._ended, self._kill, self._park = ended, kill, park
        self._delivered = asyncio.Event()
        self._reading = False
        self._eof = False
        self._last_read = time.monotonic()

    def stalled(self, seconds: float) -> bool:
        """Whether nobody has taken output for so long; then conmon, and with it the news of the workload's end, may be stuck."""
        return not self._stream.closed and time.monotonic() - self._last_read > seconds

    def drop(self) -> None:
        """Give up on a reader that stalled."""
        self._stream.close()

    async def send(self, data: bytes) -> None:
        if self._stdin and not self._eof:
            await self._stream.write(data, conmon.MESSAGE)

    async def close_stdin(self) -> None:
        """End of file; with a terminal that is its EOF character, for it can't be half closed."""
        if self._tty:
            await self.send(b"\x04")
            return
        self._eof = True
        with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(self._stream.fileno())) as peer:
            peer.shutdown(socket.SHUT_WR)

    async def resize(self, rows: int, cols: int) -> None:
        if self._tty:
            self._resize(rows, cols)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        self._reading = True
        try:
            while message := await self._stream.read(conmon.PACKET):
                self._last_read = time.monotonic()
                number = _MARKS.get(message[0])
                if number is not None and len(message) > 1:
                    yield number, message[1:]
        finally:
            self._delivered.set()

    async def wait(self) -> int:
        if not self._reading:
            async for _ in self.output():
                pass
        await self._delivered.wait()
        return await self._ended()

    async def signal(self, number: int) -> None:
        await self._kill(number)

    async def close(self) -> None:
        """conmon closes the workload's stdin with the connection, so one that wasn't at its end is kept aside."""
        if self._eof or self._tty or not self._stdin or self._stream.closed:
            self._stream.close()
        else:
            self._park(self._stream)
            self._stream = Stream(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        self._delivered.set()


class Exec(Session):
    """One `exec` of the runtime. Its process and what that left in its session end with `close`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        streams: Mapping[int, Stream],
        stdin: Stream | None,
        said: Said,
        *,
        runtime_terminal: bool = False,
        inside: Kill | None = None,
    ) -> None:
        self._runtime_terminal, self._inside = runtime_terminal, inside
        self._process, self._streams, self._stdin, self._said = process, dict(streams), stdin, said
        self._exit = asyncio.ensure_future(process.wait())
        self._delivered = asyncio.Event()
        self._reading = False

    @property
    def _tty(self) -> bool:
        return self._stdin is not None and self._stdin is self._streams.get(STDOUT)

    async def send(self, data: bytes) -> None:
        if self._stdin is not None and not await self._stdin.write(data) and not self._tty:
            self._stdin.close()

    async def close_stdin(self) -> None:
        if self._tty:
            await self.send(b"\x04")
        elif self._stdin is not None:
            self._stdin.close()

    async def resize(self, rows: int, cols: int) -> None:
        if self._tty and not self._streams[STDOUT].closed:
            fcntl.ioctl(self._streams[STDOUT].fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
            if self._runtime_terminal and not self._exit.done():
                self._process.send_signal(signal.SIGWINCH)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        self._reading = True
        try:
            async with contextlib.aclosing(merged(self._streams, self._exit)) as chunks:
                async for chunk in chunks:
                    yield chunk
            await self._exit
            if failure := self._said.failure():
                yield STDERR, failure.encode() + b"\n"
        finally:
            self._delivered.set()

    async def wait(self) -> int:
        if not self._reading:
            async for _ in self.output():
                pass
        await self._delivered.wait()
        status = await asyncio.shield(self._exit)
        if self._said.failure():
            return 126
        return status if status >= 0 else 128 - status

    async def signal(self, number: int) -> None:
        pid = await self._said.wait_pid(self._exit)
        if not pid or self._exit.done():
            return
        if self._inside is not None:
            await self._inside(pid, number)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    async def close(self) -> None:
        try:
            if not self._exit.done():
                pid = await self._said.wait_pid(self._exit)
                await (self._inside(pid, signal.SIGKILL) if self._inside is not None else _end_session(pid))
                await self._end()
        finally:
            for stream in (*self._streams.values(), *([self._stdin] if self._stdin else [])):
                stream.close()
            self._said.close()
            self._delivered.set()
            await asyncio.shield(self._exit)

    async def _end(self) -> None:
        """The runtime goes when its child has; it is ended by force if it doesn't."""
        try:
            async with asyncio.timeout(_PID_PATIENCE):
                await asyncio.shield(self._exit)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


class Launcher:
    """Starts one exec of the runtime; what `descriptors` name is passed on besides what it says.

    `inside`: how to signal the exec's process where its pid isn't one of the host's.
    """

    def __init__(self, said: Said, descriptors: tuple[int, ...], inside: Kill | None = None) -> None:
        self._said, self._passed, self._inside = said, (*descriptors, *said.descriptors), inside

    async def with_pipes(self, command: list[str], *, stdin: bool) -> Exec:
        """Three pipes; without stdin, one that has ended (never /dev/null: crun would give the host's to the instance's root)."""
        ours: dict[int, Stream] = {}
        theirs: list[int] = []
        try:
            source = self._input(ours, theirs)
            if not stdin:
                ours.pop(0).close()
            sinks = [self._output(number, ours, theirs) for number in (STDOUT, STDERR)]
            process = await proc.start(command, pass_fds=self._passed, stdin=source, stdout=sinks[0], stderr=sinks[1])
        except BaseException:
            for stream in ours.values():
                stream.close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return Exec(process, {n: s for n, s in ours.items() if n != 0}, ours.get(0), self._said, inside=self._inside)

    async def with_terminal(self, command: list[str], folder: Path, name: str) -> Exec:
        """A terminal, whose other end is inside."""
        console = Console(folder, name)
        try:
            path = f"/proc/self/fd/{console.folder}/{console.name}"
            words = [*command[:-1], "--console-socket", path, command[-1]]
            passed = (*self._passed, console.folder)
            with _no_streams() as (empty, dropped):
                process = await proc.start(words, pass_fds=passed, stdin=empty, stdout=dropped, stderr=dropped)
            ended = asyncio.ensure_future(process.wait())
            try:
                terminal = await console.terminal(ended)
            except BaseException:
                await proc.end(process)
                await ended
                raise
            streams = {} if terminal is None else {STDOUT: terminal}
            return Exec(process, streams, terminal, self._said, inside=self._inside)
        finally:
            console.close()

    async def behind_terminal(self, command: list[str], rows: int, cols: int) -> Exec:
        """A terminal between us and a runtime that passes its own on to the inside."""
        ours, theirs = os.openpty()
        terminal = Stream(ours)
        try:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
            process = await proc.start(command, pass_fds=self._passed, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        except BaseException:
            terminal.close()
            raise
        finally:
            os.close(theirs)
        return Exec(process, {STDOUT: terminal}, terminal, self._said, runtime_terminal=True)

    def _input(self, ours: dict[int, Stream], theirs: list[int]) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        ours[0] = Stream(writer)
        theirs.append(reader)
        return reader

    def _output(self, number: int, ours: dict[int, Stream], theirs: list[int]) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        ours[number] = Stream(reader)
        theirs.append(writer)
        return writer


@contextlib.contextmanager
def _no_streams() -> Iterator[tuple[int, int]]:
    """A stdin that has ended and a memory file for output: crun gives its streams to the instance's root, so no device."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(writer)
    dropped = os.memfd_create("dropped", os.MFD_CLOEXEC)
    try:
        yield reader, dropped
    finally:
        os.close(reader)
        os.close(dropped)


class Said:
    """What the runtime writes by path: the exec's pid, and what went wrong. Memory files, so that nothing is left on disk.

    `pid_path`: a real path for runtimes that write the pid file by renaming; removed by `close`.
    """

    def __init__(self, pid_path: Path | None = None) -> None:
        self._path = pid_path
        self._pid = os.memfd_create("pid", os.MFD_CLOEXEC)
        self._log = os.memfd_create("log", os.MFD_CLOEXEC)
        self._open = True
        self._failure = ""

    @property
    def descriptors(self) -> tuple[int, int]:
        """Both, to be passed on."""
        return self._pid, self._log

    @property
    def pid_file(self) -> str:
        """For --pid-file."""
        return str(self._path) if self._path else f"/proc/self/fd/{self._pid}"

    @property
    def log_file(self) -> str:
        """For --log."""
        return f"/proc/self/fd/{self._log}"

    def pid(self) -> int:
        """The exec's host pid, 0 while it isn't known."""
        text = b""
        if self._open and self._path is None:
            text = os.pread(self._pid, 32, 0).strip()
        elif self._path is not None:
            with contextlib.suppress(OSError):
                text = self._path.read_bytes().strip()
        return int(text) if text.isdigit() else 0

    async def wait_pid(self, ended: asyncio.Future[int]) -> int:
        """The pid as soon as the runtime has said it; 0 if it ended without, or never says it."""
        deadline = asyncio.get_running_loop().time() + _PID_PATIENCE
        while not (pid := self.pid()) and asyncio.get_running_loop().time() < deadline:
            done, _ = await asyncio.wait({ended}, timeout=0.001)  # a memory file can't be waited for
            if done:
                return self.pid()
        return pid

    def failure(self) -> str:
        """The runtime's own error, "" if the program itself ran."""
        if self._open and not self._failure:
            self._failure = conmon.last_message(os.pread(self._log, 65536, 0))
        return self._failure

    def close(self) -> None:
        """Close the memory files; what was said is kept."""
        if self._open:
            self.failure()
            self._open = False
            if self._path is not None:
                self._path.unlink(missing_ok=True)
            os.close(self._pid)
            os.close(self._log)


class Console:
    """A listening socket on which the runtime hands over the terminal's descriptor."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name
        self.folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._path.unlink(missing_ok=True)
        self._socket.bind(f"/proc/self/fd/{self.folder}/{name}")
        self._socket.listen(1)

    async def terminal(self, ended: asyncio.Future[int]) -> Stream | None:
        """The terminal, None if the runtime ended without one."""
        loop = asyncio.get_running_loop()
        accepting = asyncio.ensure_future(loop.sock_accept(self._socket))
        both: set[asyncio.Future[Any]] = {accepting, ended}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not accepting.done():
            accepting.cancel()
            return None
        peer, _ = accepting.result()
        with peer:
            return Stream(await _received(peer))

    def close(self) -> None:
        """Remove the socket."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
        os.close(self.folder)


async def _received(peer: socket.socket) -> int:
    """The one descriptor in a message (SCM_RIGHTS)."""
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    while True:
        try:
            _, ancillary, _, _ = peer.recvmsg(4096, socket.CMSG_SPACE(4))
            break
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(peer, ready.set_result, None)
            try:
                await ready
            finally:
                loop.remove_reader(peer)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors = array.array("i", data[:4])
            os.set_inheritable(descriptors[0], False)
            return descriptors[0]
    raise PermanentError("open the terminal: the runtime sent none")


async def _end_session(pid: int) -> None:
    """KILL the exec's process and all others of its session (the runtime makes one for each exec), and see them gone."""
    if not pid:
        return
    session = _session(pid)
    if not session or session == os.getsid(0):
        members = [pid]
    else:
        members = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _session(int(entry)) == session]
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PID_PATIENCE):
            for member in members:
                await proc.wait_pid(member)


def _session(pid: int) -> int:
    """0 when the process is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0
