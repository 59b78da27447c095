"""The WebSocket codec of the thin transport: against the library's, in any pieces, and against what breaks the rules."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from twinhull.client import frames

KINDS = st.sampled_from([Opcode.TEXT, Opcode.BINARY])


def from_server(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin).serialize(mask=False)


@given(st.sampled_from([frames.TEXT, frames.BINARY]), st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 200_000]))
def test_what_we_send_is_what_the_library_reads(opcode: int, size: int) -> None:
    payload = os.urandom(size)
    reader = StreamReader()
    reader.feed_data(frames.encode(opcode, payload))
    parsing = Frame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as end:
        next(parsing)
    frame = end.value.value
    assert (frame.opcode, bytes(frame.data), frame.fin) == (opcode, payload, True)


@given(st.lists(st.tuples(KINDS, st.binary(max_size=300)), max_size=8), st.integers(1, 50))
def test_messages_come_out_whole_in_whatever_pieces_they_come(messages: list[tuple[Opcode, bytes]], piece: int) -> None:
    raw = b"".join(from_server(opcode, data) for opcode, data in messages)
    decoder = frames.Decoder()
    found = [message for start in range(0, len(raw), piece) for message in decoder.feed(raw[start : start + piece])]
    assert found == [(int(opcode), data) for opcode, data in messages]


@given(st.lists(st.binary(max_size=100), min_size=2, max_size=6))
def test_fragments_are_joined_with_pings_in_between(parts: list[bytes]) -> None:
    decoder = frames.Decoder()
    found = []
    for number, part in enumerate(parts):
        opcode = frames.BINARY if number == 0 else frames.CONTINUATION
        found += decoder.feed(from_server(opcode, part, number == len(parts) - 1) + from_server(frames.PING, b"p"))
    assert [message for message in found if message[0] == frames.BINARY] == [(frames.BINARY, b"".join(parts))]
    assert found.count((frames.PING, b"p")) == len(parts)


@given(st.binary(max_size=2000))
def test_noise_is_refused_or_waited_for_and_never_anything_else(noise: bytes) -> None:
    decoder = frames.Decoder(max_message=1000)
    try:
        for opcode, payload in decoder.feed(noise):
            assert opcode in (frames.TEXT, frames.BINARY, frames.CLOSE, frames.PING, frames.PONG)
            assert len(payload) <= 1000
    except frames.FrameError:
        pass


@pytest.mark.parametrize(
    "raw",
    [
        b"\x82\x85\0\0\0\0hello",  # masked by a server
        b"\xc2\x00",  # a reserved bit
        b"\x83\x00",  # an unknown opcode
        b"\x09\x00",  # a fragmented ping
        b"\x89\x7e\x00\x80",  # a ping of 128 bytes
        b"\x80\x00",  # a continuation of nothing
        b"\x02\x00\x82\x00",  # a new message inside another
        b"\x82\x7f" + (1 << 40).to_bytes(8, "big"),  # beyond any bound
    ],
)
def test_what_breaks_the_rules(raw: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.Decoder().feed(raw)


def test_fragments_together_are_bounded() -> None:
    decoder = frames.Decoder(max_message=100)
    decoder.feed(from_server(frames.BINARY, bytes(60), fin=False))
    with pytest.raises(frames.FrameError, match="more than 100"):
        decoder.feed(from_server(frames.CONTINUATION, bytes(60)))


def test_masking_is_its_own_inverse() -> None:
    key, data = os.urandom(4), os.urandom(1001)
    assert frames.mask(key, frames.mask(key, data)) == data
    assert frames.mask(b"\1\2\3\4", b"\1\2\3\4\1") == bytes(5)
