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


def _connected() -> tuple[AgentClient, fuzz._Transport]:
    client, transport = AgentClient(0, None), fuzz._Transport()
    client.opened(transport)  # type: ignore[arg-type]
    body = client._nonce + bytes(25)
    client.received(HEADER.pack(MARKER, Kind.WELCOME, 0, 0, len(body)) + body)
    assert transport.open
    return client, transport
