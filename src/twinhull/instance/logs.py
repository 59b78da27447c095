"""Instance logs in the k8s-file (CRI) format, the same for every runtime: conmon writes them for containers, `LogWriter` for VMs.

A record is one line: `2026-01-02T03:04:05.678901234+00:00 stdout F text`. F ends with a newline of the workload's, P ("partial") doesn't;
so the bytes of a stream are its records' texts joined, with a newline after each F. Rotated files are log.1 (newest), log.2 …

Invariant: what a reader yields for one stream, put together, is byte for byte what the workload wrote (as far as it is still kept), over
rotations too. Called by the engine (`read`, `rotate`) and by the VM runtime (`LogWriter`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import struct
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from twinhull.instance.base import STDERR, STDOUT, LogLine

_NAMES = {STDOUT: b"stdout", STDERR: b"stderr"}
_STREAMS = {name: number for number, name in _NAMES.items()}
_POLL = 0.04
"""Seconds between looks at a followed file: a fstat costs less than keeping inotify watches right over rotations."""
_CHUNK = 256 * 1024
_SLACK = 1e-6
"""Seconds by which `since` reaches back: a stamp that was printed and given back has lost digits, and its own record is meant too."""
_STATE = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records: from `since`, before `until` (seconds since the epoch, 0: no bound), the last `tail` lines of them (None: all)."""

    since: float = 0
    until: float = 0
    tail: int | None = None


def encode(at_ns: int, stream: int, data: bytes) -> bytes:
    """`data` as records, one for each line and a partial one for the rest."""
    seconds, nanoseconds = divmod(at_ns, 1_000_000_000)
    prefix = b"%s.%09d+00:00 %s " % (_utc(seconds), nanoseconds, _NAMES[stream])
    *lines, rest = data.split(b"\n")
    records = [prefix + b"F " + line + b"\n" for line in lines]
    if rest:
        records.append(prefix + b"P " + rest + b"\n")
    return b"".join(records)


def decode(record: bytes) -> LogLine | None:
    """A record without its final newline; None if it isn't one (torn by a crash)."""
    parts = record.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in _STREAMS or parts[2] not in (b"F", b"P"):
        return None
    try:
        at = _parse_time(parts[0])
    except ValueError:
        return None
    return LogLine(at, _STREAMS[parts[1]], parts[3] + b"\n" if parts[2] == b"F" else parts[3])


def files(path: Path) -> list[Path]:
    """The log's files, newest first; gaps end the list."""
    found = [path] if path.exists() else []
    number = 1
    while (older := path.with_name(f"{path.name}.{number}")).exists():
        found.append(older)
        number += 1
    return found


def rotate(path: Path, max_files: int) -> None:
    """Shift log → log.1 → log.2 …, keeping `max_files` with the one to come. The writer must reopen `path` then (conmon: "2 0 0" to ctl)"""
    existing = files(path)
    for old in existing[max(1, max_files) - 1 :]:
        old.unlink(missing_ok=True)
    for number in range(min(len(existing), max(1, max_files) - 1), 0, -1):
        existing[number - 1].rename(path.with_name(f"{path.name}.{number}"))


class LogWriter:
    """Writes and rotates one log, and knows how much of the workload's output is in it, also after a crash.

    `offset` counts data bytes of this boot. It is kept in a file of 24 bytes: (offset, size of the log with it, the log's inode). A crash
    between a log write and that of the state is made good in `__init__`: complete records beyond the size count, a torn one is cut off.
    So nothing is lost and nothing doubled when the guest sends again from `offset` on.
    """

    def __init__(self, path: Path, state: Path, max_size: int, max_files: int, *, fresh: bool) -> None:
        self._path, self._max_size, self._max_files = path, max_size, max_files
        self._log = _open_append(path)
        self._state = os.open(state, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.offset = 0 if fresh else self._recover()
        self._note()

    def write(self, at_ns: int, stream: int, data: bytes) -> None:
        """Append `data`, rotate when the file is over its size."""
        raw = memoryview(encode(at_ns, stream, data))
        while raw:
            raw = raw[os.write(self._log, raw) :]
        self.offset += len(data)
        self._note()
        self.rotate_if_due()

    def skip(self, offset: int) -> None:
        """Output before `offset` is lost (the guest's buffer overflowed while no daemon listened)."""
        self.offset = max(self.offset, offset)
        self._note()

    def rotate_if_due(self) -> None:
        """Start a new file if this one has reached its size."""
        if self._max_size and self._size >= self._max_size:
            rotate(self._path, self._max_files)
            os.close(self._log)
            self._log = _open_append(self._path)
            self._note()

    def close(self) -> None:
        """Close the files; idempotent."""
        for descriptor in (self._log, self._state):
            if descriptor >= 0:
                os.close(descriptor)
        self._log = self._state = -1

    def _note(self) -> None:
        status = os.fstat(self._log)
        self._size = status.st_size
        os.pwrite(self._state, _STATE.pack(self.offset, status.st_size, status.st_ino), 0)

    def _recover(self) -> int:
        raw = os.pread(self._state, _STATE.size, 0)
        if len(raw) < _STATE.size:
            return 0
        offset, size, inode = _STATE.unpack(raw)
        start = size if os.fstat(self._log).st_ino == inode else 0
        with open(self._path, "r+b") as file:
            file.seek(start)
            excess = file.read()
            whole = excess.rfind(b"\n") + 1
            file.truncate(start + whole)
        records = (decode(record) for record in excess[:whole].split(b"\n")[:-1])
        return int(offset) + sum(len(line.data) for line in records if line is not None)


async def read(
    path: Path, selection: Selection | None = None, *, follow: bool = False, stop: asyncio.Event | None = None
) -> AsyncIterator[LogLine]:
    """The selected records in order. With `follow`, further ones as they come until `stop` is set (what is there by then still comes)."""
    chosen = selection or Selection()
    cursor = _Cursor(path)
    try:
        if chosen.tail is not None:
            cursor.seek_tail(chosen)
        while True:
            ending = not follow or (stop is not None and stop.is_set())
            async for line in _drain(cursor):
                if chosen.until and line.at >= chosen.until:
                    return
                if line.at >= chosen.since - _SLACK:
                    yield line
            if ending or (chosen.until and time.time() > chosen.until):
                return
            await _pause(stop)
    finally:
        cursor.close()


async def _drain(cursor: _Cursor) -> AsyncIterator[LogLine]:
    """All complete records there are now; lets other tasks run between chunks."""
    while (records := cursor.next_records()) is not None:
        for record in records:
            line = decode(record)
            if line is not None:
                yield line
        await asyncio.sleep(0)


async def _pause(stop: asyncio.Event | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_POLL):
            await (stop or asyncio.Event()).wait()


class _Cursor:
    """A position in a log that may be rotated while it is read. The file being read is held open and known by its inode."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._rest = b""
        self._open_oldest()

    def next_records(self) -> list[bytes] | None:
        """The next complete records, without newlines; None when there are none yet."""
        while True:
            if self._file < 0 and not self._open_oldest():
                return None
            chunk = os.read(self._file, _CHUNK)
            if chunk:
                *records, self._rest = (self._rest + chunk).split(b"\n")
                return records
            if not self._advance():
                return None

    def seek_tail(self, selection: Selection) -> None:
        """Go to where the last `tail` lines of the selection begin."""
        wanted = selection.tail or 0
        for path in files(self._path):
            start, wanted = _tail_start(path, selection, wanted)
            if start is not None:
                self._open(path)
                os.lseek(self._file, start, os.SEEK_SET)
                return

    def close(self) -> None:
        """Release the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _advance(self) -> bool:
        """To the file after the present one, if that was rotated. Its writer may have added to it until then, so it is read out first."""
        inode = os.fstat(self._file).st_ino
        existing = files(self._path)
        inodes = [_inode(path) for path in existing]
        if not existing or inodes[0] == inode:
            return False
        chunk = os.read(self._file, _CHUNK)
        if chunk:  # written between our last read and the rotation
            os.lseek(self._file, -len(chunk), os.SEEK_CUR)
            return True
        newer = inodes.index(inode) - 1 if inode in inodes else len(existing) - 1
        self._open(existing[newer])
        return self._file >= 0

    def _open_oldest(self) -> bool:
        existing = files(self._path)
        if existing:
            self._open(existing[-1])
        return self._file >= 0

    def _open(self, path: Path) -> None:
        self.close()
        self._rest = b""
        with contextlib.suppress(FileNotFoundError):
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _tail_start(path: Path, selection: Selection, wanted: int) -> tuple[int | None, int]:
    """(where the last `wanted` lines begin, 0), or (None, how many more are wanted from older files). Records of a line stay together."""
    with path.open("rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        open_line = True  # a partial record at the very end is a line of its own
        for start, record in _backwards(file.fileno(), end):
            line = decode(record)
            if line is None or (selection.until and line.at >= selection.until):
                end = start
                continue
            complete = line.data.endswith(b"\n")
            if line.at < selection.since - _SLACK or (wanted == 0 and (complete or open_line)):
                return end, 0
            if complete or open_line:
                wanted -= 1
            open_line = False
            end = start
    return None, wanted


def _backwards(file: int, size: int) -> Iterator[tuple[int, bytes]]:
    """(start, record) from the last complete record to the first. Holds one chunk and one record: a log may be larger than the memory."""
    at, rest, ended = size, b"", False
    while at > 0:
        length = min(_CHUNK, at)
        at -= length
        first, *records = (os.pread(file, length, at) + rest).split(b"\n")
        start = at + len(first) + sum(len(record) + 1 for record in records) + 1
        for record in reversed(records):
            start -= len(record) + 1
            if ended:
                yield start, record
            ended = True  # what follows the last newline isn't complete
        rest = first
    if ended:
        yield 0, rest


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return -1


def _open_append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


@functools.lru_cache(maxsize=4)
def _utc(seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode()


def _parse_time(text: bytes) -> float:
    """RFC 3339 with nanoseconds, as conmon writes it (with the machine's offset)."""
    whole, _, rest = text.partition(b".")
    zone = len(rest) - 6
    if zone < 1:
        raise ValueError("no time zone")
    return _epoch(whole, rest[zone:]) + int(rest[:zone]) / float(10**zone)


@functools.lru_cache(maxsize=16)
def _epoch(whole: bytes, zone: bytes) -> float:
    return datetime.fromisoformat((whole + zone).decode("ascii")).timestamp()
