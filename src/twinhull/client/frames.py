"""The client's half of WebSocket framing (RFC 6455), without I/O.

`encode` makes one masked frame; `Decoder` turns received bytes into whole messages. Laws: a server's frames are never masked,
reserved bits are zero, control frames are short and whole, a message is at most `MAX_MESSAGE` bytes. What breaks a law raises
FrameError, and the connection is then good for nothing. Kept apart from any library: see docs/adr/0002-thin-transport.md.
"""

from __future__ import annotations

import os

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MAX_MESSAGE = 16 * 1024 * 1024
_OPCODES = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
_FIN, _MASKED = 0x80, 0x80


class FrameError(Exception):
    """The peer doesn't speak WebSocket as RFC 6455 has it."""


def encode(opcode: int, payload: bytes) -> bytes:
    """One final frame, masked with a fresh key as clients must."""
    size = len(payload)
    if size < 126:
        head = bytes((_FIN | opcode, _MASKED | size))
    elif size < 65536:
        head = bytes((_FIN | opcode, _MASKED | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, _MASKED | 127)) + size.to_bytes(8, "big")
    key = os.urandom(4)
    return head + key + mask(key, payload)


def mask(key: bytes, payload: bytes) -> bytes:
    """XOR with the repeated key; its own inverse. As one long integer: linear, and 100 times faster than a loop over bytes."""
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")


class Decoder:
    """Bytes in, messages out: (TEXT | BINARY | CLOSE | PING | PONG, payload), fragments joined."""

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._buffer = bytearray()
        self._max = max_message
        self._opcode: int | None = None
        self._fragments = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """All messages that are complete now. Raises FrameError."""
        self._buffer += data
        messages: list[tuple[int, bytes]] = []
        position = 0
        while (frame := self._frame(position)) is not None:
            first, start, end = frame
            message = self._accept(first & 0x0F, bool(first & _FIN), bytes(self._buffer[start:end]))
            if message is not None:
                messages.append(message)
            position = end
        del self._buffer[:position]
        return messages

    def _frame(self, position: int) -> tuple[int, int, int] | None:
        """(first byte, start, end of the payload) of a whole frame at `position`, or None if there isn't one yet."""
        buffer = self._buffer
        if len(buffer) - position < 2:
            return None
        first, second = buffer[position], buffer[position + 1]
        self._check_head(first, second)
        extra = {126: 2, 127: 8}.get(second, 0)
        start = position + 2 + extra
        if len(buffer) < start:
            return None
        size = int.from_bytes(buffer[position + 2 : start], "big") if extra else second
        if size + len(self._fragments) > self._max:
            raise FrameError(f"a message of more than {self._max} bytes")
        return (first, start, start + size) if len(buffer) >= start + size else None

    def _check_head(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        if first & 0x70 or opcode not in _OPCODES:
            raise FrameError(f"a frame that begins with {first:#04x}")
        if second & _MASKED:
            raise FrameError("a masked frame from a server")
        if opcode >= CLOSE and (second > 125 or not first & _FIN):
            raise FrameError("a long or fragmented control frame")

    def _accept(self, opcode: int, final: bool, payload: bytes) -> tuple[int, bytes] | None:
        """The message that this frame completes, if it does."""
        if opcode >= CLOSE:
            return opcode, payload
        if (opcode == CONTINUATION) != (self._opcode is not None):
            raise FrameError("fragments out of order")
        if final and opcode != CONTINUATION:
            return opcode, payload
        self._opcode = self._opcode if opcode == CONTINUATION else opcode
        self._fragments += payload
        return self._take() if final else None

    def _take(self) -> tuple[int, bytes]:
        opcode, payload = self._opcode, bytes(self._fragments)
        assert opcode is not None
        self._opcode = None
        self._fragments.clear()
        return opcode, payload
