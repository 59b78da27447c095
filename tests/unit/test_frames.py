"""The codec of the agent's protocol: every message, every refusal, any portions."""

from __future__ import annotations

import struct

import pytest

from twinhull.instance.vm import frames
from twinhull.instance.vm.frames import Decoder, ErrorKind, GuestState, Kind, Message, PowerOff, ProtocolError

NONCE = bytes(range(16))


def frame(kind: int, payload: bytes = b"", stream: int = 0, flags: int = 0) -> bytes:
    return frames.HEADER.pack(frames.MARKER, kind, flags, stream, len(payload)) + payload


WELCOME = frame(Kind.WELCOME, NONCE + struct.pack("<IBQQI", 1, 2, 10, 20, 4096))


def welcomed() -> Decoder:
    decoder = Decoder(NONCE)
    assert decoder.feed(WELCOME) == [frames.Welcome(1, GuestState.RUNNING, 10, 20, 4096)]
    return decoder


GOOD: list[tuple[bytes, Message]] = [
    (frame(Kind.OK, stream=4), frames.Ok(4)),
    (frame(Kind.ERROR, b"\x01\x7f\0\0\0no such\nthing \xff", 9), frames.Error(9, ErrorKind.CANNOT_RUN, 127, "no such thing �")),
    (frame(Kind.STARTED, struct.pack("<I", 77), 3), frames.Started(3, 77)),
    (frame(Kind.DATA, b"\x02\0\xa5data", 3), frames.Data(3, 2, b"\0\xa5data")),
    (frame(Kind.OUTPUT, struct.pack("<QQB", 5, 6, 1) + b"text"), frames.Output(5, 6, 1, b"text")),
    (frame(Kind.EXIT, struct.pack("<IIQQ", 137, 1, 8, 9), 2), frames.Exited(2, 137, True, 8, 9)),
    (frame(Kind.GRANT, struct.pack("<I", 1000), 2), frames.Grant(2, 1000, False)),
    (frame(Kind.GRANT, struct.pack("<I", 0), 2, 2), frames.Grant(2, 0, True)),
    (frame(Kind.STATS_REPLY, struct.pack("<11Q", *range(11)), 6), frames.StatsReply(6, frames.GuestStats(*range(11)))),
    (
        frame(Kind.TOP_REPLY, b"1\troot\t90\tsleep\t5\0" + b"20\tweb\t0\t\0", 6),
        frames.TopReply(6, ((1, "root", 90, "sleep\t5"), (20, "web", 0, ""))),
    ),
    (frame(Kind.TOP_REPLY, b"", 6), frames.TopReply(6, ())),
]


@pytest.mark.parametrize(("data", "message"), GOOD)
def test_every_message(data: bytes, message: Message) -> None:
    assert welcomed().feed(data) == [message]


def test_any_portions() -> None:
    stream = b"".join(data for data, _ in GOOD)
    for size in (1, 2, 7, 13, 64):
        decoder = welcomed()
        messages = [message for start in range(0, len(stream), size) for message in decoder.feed(stream[start : start + size])]
        assert messages == [message for _, message in GOOD]


BAD: list[tuple[bytes, str]] = [
    (b"\0" * 12, "marker 0x00"),
    (frames.HEADER.pack(frames.MARKER, Kind.DATA, 0, 0, frames.MAX_PAYLOAD + 1), "frame of 65537 bytes"),
    (frame(0x99), "unknown frame type 0x99"),
    (frame(Kind.HELLO), "unknown frame type 0x01"),
    (frame(Kind.OK, b"x"), "malformed OK"),
    (frame(Kind.ERROR, b"\0"), "malformed ERROR"),
    (frame(Kind.ERROR, b"\x09\0\0\0\0"), "malformed ERROR"),
    (frame(Kind.STARTED), "malformed STARTED"),
    (frame(Kind.DATA), "malformed DATA"),
    (frame(Kind.DATA, b"\x03x"), "descriptor 03"),
    (frame(Kind.OUTPUT, b"short"), "malformed OUTPUT"),
    (frame(Kind.OUTPUT, struct.pack("<QQB", 5, 6, 0)), "descriptor 00"),
    (frame(Kind.EXIT, struct.pack("<IIQQ", 256, 0, 0, 0)), "exit code 256"),
    (frame(Kind.GRANT, struct.pack("<I", frames.WINDOW + 1)), "more credit"),
    (frame(Kind.STATS_REPLY, bytes(80)), "malformed STATS_REPLY"),
    (frame(Kind.TOP_REPLY, b"1\troot\t0\tsleep"), "no end"),
    (frame(Kind.TOP_REPLY, b"1\troot\0"), "malformed TOP_REPLY"),
    (frame(Kind.TOP_REPLY, "\u00b2\troot\t0\tsleep\0".encode()), "not a number"),
    (frame(Kind.TOP_REPLY, b"-1\troot\t0\tsleep\0"), "not a number"),
    (frame(Kind.TOP_REPLY, b"1" * 5000 + b"\troot\t0\tsleep\0"), "not a number"),
    (frame(Kind.WELCOME, NONCE + struct.pack("<IBQQI", 1, 9, 0, 0, 0)), "malformed WELCOME"),
    (frame(Kind.WELCOME, NONCE + struct.pack("<IBQQI", 1, 0, 5, 4, 0)), "ends before it begins"),
    (frame(Kind.WELCOME, NONCE + struct.pack("<IBQQI", 1, 0, 0, 0, frames.WINDOW + 1)), "more room"),
    (frame(Kind.DATA, b"\x01x", flags=1), "too long"),
    (frame(Kind.TOP_REPLY, b"x", 5, 1) + frame(Kind.OK, stream=5), "inside a reply"),
    (frame(Kind.TOP_REPLY, b"x", 5, 1) + frame(Kind.TOP_REPLY, b"x", 6), "inside a reply"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_every_refusal(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        welcomed().feed(data)


def test_a_reply_of_several_frames() -> None:
    row = b"7\troot\t1\tprogram\0"
    whole = row * 8000
    parts = [whole[start : start + frames.MAX_PAYLOAD] for start in range(0, len(whole), frames.MAX_PAYLOAD)]
    decoder = welcomed()
    for part in parts[:-1]:
        assert decoder.feed(frame(Kind.TOP_REPLY, part, 5, 1)) == []
    assert decoder.feed(frame(Kind.TOP_REPLY, parts[-1], 5)) == [frames.TopReply(5, ((7, "root", 1, "program"),) * 8000)]
    assert decoder.feed(frame(Kind.OK, stream=6)) == [frames.Ok(6)]


def test_a_reply_has_a_limit() -> None:
    decoder = welcomed()
    for _ in range(frames.MAX_ASSEMBLY // frames.MAX_PAYLOAD):
        decoder.feed(frame(Kind.TOP_REPLY, bytes(frames.MAX_PAYLOAD), 5, 1))
    with pytest.raises(ProtocolError, match="too long"):
        decoder.feed(frame(Kind.TOP_REPLY, b"x", 5, 1))


def test_all_before_our_welcome_is_dropped_and_not_kept() -> None:
    decoder = Decoder(NONCE)
    other = frame(Kind.WELCOME, bytes(16) + struct.pack("<IBQQI", 1, 0, 0, 0, 0))
    for _ in range(100):
        assert decoder.feed(other + frame(Kind.DATA, b"\x01" + bytes(60_000)) + b"\xa5\x81") == []
        assert len(decoder._buffer) < 64
    assert decoder.feed(other + WELCOME[:20]) == []
    assert decoder.feed(WELCOME[20:] + frame(Kind.OK, stream=1)) == [frames.Welcome(1, GuestState.RUNNING, 10, 20, 4096), frames.Ok(1)]


def test_a_nonce_has_sixteen_bytes() -> None:
    with pytest.raises(ValueError, match="16"):
        Decoder(b"short")


def test_requests_on_the_wire() -> None:
    assert frames.stdin(5, b"hi").hex() == "a505000005000000030000006869" + "5a"
    assert frames.stdin(5, b"").hex() == "a50500000500000001000000" + "5a"
    assert frames.window(1, 258).hex() == "a50600000100000005000000" + "02010000" + "5a"
    assert frames.signal(2, 15).hex() == "a50700000200000005000000" + "0f000000" + "5a"
    assert frames.resize(2, 24, 80).hex() == "a50800000200000005000000" + "18005000" + "5a"
    assert frames.log_ack(1).hex() == "a50a00000000000009000000" + "0100000000000000" + "5a"
    assert frames.clock(3, 1).hex() == "a50d00000300000009000000" + "0100000000000000" + "5a"
    assert frames.shutdown(3, PowerOff.RESTART).hex() == "a50e00000300000002000000" + "01" + "5a"
    assert frames.record(1, b"sh").hex() == "0100" + "02000000" + "7368"


def test_hello_begins_with_a_flush_of_the_longest_frame() -> None:
    data = frames.hello(NONCE, 7, bytes(64))
    assert data[: len(frames.FLUSH)] == bytes(12 + 65536)
    rest = data[len(frames.FLUSH) :]
    assert rest[:12].hex() == "a5010000000000005d000000"
    assert rest[12:-1] == struct.pack("<I", 1) + NONCE + struct.pack("<Q", 7) + bytes(64)
    assert rest[-1:] == frames.TRAILER


def test_long_requests_take_several_frames_with_a_trailer_each() -> None:
    payload = bytes(range(256)) * 1000
    data, got, flags = frames.encode(Kind.CONFIG, 4, payload), b"", []
    while data:
        marker, kind, flag, stream, length = frames.HEADER.unpack_from(data)
        assert (marker, kind, stream, length <= frames.MAX_PAYLOAD, data[11 + length]) == (frames.MARKER, Kind.CONFIG, 4, True, 0x5A)
        got, flags, data = got + data[12 : 11 + length], [*flags, flag], data[12 + length :]
    assert (got, flags) == (payload, [1, 1, 1, 0])
    with pytest.raises(ValueError, match="above the limit"):
        frames.encode(Kind.EXEC, 1, bytes(frames.MAX_REQUEST + 1))
