"""The codec of the guest agent's protocol (agent/PROTOCOL.md), without I/O.

Laws:
- What comes from the guest is hostile. `Decoder.feed` gives complete, checked messages or raises ProtocolError; never another error.
- A decoder keeps at most one frame plus one assembly (MAX_ASSEMBLY) in memory, whatever it is fed.
- Up to the WELCOME that carries our nonce everything is discarded: it is left over from another connection.
- Encoders are pure; every payload for the guest ends with TRAILER, so that a frame cut off half-way never counts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from twinhull.errors import PermanentError

VERSION = 1
MARKER = 0xA5
TRAILER = b"\x5a"
HEADER = struct.Struct("<BBHII")
MAX_PAYLOAD = 65_536
MAX_DATA = 60_000
"""Data bytes per STDIN frame: below MAX_PAYLOAD less the trailer, and a size that pipes take well."""
FLUSH = bytes(HEADER.size + MAX_PAYLOAD)
"""Completes whatever half frame a former host left behind."""
MAX_REQUEST = 32 * 1024 * 1024
"""Bytes of one CONFIG or EXEC, over all its frames."""
MAX_ASSEMBLY = 1024 * 1024
"""Bytes of one reply in several frames (TOP)."""
WINDOW = 256 * 1024
"""Credit, in bytes, that an exec's streams begin with, in both directions."""
NONCE_SIZE = 16
ENTROPY_SIZE = 64

_MORE = 1
_CLOSED = 2
_U64 = 0xFFFF_FFFF_FFFF_FFFF


class ProtocolError(PermanentError):
    """The guest broke the protocol; the connection can't be trusted any more."""


class Kind(IntEnum):
    """Frame types."""

    HELLO = 0x01
    CONFIG = 0x02
    START = 0x03
    EXEC = 0x04
    STDIN = 0x05
    WINDOW = 0x06
    SIGNAL = 0x07
    RESIZE = 0x08
    CLOSE = 0x09
    LOGACK = 0x0A
    STATS = 0x0B
    UPDATE = 0x0C
    CLOCK = 0x0D
    SHUTDOWN = 0x0E
    TOP = 0x0F
    RESET = 0x10
    RESUME = 0x11
    PREPARE = 0x12
    FREEZE = 0x13
    VOLUMES = 0x14
    WELCOME = 0x81
    OK = 0x82
    ERROR = 0x83
    STARTED = 0x84
    DATA = 0x85
    OUTPUT = 0x86
    EXIT = 0x87
    GRANT = 0x88
    STATS_REPLY = 0x8B
    TOP_REPLY = 0x8F


class GuestState(IntEnum):
    """How far the guest is. fresh → configured (CONFIG) → running (START) → exited."""

    FRESH = 0
    CONFIGURED = 1
    RUNNING = 2
    EXITED = 3


class ErrorKind(IntEnum):
    """Whose fault an ERROR is."""

    INTERNAL = 0
    CANNOT_RUN = 1
    REQUEST = 2
    STATE = 3


class PowerOff(IntEnum):
    """How SHUTDOWN ends the machine. RESTART ends a QEMU that was started with -no-reboot, also where there is no ACPI."""

    OFF = 0
    RESTART = 1


class ExitFlag(IntFlag):
    """Flags of EXIT."""

    OOM = 1


@dataclass(frozen=True, slots=True)
class Welcome:
    """The guest's first message. Output from `log_base` to `log_end` is still there; `room`: bytes of stdin the workload takes now."""

    version: int
    state: GuestState
    log_base: int
    log_end: int
    room: int


@dataclass(frozen=True, slots=True)
class Ok:
    """The request `stream` is done."""

    stream: int


@dataclass(frozen=True, slots=True)
class Error:
    """The request `stream` failed; nothing of it was done."""

    stream: int
    kind: ErrorKind
    exit_code: int
    text: str


@dataclass(frozen=True, slots=True)
class Started:
    """The program of `stream` runs. `pid` is the guest's number for it."""

    stream: int
    pid: int


@dataclass(frozen=True, slots=True)
class Data:
    """Output of an exec; fd is 1 or 2."""

    stream: int
    fd: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Output:
    """Output of the workload: `offset` of its first byte, guest's realtime in ns."""

    offset: int
    time_ns: int
    fd: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Exited:
    """The program of `stream` ended, after writing so many bytes to fd 1 and fd 2."""

    stream: int
    code: int
    oom: bool
    out_bytes: int
    err_bytes: int


@dataclass(frozen=True, slots=True)
class Grant:
    """`credit` more bytes of stdin are welcome; `closed`: none are, ever."""

    stream: int
    credit: int
    closed: bool


@dataclass(frozen=True, slots=True)
class GuestStats:
    """The guest's own view: nanoseconds and bytes; memory_limit 0 is none."""

    cpu_ns: int
    memory: int
    inactive_file: int
    memory_limit: int
    pids: int
    net_rx: int
    net_tx: int
    block_read: int
    block_write: int
    guest_total: int
    guest_available: int


@dataclass(frozen=True, slots=True)
class StatsReply:
    """Answer to STATS."""

    stream: int
    stats: GuestStats


@dataclass(frozen=True, slots=True)
class TopReply:
    """Answer to TOP: (pid inside, user, CPU milliseconds, command line) each."""

    stream: int
    rows: tuple[tuple[int, str, int, str], ...]


Message = Welcome | Ok | Error | Started | Data | Output | Exited | Grant | StatsReply | TopReply

# ---- host to guest


def encode(kind: Kind, stream: int, payload: bytes = b"") -> bytes:
    """One request; as many frames as it takes. Raises ValueError above MAX_REQUEST."""
    if len(payload) > MAX_REQUEST:
        raise ValueError(f"{kind.name} of {len(payload)} bytes is above the limit of {MAX_REQUEST}")
    return b"".join(_frames(kind, stream, payload))


def _frames(kind: Kind, stream: int, payload: bytes) -> Iterator[bytes]:
    room = MAX_PAYLOAD - len(TRAILER)
    for start in range(0, len(payload) or 1, room):
        part = payload[start : start + room]
        flags = _MORE if start + room < len(payload) else 0
        yield HEADER.pack(MARKER, kind, flags, stream, len(part) + len(TRAILER)) + part + TRAILER


def hello(nonce: bytes, log_offset: int, entropy: bytes) -> bytes:
    """FLUSH and HELLO: the first bytes of every connection."""
    body = struct.pack("<I16sQ64s", VERSION, nonce, log_offset, entropy)
    return FLUSH + encode(Kind.HELLO, 0, body)


def stdin(stream: int, data: bytes) -> bytes:
    """Data for a program's stdin, at most MAX_DATA; empty is the end of file."""
    return encode(Kind.STDIN, stream, data)


def window(stream: int, credit: int) -> bytes:
    """Leave to send `credit` more bytes of DATA."""
    return encode(Kind.WINDOW, stream, struct.pack("<I", credit))


def signal(stream: int, number: int) -> bytes:
    """A signal for the program of `stream`."""
    return encode(Kind.SIGNAL, stream, struct.pack("<I", number))


def resize(stream: int, rows: int, cols: int) -> bytes:
    """A new size for the terminal of `stream`."""
    return encode(Kind.RESIZE, stream, struct.pack("<HH", rows, cols))


def log_ack(offset: int) -> bytes:
    """The workload's output below `offset` is safe here."""
    return encode(Kind.LOGACK, 0, struct.pack("<Q", offset))


def clock(stream: int, realtime_ns: int) -> bytes:
    """Set the guest's clock."""
    return encode(Kind.CLOCK, stream, struct.pack("<Q", realtime_ns))


def shutdown(stream: int, how: PowerOff) -> bytes:
    """End everything and the machine."""
    return encode(Kind.SHUTDOWN, stream, bytes([how]))


def record(tag: int, value: bytes) -> bytes:
    """One TLV record."""
    return struct.pack("<HI", tag, len(value)) + value


# ---- guest to host


class Decoder:
    """Bytes in any portions → messages. After a ProtocolError it must not be fed again."""

    def __init__(self, nonce: bytes) -> None:
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"a nonce has {NONCE_SIZE} bytes")
        self._welcome = HEADER.pack(MARKER, Kind.WELCOME, 0, 0, _WELCOME.size) + nonce
        self._welcomed = False
        self._buffer = bytearray()
        self._assembly = bytearray()
        self._assembling: tuple[int, int] | None = None

    def feed(self, data: bytes) -> list[Message]:
        """All messages that are complete now."""
        self._buffer += data
        if not self._welcomed and not self._find_welcome():
            return []
        messages, position = [], 0
        while frame := self._frame(position):
            position, message = frame
            if message is not None:
                messages.append(message)
        del self._buffer[:position]
        return messages

    def _find_welcome(self) -> bool:
        """Drop everything before our WELCOME; keep what may be its beginning."""
        at = self._buffer.find(self._welcome)
        if at < 0:
            del self._buffer[: -(len(self._welcome) - 1)]
            return False
        del self._buffer[:at]
        self._welcomed = True
        return True

    def _frame(self, at: int) -> tuple[int, Message | None] | None:
        """The end of the frame that begins at `at`, with its message unless it is a part of one; None if it isn't complete."""
        if len(self._buffer) - at < HEADER.size:
            return None
        marker, kind, flags, stream, length = HEADER.unpack_from(self._buffer, at)
        if marker != MARKER:
            raise ProtocolError(f"agent: marker {marker:#04x} instead of {MARKER:#04x}")
        if length > MAX_PAYLOAD:
            raise ProtocolError(f"agent: frame of {length} bytes")
        start, end = at + HEADER.size, at + HEADER.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[start:end])
        return end, self._assemble(kind, flags, stream, payload)

    def _assemble(self, kind: int, flags: int, stream: int, payload: bytes) -> Message | None:
        """Put replies of several frames together; all others are decoded at once."""
        if self._assembling is not None and self._assembling != (kind, stream):
            raise ProtocolError(f"agent: frame {kind:#04x} inside a reply {self._assembling[0]:#04x}")
        if not flags & _MORE and self._assembling is None:
            return _decode(kind, flags, stream, payload)
        if kind != Kind.TOP_REPLY or len(self._assembly) + len(payload) > MAX_ASSEMBLY:
            raise ProtocolError(f"agent: reply {kind:#04x} is too long")
        self._assembly += payload
        self._assembling = (kind, stream)
        if flags & _MORE:
            return None
        whole = bytes(self._assembly)
        self._assembly.clear()
        self._assembling = None
        return _decode(kind, flags, stream, whole)


_WELCOME = struct.Struct("<16sIBQQI")
_ERROR = struct.Struct("<BI")
_STARTED = struct.Struct("<I")
_OUTPUT = struct.Struct("<QQB")
_EXIT = struct.Struct("<IIQQ")
_GRANT = struct.Struct("<I")
_STATS = struct.Struct("<11Q")


def _decode(kind: int, flags: int, stream: int, payload: bytes) -> Message:
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ProtocolError(f"agent: unknown frame type {kind:#04x}")
    try:
        return decoder(flags, stream, payload)
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"agent: malformed {Kind(kind).name}: {error}") from error


def _decode_welcome(_flags: int, _stream: int, payload: bytes) -> Welcome:
    _nonce, version, state, base, end, room = _WELCOME.unpack(payload)
    if base > end:
        raise ValueError("output ends before it begins")
    if room > WINDOW:
        raise ValueError("more room than the window")
    return Welcome(version, GuestState(state), base, end, room)


def _decode_ok(_flags: int, stream: int, payload: bytes) -> Ok:
    if payload:
        raise ValueError("payload")
    return Ok(stream)


def _decode_error(_flags: int, stream: int, payload: bytes) -> Error:
    kind, code = _ERROR.unpack_from(payload)
    text = payload[_ERROR.size : _ERROR.size + 4096].decode("utf-8", "replace")
    return Error(stream, ErrorKind(kind), code, "".join(c if c.isprintable() else " " for c in text))


def _decode_started(_flags: int, stream: int, payload: bytes) -> Started:
    return Started(stream, *_STARTED.unpack(payload))


def _decode_data(_flags: int, stream: int, payload: bytes) -> Data:
    return Data(stream, _descriptor(payload[:1]), payload[1:])


def _decode_output(_flags: int, _stream: int, payload: bytes) -> Output:
    offset, time_ns, fd = _OUTPUT.unpack_from(payload)
    if offset + len(payload) - _OUTPUT.size > _U64:
        raise ValueError("output ends beyond what can be counted")
    return Output(offset, time_ns, _descriptor(bytes([fd])), payload[_OUTPUT.size :])


def _decode_exit(_flags: int, stream: int, payload: bytes) -> Exited:
    code, flags, out, err = _EXIT.unpack(payload)
    if code > 255:
        raise ValueError(f"exit code {code}")
    return Exited(stream, code, bool(flags & ExitFlag.OOM), out, err)


def _decode_grant(flags: int, stream: int, payload: bytes) -> Grant:
    (credit,) = _GRANT.unpack(payload)
    if credit > WINDOW:
        raise ValueError("more credit than the window")
    return Grant(stream, credit, bool(flags & _CLOSED))


def _decode_stats(_flags: int, stream: int, payload: bytes) -> StatsReply:
    return StatsReply(stream, GuestStats(*_STATS.unpack(payload)))


def _decode_top(_flags: int, stream: int, payload: bytes) -> TopReply:
    if payload and not payload.endswith(b"\0"):
        raise ValueError("no end")
    return TopReply(stream, tuple(_top_row(row) for row in payload.split(b"\0")[:-1]))


def _top_row(row: bytes) -> tuple[int, str, int, str]:
    pid, user, milliseconds, command = row.decode("utf-8", "replace").split("\t", 3)
    return _number(pid), user, _number(milliseconds), command


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError(f"not a number: {text[:20]!r}")
    return int(text)


def _descriptor(byte: bytes) -> int:
    if byte not in (b"\x01", b"\x02"):
        raise ValueError(f"descriptor {byte.hex()}")
    return byte[0]


_DECODERS: dict[int, Callable[[int, int, bytes], Message]] = {
    Kind.WELCOME: _decode_welcome,
    Kind.OK: _decode_ok,
    Kind.ERROR: _decode_error,
    Kind.STARTED: _decode_started,
    Kind.DATA: _decode_data,
    Kind.OUTPUT: _decode_output,
    Kind.EXIT: _decode_exit,
    Kind.GRANT: _decode_grant,
    Kind.STATS_REPLY: _decode_stats,
    Kind.TOP_REPLY: _decode_top,
}
