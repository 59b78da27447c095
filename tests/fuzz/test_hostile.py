"""A short run of bench/fuzz.py, which has no mercy with whatever reads a guest's words; `make bench` does a million frames."""

from __future__ import annotations

import asyncio

import pytest
from bench import fuzz

from twinhull.instance.vm import frames
from twinhull.instance.vm.agent import AgentClient
from twinhull.instance.vm.frames import HEADER, MARKER, Kind
from twinhull.instance.vm.streams import Exec

SHORT = {"agent": 20_000, "log": 2_000, "console": 2_000, "monitor": 2_000}


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_nothing_breaks(target: str) -> None:
    assert fuzz.run(target, SHORT[target], seed=20) >= SHORT[target]


async def test_output_that_ends_beyond_all_numbers_ends_the_connection_only() -> None:
    client, transport = _connected()
    body = (2**64 - 1).to_bytes(8, "little") + bytes(8) + b"\1xx"
    client.received(HEADER.pack(MARKER, Kind.OUTPUT, 0, 0, len(body)) + body)
    assert not transport.open


async def test_an_error_about_a_program_that_runs_wakes_its_reader() -> None:
    """It was forgotten without a word, and whoever read its output waited for ever."""
    client, transport = _connected()
    session = client._execs[1] = Exec(client, 1)
    client._next_stream = 2
    client.received(HEADER.pack(MARKER, Kind.ERROR, 0, 1, 5) + bytes(5))
    assert not transport.open
    client.end(client.failure())
    with pytest.raises(frames.ProtocolError):
        await asyncio.wait_for(session.wait(), 5)


async def test_single_bytes_to_a_slow_reader_cost_little_and_none_is_lost() -> None:
    """Each was an object of its own, a hundred times its size: half a gigabyte for a ring of 4 MiB."""
    client, transport = _connected()
    session = await client.attach()
    for at in range(30_000):
        body = at.to_bytes(8, "little") + bytes(8) + bytes([1 + at % 2, at % 251])
        client.received(HEADER.pack(MARKER, Kind.OUTPUT, 0, 0, len(body)) + body)
    assert transport.open
    assert len(session._chunks) <= 4098  # type: ignore[attr-defined]
    client._handle_exit(frames.Exited(0, 0, False, 0, 0))
    got: dict[int, bytes] = {1: b"", 2: b""}
    async for fd, data in session.output():
        got[fd] += data
    assert got == {fd: bytes(at % 251 for at in range(30_000) if 1 + at % 2 == fd) for fd in (1, 2)}


def _connected() -> tuple[AgentClient, fuzz._Transport]:
    client, transport = AgentClient(0, None), fuzz._Transport()
    client.opened(transport)  # type: ignore[arg-type]
    body = client._nonce + bytes(25)
    client.received(HEADER.pack(MARKER, Kind.WELCOME, 0, 0, len(body)) + body)
    assert transport.open
    return client, transport
