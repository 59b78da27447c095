"""Sockets as the activator wants them: made, asked where they were meant to go, joined, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

BACKLOG = 4096
"""Connections that the kernel keeps until they are accepted; `net.core.somaxconn` is as much by default."""
_PART = 64 * 1024
_SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h: where a connection was going before it was redirected."""
_DRAIN = 1.0
"""Seconds for the other side to take a refusal before the connection ends under what it is still sending."""
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""Seconds, seconds, times: a peer that vanished without a word is noticed within a minute."""


def listen_unix(path: Path) -> socket.socket:
    """In place of whatever is there. Everybody may connect who gets as far as the folder."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        near = Path(f"/proc/self/fd/{folder}")  # a home's path may be longer than a socket's address
        fresh = near / f"{path.name}.new"
        fresh.unlink(missing_ok=True)
        made.bind(str(fresh))
        fresh.chmod(0o666)
        made.listen(BACKLOG)
        fresh.rename(near / path.name)
    except BaseException:
        made.close()
        raise
    finally:
        os.close(folder)
    return made


def listen_tcp() -> socket.socket:
    """A port of the kernel's choice on all IPv4 addresses: a redirected connection comes to that of its interface.

    The network's rules let in only what they redirected.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.bind(("0.0.0.0", 0))
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def destination(connection: socket.socket) -> tuple[str, int] | None:
    """Where a redirected connection was going; None if it wasn't redirected."""
    try:
        raw = connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    except OSError:
        return None
    port, address = struct.unpack_from("!2xH4s", raw)
    found = (socket.inet_ntoa(address), int(port))
    return None if found == connection.getsockname() else found


async def dial(address: str, port: int, patience: float) -> socket.socket:
    """Connected. Raises OSError, also when there is no answer after so many seconds."""
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        watch(made)
        async with asyncio.timeout(patience):
            await asyncio.get_running_loop().sock_connect(made, (address, port))
        # Between two ports of one machine a connection can meet itself.
        if made.getsockname() == made.getpeername():
            raise ConnectionRefusedError(f"nobody listens at {address} port {port}")
    except BaseException:
        made.close()
        raise
    return made


def watch(connection: socket.socket) -> None:
    """Let the kernel notice a TCP peer that vanished; and send small pieces at once."""
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


async def splice(caller: socket.socket, instance: socket.socket, heard: Callable[[], None]) -> None:
    """Pass bytes both ways until both directions have ended; an end of one direction is passed on by itself.

    What one side doesn't take isn't read from the other. `heard` is called when the instance says something, or is done.
    Raises OSError when a side breaks.
    """
    ways = [asyncio.ensure_future(_pump(caller, instance)), asyncio.ensure_future(_pump(instance, caller, heard))]
    try:
        await asyncio.gather(*ways)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pump(source: socket.socket, sink: socket.socket, heard: Callable[[], None] = lambda: None) -> None:
    loop = asyncio.get_running_loop()
    part = memoryview(bytearray(_PART))
    while count := await loop.sock_recv_into(source, part):
        heard()
        await loop.sock_sendall(sink, part[:count])
    heard()
    sink.shutdown(socket.SHUT_WR)


def abort(connection: socket.socket) -> None:
    """Close; a TCP peer is told by a reset."""
    with contextlib.suppress(OSError):
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def say(connection: socket.socket, answer: bytes) -> None:
    """An answer, then the end; what the other side is still sending is thrown away, so that it gets to read."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_DRAIN):
            await loop.sock_sendall(connection, answer)
            connection.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(connection, _PART):
                pass
    connection.close()


def hurry(scope: asyncio.Timeout, when: float) -> None:
    """Let it end at this time of the loop's, unless it is ending already."""
    if not scope.expired():
        scope.reschedule(when)


class Hangups:
    """Tells of peers that have gone, without reading a byte: one epoll instance for all, which the event loop watches.

    A peer that only has nothing more to say is still there.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._look)

    def close(self) -> None:
        """Watch nobody any more."""
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()

    @contextlib.contextmanager
    def watching(self, connection: socket.socket, gone: Callable[[], None]) -> Iterator[None]:
        """`gone` is called at most once while the block lasts."""
        number = connection.fileno()
        self._watched[number] = gone
        self._epoll.register(number, 0)  # errors and hang-ups are always told
        try:
            yield
        finally:
            if self._watched.pop(number, None) is not None and not self._epoll.closed:
                self._epoll.unregister(number)

    def _look(self) -> None:
        for number, _ in self._epoll.poll(0):
            self._epoll.unregister(number)
            self._watched.pop(number)()
