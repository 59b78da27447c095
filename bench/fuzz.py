"""Hostile input to everything on the host that reads what a guest (or a QEMU that was taken over) writes.

    .venv/bin/python -m bench.fuzz [--frames 1000000] [--seed 1] [--only agent|log|console|monitor]

  agent     frames to the agent's client with a log behind it: valid ones, ones at every bound, torn, mutated, and none at all
  log       lines of any size and bytes, read back and compared
  console   floods with escapes, NULs and broken UTF-8; what is shown must be printable
  monitor   lines to the client of QEMU's monitor

A run is the same for the same seed. It ends with the first thing that isn't as promised: an error that isn't one of ours, memory beyond
the bound, bytes that come back changed. The frames of the wire from the other side are fuzzed with sanitizers in agent/*_test.c.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twinhull.errors import TwinhullError
from twinhull.instance import logs
from twinhull.instance.base import STDERR, STDOUT, Session
from twinhull.instance.vm import frames, qmp, streams
from twinhull.instance.vm.agent import AgentClient
from twinhull.instance.vm.console import Console
from twinhull.instance.vm.frames import HEADER, MARKER, Kind
from twinhull.instance.vm.log import GuestLog

BOUND = HEADER.size + frames.MAX_PAYLOAD + frames.MAX_ASSEMBLY
_EDGES = (0, 1, 2, 127, 255, 256, 65_535, 65_536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)
_GUEST_KINDS = [kind for kind in Kind if kind >= 0x80]
_ANY_TIME = [*[Kind.OUTPUT, Kind.DATA] * 4, Kind.GRANT, Kind.OK, Kind.ERROR, Kind.STARTED, Kind.STATS_REPLY, Kind.TOP_REPLY]
"""What a guest may send at any moment."""
_LIES = 1 / 2000
_ODD = (
    b"\x1b]0;owned\x07",
    b"\x1b[2J",
    b"\0",
    b"\xff\xfe",
    b"\n",
    b"\r\n",
    "\u202e\u2028".encode(),
    b"2026-01-01T00:00:00.0+00:00 stdout F x\n",
    b"%s",
)
_U64 = (1 << 64) - 1
_AT_ONCE = 40
"""Frames between two looks at the bounds."""


class _Transport:
    """What the client needs of asyncio's."""

    def __init__(self) -> None:
        self.open = True

    def write(self, data: bytes) -> None:
        """Nobody reads it."""

    def abort(self) -> None:
        self.open = False

    close = abort


def _number(rng: random.Random, bits: int) -> int:
    edge = rng.choice(_EDGES) if rng.random() < 0.3 else rng.getrandbits(rng.randint(1, bits))
    return edge & ((1 << bits) - 1)


def _bytes(rng: random.Random, most: int = 300) -> bytes:
    if rng.random() < 0.2:
        return b"".join(rng.choices(_ODD, k=rng.randint(1, 6)))
    return rng.randbytes(rng.randint(0, most if rng.random() < 0.98 else 60_000))


class _Guest:
    """A guest that keeps to the protocol but for one frame in 2,000: so what it says is looked at, and its lies come late."""

    def __init__(self, rng: random.Random, client: AgentClient) -> None:
        self._rng = rng
        self._client = client
        self._offset = 0
        self._said = {stream: [0, 0] for stream in client._execs}
        self._lies = False

    def welcome(self) -> bytes:
        body = self._client._nonce + struct.pack("<IBQQI", 1, self._rng.randint(0, 3), 0, 0, self._rng.randint(0, frames.WINDOW))
        return HEADER.pack(MARKER, Kind.WELCOME, 0, 0, len(body)) + body

    def frame(self) -> bytes:
        rng = self._rng
        self._lies = rng.random() < _LIES
        kind = rng.choice(_GUEST_KINDS if self._lies else _ANY_TIME)
        stream = rng.choice(list(self._said)) if kind == Kind.DATA else 0 if kind == Kind.OUTPUT else rng.randint(0, 6)
        payload = self._payload(kind, stream)
        whole = HEADER.pack(MARKER, kind, 0, stream, len(payload)) + payload
        return self._broken(whole) if self._lies else whole

    def _payload(self, kind: Kind, stream: int) -> bytes:
        rng = self._rng
        match kind:
            case Kind.OUTPUT:
                data = _bytes(rng)
                at = _number(rng, 64) if self._lies else self._offset + (rng.randint(0, 1000) if rng.random() < 0.01 else 0)
                self._offset = (at + len(data)) & _U64
                return struct.pack("<QQB", at, _number(rng, 64), rng.randint(1, 2)) + data
            case Kind.DATA:
                return bytes([rng.randint(1, 2)]) + _bytes(rng, 100)
            case Kind.GRANT:
                return struct.pack("<I", _number(rng, 32) if self._lies else rng.randint(0, frames.WINDOW))
            case Kind.EXIT:
                return struct.pack("<IIQQ", rng.randint(0, 255), rng.randint(0, 3), _number(rng, 64), _number(rng, 64))
            case Kind.ERROR:
                return struct.pack("<BI", rng.randint(0, 4 if self._lies else 3), _number(rng, 32)) + _bytes(rng)
            case Kind.STARTED:
                return struct.pack("<I", _number(rng, 32))
            case Kind.STATS_REPLY:
                return struct.pack("<11Q", *(_number(rng, 64) for _ in range(11)))
            case Kind.TOP_REPLY:
                return b"".join(self._row() for _ in range(rng.randint(0, 5)))
            case _:
                return _bytes(rng) if self._lies else b""

    def _row(self) -> bytes:
        """One process, as the guest says."""
        rng = self._rng
        return f"{_number(rng, 63)}\troot\t{_number(rng, 63)}\t".encode() + _bytes(rng).replace(b"\0", b"") + b"\0"

    def _broken(self, whole: bytes) -> bytes:
        rng = self._rng
        match rng.randint(0, 4):
            case 0:
                at = rng.randrange(len(whole))
                return whole[:at] + rng.randbytes(1) + whole[at + 1 :]
            case 1:
                return whole[: rng.randrange(len(whole))]
            case 2:
                return rng.randbytes(rng.randint(1, 100))
            case 3:
                return whole[:2] + struct.pack("<HI", rng.randint(0, 65_535), _number(rng, 32)) + whole[8:]
            case _:
                return whole


async def agent(rng: random.Random, count: int, folder: Path) -> int:
    """Connections until `count` frames were taken; the client may end a connection, and nothing else may happen."""
    taken = 0
    while taken < count:
        run = folder / "run"
        run.mkdir()
        log = GuestLog(folder / "log", run, 1 << 16, 2, fresh=True)
        client, transport = _Counting(0, log.take), _Transport()
        client.opened(transport)  # type: ignore[arg-type]
        client._next_stream = 7
        for stream in (1, 2, 3):
            client._execs[stream] = streams.Exec(client, stream)
            client._requests[stream + 3] = asyncio.get_running_loop().create_future()
        sessions: list[Session] = [*client._execs.values(), await client.attach()]
        readers = [asyncio.create_task(_read(session), name="reader") for session in sessions]
        guest = _Guest(rng, client)
        client.received(rng.randbytes(rng.randint(0, 200)) + guest.welcome())
        while transport.open and taken + client.taken < count:
            for part in _cut(rng, b"".join(guest.frame() for _ in range(_AT_ONCE))):
                if transport.open:
                    client.received(part)
            _bounds(client)
            await asyncio.sleep(0)
        taken += client.taken
        client.end(TwinhullError("fuzzed"))
        await asyncio.gather(*readers)
        for waiting in client._requests.values():
            waiting.exception()
        log.close()
        shutil.rmtree(folder)
        folder.mkdir()
    return taken


class _Counting(AgentClient):
    """Counts what passed the decoder."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.taken = 0

    def _handle(self, message: frames.Message) -> None:
        self.taken += 1
        super()._handle(message)


async def _read(session: Session) -> None:
    with contextlib.suppress(TwinhullError):
        async for _ in session.output():
            pass


def _cut(rng: random.Random, data: bytes) -> list[bytes]:
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randint(0, 4)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def _bounds(client: AgentClient) -> None:
    decoder = client._decoder
    assert len(decoder._buffer) + len(decoder._assembly) <= BOUND, "the decoder keeps too much"
    assert all(session._held <= frames.WINDOW for session in client._execs.values()), "an exec holds more than was granted"
    assert all(len(session._chunks) <= streams._CHUNKS + 2 for session in client._attached), "an attached session holds too many pieces"
    assert all(session._held <= streams.RING for session in client._attached), "an attached session holds more than the ring"


async def log(rng: random.Random, count: int, folder: Path) -> int:
    """Output as a guest sends it; what the log gives back is the same, stream by stream."""
    done = 0
    while done < count:
        (folder / "run").mkdir()
        writer = GuestLog(folder / "log", folder / "run", 1 << 30, 2, fresh=True)
        wrote: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        offset = 0
        for _ in range(min(500, count - done)):
            stream, data = rng.choice((STDOUT, STDERR)), _bytes(rng, 2000)
            writer.take(offset, _number(rng, 64), stream, data)
            wrote[stream].append(data)
            offset += len(data)
            done += 1
        writer.close()
        records = [logs.decode(line) for line in (folder / "log").read_bytes().split(b"\n")[:-1]]
        for stream, parts in wrote.items():
            back = b"".join(record.data for record in records if record is not None and record.stream == stream)
            assert back == b"".join(parts), f"stream {stream} came back changed"
        shutil.rmtree(folder)
        folder.mkdir()
    return done


async def console(rng: random.Random, count: int, folder: Path) -> int:
    """What people would be shown of a console."""
    one = Console()
    for _ in range(count):
        one._tail += _bytes(rng)
        del one._tail[: -16 * 1024]
        if rng.random() < 0.02:
            text = one.text()
            assert all(char.isprintable() or char == "\n" for char in text), repr(text)
    return count


async def monitor(rng: random.Random, count: int, folder: Path) -> int:
    """A QEMU in other hands: whatever it says ends the connection at worst."""
    done = 0
    while done < count:
        reader = asyncio.StreamReader(limit=qmp._LINE)
        client = qmp.Monitor(reader, _Transport())  # type: ignore[arg-type]
        waiting = client._waiting[1] = asyncio.get_running_loop().create_future()
        for _ in range(20):
            reader.feed_data(_line(rng))
            done += 1
        reader.feed_eof()
        await client._read()
        waiting.cancel() if not waiting.done() else waiting.exception()
        assert client.closed.is_set()
        assert len(client.events()) <= 64
    return done


def _line(rng: random.Random) -> bytes:
    match rng.randint(0, 9):
        case 0:
            return _bytes(rng) + b"\n"
        case 1:
            return b"[" * rng.choice((10, 1000, 60_000)) + b"\n"
        case 2:
            return json.dumps({"id": rng.choice([1, True, None, "1", 1e300, [1]]), "return": {}}).encode() + b"\n"
        case 3:
            return b'{"id": 1' + b"0" * rng.choice((1, 5000)) + b"}\n"
        case _:
            return json.dumps({"event": rng.choice(["STOP", "", None, {}]), "data": rng.choice([{}, [], None, 1])}).encode() + b"\n"


TARGETS: dict[str, Callable[[random.Random, int, Path], Awaitable[int]]] = {
    "agent": agent,
    "log": log,
    "console": console,
    "monitor": monitor,
}


def run(target: str, count: int, seed: int) -> int:
    """Frames (lines, chunks) that were taken. Raises what goes wrong."""
    with tempfile.TemporaryDirectory(prefix="tf-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        (Path(folder) / "f").mkdir()
        return asyncio.run(TARGETS[target](random.Random(seed), count, Path(folder) / "f"))  # type: ignore[arg-type]


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000, help="for the agent's client; the others get a tenth")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--only", choices=TARGETS)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    for target in [options.only] if options.only else TARGETS:
        begin = time.perf_counter()
        sent = run(target, options.frames if target == "agent" else options.frames // 10, options.seed)
        print(f"{target:8} {sent:9,} taken, nothing broke, {time.perf_counter() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
