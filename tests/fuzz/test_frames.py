"""Hostile bytes from the guest: complete messages or ProtocolError, in bounded memory, whatever the portions."""

from __future__ import annotations

import itertools
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from twinhull.instance.vm import frames
from twinhull.instance.vm.frames import Decoder, Kind, Message, ProtocolError

NONCE = b"n" * frames.NONCE_SIZE
WELCOME = frames.HEADER.pack(frames.MARKER, Kind.WELCOME, 0, 0, 41) + NONCE + struct.pack("<IBQQI", 1, 0, 0, 0, 0)
BOUND = frames.HEADER.size + frames.MAX_PAYLOAD + frames.MAX_ASSEMBLY

guest_kinds = st.sampled_from([kind for kind in Kind if kind >= 0x80])
payloads = st.one_of(
    st.binary(max_size=64),
    st.integers(0, 255).map(lambda code: struct.pack("<IIQQ", code, 0, 1, 2)),
    st.binary(max_size=30).map(lambda data: struct.pack("<QQB", 1, 2, 1) + data),
    st.lists(st.integers(0, 2**64 - 1), min_size=11, max_size=11).map(lambda numbers: struct.pack("<11Q", *numbers)),
)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return frames.HEADER.pack(frames.MARKER, kind, flags, stream, len(payload)) + payload


whole_frames = st.builds(_frame, guest_kinds, st.sampled_from([0, 0, 0, 1, 2]), st.integers(0, 3), payloads)
streams = st.lists(st.one_of(whole_frames, whole_frames, whole_frames, st.binary(max_size=40)), max_size=20).map(b"".join)


def _run(data: bytes, cuts: list[int]) -> tuple[list[Message], bool]:
    decoder, messages = Decoder(NONCE), []
    assert decoder.feed(WELCOME)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        try:
            messages += decoder.feed(data[start:end])
        except ProtocolError:
            return messages, True
        assert len(decoder._buffer) + len(decoder._assembly) <= BOUND
    return messages, False


@settings(max_examples=1500, deadline=None)
@given(streams, st.lists(st.integers(0, 10_000), max_size=10))
def test_portions_do_not_matter(data: bytes, cuts: list[int]) -> None:
    at_once, failed = _run(data, [])
    bitwise, failed_too = _run(data, cuts)
    assert failed == failed_too
    assert bitwise[: len(at_once)] == at_once or failed, "a failure may come before or after the messages of its portion"


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=5))
def test_garbage_before_the_welcome_is_harmless(data: bytes, cuts: list[int]) -> None:
    decoder = Decoder(NONCE)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        assert decoder.feed(data[start:end]) == []
        assert len(decoder._buffer) < 64
    assert len(decoder.feed(WELCOME)) == 1


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200_000), st.sampled_from([Kind.CONFIG, Kind.EXEC, Kind.STDIN]), st.integers(0, 2**32 - 1))
def test_what_we_encode_is_whole(payload: bytes, kind: Kind, stream: int) -> None:
    data, got = frames.encode(kind, stream, payload), b""
    while data:
        marker, number, _, to, length = frames.HEADER.unpack_from(data)
        assert (marker, number, to, data[11 + length]) == (frames.MARKER, kind, stream, frames.TRAILER[0])
        got, data = got + data[12 : 11 + length], data[12 + length :]
    assert got == payload
