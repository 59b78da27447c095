"""The client of the guest agent: one connection to QEMU's socket, over which everything inside a VM is done.

Laws:
- `connect` returns after WELCOME; from then on one connection carries requests, execs and the workload's output.
- Memory is bounded whatever the guest does: exec output by the window given, workload output by the guest's ring (both are checked).
- The workload's output is acknowledged after `on_output` returned and every attached session consumed it: a slow reader slows the workload.
- When the connection ends, for whatever reason, `lost` is set, every waiter gets `AgentLostError`, and the object is of no more use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twinhull.errors import CannotRunError, ConflictError, PermanentError, TemporaryError, TwinhullError, UserError
from twinhull.instance.base import Process, Session
from twinhull.instance.vm import frames
from twinhull.instance.vm.frames import ErrorKind, GuestState, GuestStats, Kind, Message, PowerOff, ProtocolError
from twinhull.instance.vm.guest import GuestConfig, GuestIdentity, encode_config, encode_identity, encode_process, encode_resources
from twinhull.instance.vm.streams import AgentLostError, Attached, Exec, GuestExit, Input
from twinhull.spec.instance import Resources

__all__ = ["AGENT", "AgentClient", "AgentLostError", "GuestExit", "OnOutput"]

OnOutput = Callable[[int, int, int, bytes], None]
"""(offset, realtime in ns, STDOUT|STDERR, data); what it took over when it returns is acknowledged."""
AGENT = "/run/twinhull/agent"
"""Where the agent's own binary is, inside every workload's root."""

_ACK_STEP = 128 * 1024
_RETRY = 0.01
"""Seconds between attempts while QEMU hasn't made its socket yet."""
_CLOSE_SECONDS = 1.0
_T = TypeVar("_T", bound=Message)


class AgentClient:
    """See the module's laws. Make it with `connect`."""

    def __init__(self, log_offset: int, on_output: OnOutput | None) -> None:
        self.lost = asyncio.Event()
        self.lost_bytes = 0
        """Output that the guest had to drop while no host listened."""
        self._nonce = os.urandom(frames.NONCE_SIZE)
        self._decoder = frames.Decoder(self._nonce)
        self._on_output = on_output
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._failure: TwinhullError | None = None
        self._state = GuestState.FRESH
        self._next_stream = 1
        self._requests: dict[int, asyncio.Future[Message]] = {}
        self._renewing: dict[int, GuestState] = {}
        self._execs: dict[int, Exec] = {}
        self._attached: set[Attached] = set()
        self._stdin = Input(self, 0)
        self._offset = log_offset
        self._acknowledged = log_offset
        self._exit: GuestExit | None = None
        self._exited = asyncio.Event()
        self._welcome: asyncio.Future[frames.Welcome] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, path: Path, *, log_offset: int = 0, timeout: float = 30.0, on_output: OnOutput | None = None) -> AgentClient:
        """Connect to the UNIX socket of QEMU's chardev and wait for WELCOME. Raises TemporaryError, ProtocolError."""
        client = cls(log_offset, on_output)
        try:
            async with asyncio.timeout(timeout):
                await _open(path, client)
                await client._greet()
        except TimeoutError:
            await client.close()
            raise TemporaryError(f"connect to the guest agent: no answer within {timeout:g} s") from None
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def state(self) -> GuestState:
        """How far the guest is, as far as is known."""
        return self._state

    async def configure(self, config: GuestConfig) -> None:
        """CONFIG. Raises CannotRunError (126, 127), UserError, ConflictError, PermanentError; afterwards only `shutdown` makes sense."""
        await self._request(frames.Ok, Kind.CONFIG, encode_config(config))
        self._state = GuestState.CONFIGURED

    async def start(self) -> None:
        """START: the workload's first instruction. Raises as `configure`."""
        await self._request(frames.Started, Kind.START)
        self._state = max(self._state, GuestState.RUNNING)

    async def reset(self) -> None:
        """RESET: back to fresh after the workload's end, as if it had never been. Afterwards `configure`."""
        await self._renew(GuestState.FRESH, Kind.RESET, b"")

    async def prepare(self) -> None:
        """PREPARE: mount the scratch disk ahead of CONFIG; `reset` undoes it."""
        await self._request(frames.Ok, Kind.PREPARE)

    async def freeze(self, *, frozen: bool) -> None:
        """FREEZE: stop the workload with all that was started beside it, or let it run again."""
        await self._request(frames.Ok, Kind.FREEZE, bytes([frozen]))

    async def volumes(self, *, mounted: bool) -> None:
        """VOLUMES: unmount them while the workload is frozen, or mount them again.

        Raises ConflictError where one is in use: then all are mounted. After another error the workload must not go on.
        """
        await self._request(frames.Ok, Kind.VOLUMES, bytes([mounted]))

    async def resume(self, identity: GuestIdentity) -> None:
        """RESUME: another identity for a workload that was saved while it ran. Its output counts from zero again."""
        await self._renew(GuestState.RUNNING, Kind.RESUME, encode_identity(identity))

    async def _renew(self, state: GuestState, kind: Kind, payload: bytes) -> None:
        stream = self._take_stream()
        self._renewing[stream] = state
        try:
            await self._ask(frames.Ok, stream, kind, payload)
        finally:
            self._renewing.pop(stream, None)

    def listen(self, on_output: OnOutput) -> None:
        """Who takes the workload's output from now on."""
        self._on_output = on_output

    async def exec(self, process: Process, *, tool: bool = False, host_side: bool = False) -> Session:
        """Another program; `tool`: root with all capabilities; `host_side`: the agent's own tools, outside the root."""
        payload = encode_process(process, tool=tool, host_side=host_side)
        stream = self._take_stream()
        session = self._execs[stream] = Exec(self, stream)
        try:
            await self._ask(frames.Started, stream, Kind.EXEC, payload)
        except asyncio.CancelledError:
            session.abandon()
            raise
        except BaseException:
            self._execs.pop(stream, None)
            raise
        return session

    async def attach(self) -> Session:
        """The workload's streams from now on; `close` leaves the workload alone."""
        self._require_connection()
        session = Attached(self, self._stdin)
        self._attached.add(session)
        if self._exit is not None:
            session.finish(self._exit.code)
        return session

    async def signal(self, number: int) -> None:
        """To the workload."""
        self.send_signal(0, number)

    async def stats(self) -> GuestStats:
        """The guest's own view, since its start."""
        return (await self._request(frames.StatsReply, Kind.STATS)).stats

    async def top(self) -> list[dict[str, str]]:
        """PID (inside), USER, TIME (h:mm:ss of CPU), COMMAND, by PID."""
        rows = (await self._request(frames.TopReply, Kind.TOP)).rows
        return [
            {"PID": str(pid), "USER": user, "TIME": _hours(milliseconds // 1000), "COMMAND": command}
            for pid, user, milliseconds, command in sorted(rows)
        ]

    async def update(self, resources: Resources) -> None:
        """New limits on the workload inside the guest."""
        await self._request(frames.Ok, Kind.UPDATE, encode_resources(resources))

    async def set_clock(self, realtime_ns: int | None = None) -> None:
        """None: now. The guest leaves differences below 5 ms alone."""
        stream = self._take_stream()
        frame = frames.clock(stream, time.time_ns() if realtime_ns is None else realtime_ns)
        await self._answer(frames.Ok, stream, frame)

    async def wait_exit(self) -> GuestExit:
        """The workload's end; any number of waiters; after all its output went through `on_output`."""
        await self._exited.wait()
        if self._exit is None:
            raise self.failure()
        return self._exit

    async def shutdown(self, how: PowerOff = PowerOff.RESTART, timeout: float = 10.0) -> None:
        """Kill all, sync, unmount, end the machine; returns once the agent said so (or is gone). Raises TemporaryError after `timeout`."""
        try:
            async with asyncio.timeout(timeout):
                with contextlib.suppress(AgentLostError):
                    stream = self._take_stream()
                    await self._answer(frames.Ok, stream, frames.shutdown(stream, how))
        except TimeoutError:
            raise TemporaryError(f"shut the guest down: no answer within {timeout:g} s") from None

    async def close(self) -> None:
        """End the connection; the workload lives on. Idempotent."""
        transport = self._transport
        if transport is None:
            self.end(AgentLostError("the connection to the guest agent was closed"))
            return
        transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.lost.wait()
        transport.abort()
        await self.lost.wait()

    # ---- for sessions (streams.py)

    async def write(self, frame: bytes) -> None:
        """Send, and wait until the socket takes more."""
        self.write_nowait(frame)
        await self._writable.wait()

    def write_nowait(self, frame: bytes) -> None:
        """Send; only for what is small and bounded by itself."""
        self._require_connection()
        assert self._transport is not None  # a lost connection has raised
        self._transport.write(frame)

    def send_signal(self, stream: int, number: int) -> None:
        """A signal to a stream's program. Raises UserError for what is no signal."""
        if not 1 <= number <= 64:
            raise UserError(f"signal {number}: must be 1 to 64")
        self.write_nowait(frames.signal(stream, number))

    def forget(self, session: Attached) -> None:
        """An attached session ended: what it had not consumed no longer holds the workload back."""
        self._attached.discard(session)
        self.acknowledge()

    def acknowledge(self) -> None:
        """Tell the guest what's safe, in steps; called whenever an attached session consumed something."""
        safe = min((session.consumed for session in self._attached if session.consumed is not None), default=self._offset)
        if safe - self._acknowledged >= _ACK_STEP and not self.lost.is_set():
            self._acknowledged = safe
            self.write_nowait(frames.log_ack(safe))

    def failure(self) -> TwinhullError:
        """A fresh error for one waiter, saying why the connection ended."""
        reason = self._failure or AgentLostError("the connection to the guest agent ended")
        return type(reason)(reason.message)

    # ---- for the transport

    def opened(self, transport: asyncio.Transport) -> None:
        """Connected."""
        self._transport = transport
        self._writable.set()

    def set_writable(self, writable: bool) -> None:
        """Back-pressure from the socket."""
        if writable:
            self._writable.set()
        else:
            self._writable.clear()

    def received(self, data: bytes) -> None:
        """Bytes from the guest. Whatever is wrong with them ends the connection, and nothing else."""
        try:
            for message in self._decoder.feed(data):
                self._handle(message)
        except ProtocolError as error:
            self._failure = error
            if self._transport is not None:
                self._transport.abort()

    def end(self, error: TwinhullError) -> None:
        """The connection is no more: wake every waiter."""
        if self.lost.is_set():
            return
        self._failure = self._failure or error
        self._transport = None
        self.lost.set()
        self._writable.set()
        self._exited.set()
        if not self._welcome.done():
            self._welcome.set_exception(self.failure())
            self._welcome.exception()  # seen, also if nobody waits any more
        for future in self._requests.values():
            if not future.done():
                future.set_exception(self.failure())
        for session in (*self._execs.values(), *self._attached):
            session.fail()
        self._stdin.close()

    # ---- inside

    async def _greet(self) -> None:
        self.write_nowait(frames.hello(self._nonce, self._offset, os.urandom(frames.ENTROPY_SIZE)))
        welcome = await self._welcome
        if welcome.version != frames.VERSION:
            raise PermanentError(f"the guest agent speaks protocol {welcome.version}, not {frames.VERSION}", "run `make setup` again")
        self.write_nowait(frames.clock(self._take_stream(), time.time_ns()))

    def _handle(self, message: Message) -> None:
        match message:
            case frames.Data():
                self._handle_data(message)
            case frames.Output():
                self._handle_output(message)
            case frames.Grant():
                self._handle_grant(message)
            case frames.Exited(stream=0):
                self._handle_exit(message)
            case frames.Exited():
                self._handle_exec_exit(message)
            case frames.Welcome():
                self._handle_welcome(message)
            case _:
                self._handle_answer(message)

    def _handle_welcome(self, welcome: frames.Welcome) -> None:
        if self._welcome.done():
            raise ProtocolError("agent: a second welcome")
        if welcome.log_end < self._offset:
            raise ProtocolError(f"agent: has output up to {welcome.log_end} only, {self._offset} were seen")
        self._state = welcome.state
        self._skip_to(welcome.log_base)
        self._stdin.credit = welcome.room
        self._welcome.set_result(welcome)

    def _skip_to(self, offset: int) -> None:
        """The guest dropped output before `offset`."""
        if offset > self._offset:
            self.lost_bytes += offset - self._offset
            self._offset = offset

    def _handle_data(self, message: frames.Data) -> None:
        session = self._execs.get(message.stream)
        if session is not None:
            session.take(message.fd, message.data)
        else:
            self._check_stream(message.stream)

    def _handle_output(self, message: frames.Output) -> None:
        if message.offset < self._offset or self._exit is not None:
            raise ProtocolError(f"agent: output at {message.offset} after {self._offset}")
        self._skip_to(message.offset)
        self._offset += len(message.data)
        if self._on_output is not None:
            self._on_output(message.offset, message.time_ns, message.fd, message.data)
        for session in self._attached:
            session.take_at(message.offset, message.fd, message.data)
        self.acknowledge()

    def _handle_grant(self, message: frames.Grant) -> None:
        if message.stream == 0:
            self._stdin.grant(message.credit, message.closed)
        elif session := self._execs.get(message.stream):
            session.stdin.grant(message.credit, message.closed)
        else:
            self._check_stream(message.stream)

    def _handle_exit(self, message: frames.Exited) -> None:
        if self._exit is not None:
            raise ProtocolError("agent: the workload ended twice")
        self._state = GuestState.EXITED
        self._exit = GuestExit(message.code, message.oom)
        self._stdin.close()
        self._exited.set()
        for session in self._attached:
            session.finish(message.code)

    def _handle_exec_exit(self, message: frames.Exited) -> None:
        session = self._execs.get(message.stream)
        if session is None:
            self._check_stream(message.stream)
            return
        session.end(message.code, message.out_bytes, message.err_bytes)
        del self._execs[message.stream]

    def _handle_answer(self, message: frames.Ok | frames.Error | frames.Started | frames.StatsReply | frames.TopReply) -> None:
        if message.stream in self._renewing and isinstance(message, frames.Ok):
            self._begin_anew(self._renewing[message.stream])
        future = self._requests.get(message.stream)
        if isinstance(message, frames.Error):
            self._drop_exec(message.stream, answered=future is not None and not future.done())
        if future is not None and not future.done():
            future.set_result(message)
        else:
            self._check_stream(message.stream)

    def _drop_exec(self, stream: int, *, answered: bool) -> None:
        """An exec that failed; only one that was given up may hear of that later, for a program that runs ends with EXIT."""
        session = self._execs.get(stream)
        if session is not None and not answered and not session.abandoned:
            raise ProtocolError(f"agent: an error about stream {stream}, which runs")
        self._execs.pop(stream, None)

    def _begin_anew(self, state: GuestState) -> None:
        """At once, for the next message in the same piece of the stream may be output of the new time."""
        self._state = state
        self._offset = self._acknowledged = 0
        if state is GuestState.FRESH:
            self._exit = None
            self._exited = asyncio.Event()
            self._stdin = Input(self, 0)

    def _check_stream(self, stream: int) -> None:
        """A late word about something we gave up is fine; about something we never asked for it isn't."""
        if stream >= self._next_stream:
            raise ProtocolError(f"agent: unknown stream {stream}")

    def _take_stream(self) -> int:
        self._require_connection()
        stream = self._next_stream
        self._next_stream += 1
        return stream

    def _require_connection(self) -> None:
        if self.lost.is_set() or self._transport is None:
            raise self.failure()

    async def _request(self, answer: type[_T], kind: Kind, payload: bytes = b"") -> _T:
        return await self._ask(answer, self._take_stream(), kind, payload)

    async def _ask(self, answer: type[_T], stream: int, kind: Kind, payload: bytes) -> _T:
        try:
            frame = frames.encode(kind, stream, payload)
        except ValueError as error:
            raise UserError(str(error)) from error
        return await self._answer(answer, stream, frame)

    async def _answer(self, answer: type[_T], stream: int, frame: bytes) -> _T:
        """Send a request and wait for the one message that answers it."""
        future = self._requests[stream] = asyncio.get_running_loop().create_future()
        try:
            await self.write(frame)
            message = await future
        finally:
            del self._requests[stream]
            if future.done() and not future.cancelled():
                future.exception()  # seen, also if we were cancelled just then
        if isinstance(message, frames.Error):
            raise _error(message)
        if not isinstance(message, answer):
            raise ProtocolError(f"agent: {type(message).__name__} in answer to a request")
        return message


class _Wire(asyncio.Protocol):
    """asyncio's callbacks, passed on."""

    def __init__(self, client: AgentClient) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # a stream socket's
        self._client.opened(transport)

    def data_received(self, data: bytes) -> None:
        self._client.received(data)

    def pause_writing(self) -> None:
        self._client.set_writable(False)

    def resume_writing(self) -> None:
        self._client.set_writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.end(AgentLostError(f"the connection to the guest agent ended{f': {exc}' if exc else ''}"))


async def _open(path: Path, client: AgentClient) -> None:
    """Until there is somebody to connect to."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            await loop.create_unix_connection(lambda: _Wire(client), str(path))
            return
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.sleep(_RETRY)


def _error(message: frames.Error) -> TwinhullError:
    match message.kind:
        case ErrorKind.CANNOT_RUN:
            return CannotRunError(message.text, exit_code=message.exit_code if message.exit_code in (126, 127) else 126)
        case ErrorKind.REQUEST:
            return UserError(message.text)
        case ErrorKind.STATE:
            return ConflictError(message.text)
        case ErrorKind.INTERNAL:
            return PermanentError(f"guest: {message.text}")


def _hours(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
