"""Netlink with as little as possible between the caller and the kernel.

Attaching an instance is a dozen messages; sent in one batch they take a fraction of a millisecond, where a general
library needs ten. This module knows framing, attributes, acknowledgements and dumps; what the messages mean is in
`network/links.py` (rtnetlink) and `network/conntrack.py` (ctnetlink).

A socket belongs to the network namespace of the thread that made it, whichever thread uses it later.
Not safe for use by two threads at the same time. Formats: linux/netlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Self

ROUTE = 0
NETFILTER = 12

REQUEST, ACK, ROOT, MATCH = 0x1, 0x4, 0x100, 0x200
DUMP = ROOT | MATCH
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_DUMP_INTERRUPTED = 0x10
_CAPPED, _ACK_TLVS = 0x100, 0x200
_SOL_NETLINK, _EXT_ACK, _CAP_ACK, _STRICT = 270, 11, 10, 12
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER = 1 << 18


class NetlinkError(OSError):
    """The kernel refused a message; `index` is its place in the batch, `strerror` includes the kernel's own words."""

    def __init__(self, number: int, words: str, index: int) -> None:
        text = os.strerror(number)
        super().__init__(number, f"{text}: {words}" if words else text)
        self.index = index


def attribute(kind: int, data: bytes | int | str) -> bytes:
    """One attribute, padded; an int is 32 bits, a str ends with a zero byte."""
    if isinstance(data, int):
        data = struct.pack("=I", data)
    elif isinstance(data, str):
        data = data.encode() + b"\0"
    size = len(data) + 4
    return _ATTRIBUTE.pack(size, kind) + data + bytes(-size % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """All attributes from `offset` on, by type without flags; of repeated ones the last."""
    return dict(_walk(data, offset))


def _walk(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > len(data):
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def message(kind: int, flags: int, body: bytes, *parts: bytes) -> tuple[int, int, bytes]:
    """A message without its header: type, flags, payload. Sequence numbers are the socket's business."""
    return kind, flags, body + b"".join(parts)


class Netlink:
    """A socket of one netlink family, in the network namespace of the thread that makes it."""

    def __init__(self, family: int = ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        for option, value in ((_EXT_ACK, 1), (_CAP_ACK, 1)):
            self._socket.setsockopt(_SOL_NETLINK, option, value)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor; good for ioctls in the socket's network namespace."""
        return self._socket.fileno()

    def request(self, *messages: tuple[int, int, bytes]) -> None:
        """Send all in one batch and wait for all acknowledgements. The kernel works on after a failure; the first one is raised."""
        failures = self.attempt(*messages)
        first = next((failure for failure in failures if failure), None)
        if first:
            raise first

    def attempt(self, *messages: tuple[int, int, bytes]) -> list[NetlinkError | None]:
        """The same, with one answer per message and nothing raised."""
        start = self._sequence + 1
        self._socket.send(b"".join(self._frame(kind, flags | REQUEST | ACK, body) for kind, flags, body in messages))
        answers: dict[int, NetlinkError | None] = {}
        while len(answers) < len(messages):
            for kind, _flags, sequence, body in self._receive():
                if kind == _ERROR and start <= sequence <= self._sequence:
                    answers[sequence] = _failure(_flags, body, sequence - start)
        return [answers[number] for number in sorted(answers)]

    def dump(self, kind: int, body: bytes, *parts: bytes) -> list[bytes]:
        """The payloads of a dump; taken again if the kernel says that it changed on the way."""
        for _ in range(10):
            payloads, interrupted = self._dump_once(kind, body + b"".join(parts))
            if not interrupted:
                break
        return payloads

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        self._socket.send(self._frame(kind, REQUEST | DUMP, body))
        payloads: list[bytes] = []
        interrupted = False
        while True:
            for answer, flags, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & _DUMP_INTERRUPTED)
                if answer == _DONE:
                    return payloads, interrupted
                if answer == _ERROR:
                    raise _failure(flags, payload, 0) or NetlinkError(0, "", 0)
                payloads.append(payload)

    def _frame(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        size = len(body) + 16
        return _HEADER.pack(size, kind, flags, self._sequence, 0) + body + bytes(-size % 4)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_BUFFER)
        offset = 0
        while offset + 16 <= len(data):
            size, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + 16 : offset + size]
            offset += (max(size, 16) + 3) & ~3


def _failure(flags: int, body: bytes, index: int) -> NetlinkError | None:
    (number,) = struct.unpack_from("=i", body)
    if number == 0:
        return None
    words = b""
    if flags & _ACK_TLVS:
        skip = 20 if flags & _CAPPED else 4 + struct.unpack_from("=I", body, 4)[0]
        words = attributes(body, skip).get(1, b"")
    return NetlinkError(-number, words.rstrip(b"\0").decode("utf-8", "replace"), index)
