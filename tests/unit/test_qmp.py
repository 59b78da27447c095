"""The monitor's client against a hand-written QEMU."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from twinhull.instance.vm.qmp import Monitor, MonitorError, MonitorLostError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_GREETING: dict[str, object] = {"QMP": {"version": {}, "capabilities": []}}


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\r\n"


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_line(_GREETING))
    asked = json.loads(await reader.readline())
    assert asked["execute"] == "qmp_capabilities"
    writer.write(_line({"return": {}, "id": asked["id"]}))


@asynccontextmanager
async def _qemu(folder: Path, handler: Handler) -> AsyncIterator[Monitor]:
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await _greet(reader, writer)
            await handler(reader, writer)
        writer.close()
        served.set()

    async with await asyncio.start_unix_server(serve, folder / "qmp.sock"):
        monitor = await Monitor.connect(folder / "qmp.sock", timeout=5)
        try:
            yield monitor
        finally:
            await monitor.close()
            await served.wait()


async def test_answers_reach_their_caller_in_any_order(tmp_path: Path) -> None:
    async def reversed_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = [json.loads(await reader.readline()) for _ in range(3)]
        for one in reversed(asked):
            writer.write(_line({"event": "NOISE"}) + _line({"return": one["arguments"], "id": one["id"]}))

    async with _qemu(tmp_path, reversed_answers) as monitor:
        answers = await asyncio.gather(*(monitor.execute("query", number_of=n) for n in range(3)))
        assert answers == [{"number-of": n} for n in range(3)]
        assert [event.name for event in monitor.events()] == ["NOISE"] * 3
        assert monitor.events() == []


async def test_a_refused_command_is_an_error_with_qemus_words(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        writer.write(_line({"error": {"class": "GenericError", "desc": "no such thing"}, "id": asked["id"]}))

    async with _qemu(tmp_path, refuse) as monitor:
        with pytest.raises(MonitorError, match="QEMU quit: no such thing") as caught:
            await monitor.execute("quit")
        assert caught.value.kind == "GenericError"


@pytest.mark.parametrize("answer", [b"", b"{{{\n", b"[1]\n[2]\n", b"x" * (1 << 21), b'{"return": 1}\n', b'{"id": [], "event": {}}\n'])
async def test_a_monitor_that_goes_mad_ends_the_waiting(tmp_path: Path, answer: bytes) -> None:
    async def mad(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        await writer.drain()

    async with _qemu(tmp_path, mad) as monitor:
        with pytest.raises(MonitorLostError):
            await monitor.execute("query-status")
        assert monitor.closed.is_set()
        with pytest.raises(MonitorLostError):
            await monitor.execute("query-status")


async def test_events_are_bounded(tmp_path: Path) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(1000):
            writer.write(_line({"event": f"E{number}", "data": "not an object"}))
        asked = json.loads(await reader.readline())
        writer.write(_line({"return": {}, "id": asked["id"]}))

    async with _qemu(tmp_path, flood) as monitor:
        await monitor.execute("query-status")
        events = monitor.events()
        assert (len(events), events[-1].name, events[-1].data) == (64, "E999", {})


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(MonitorLostError):
        await Monitor.connect(tmp_path / "none.sock", timeout=1)
