"""Logs: byte for byte, over rotations, while they are written, and after a crash at any byte."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twinhull.instance import logs
from twinhull.instance.base import STDERR, STDOUT
from twinhull.instance.logs import LogLine, LogWriter, Selection

_AT = 1_767_225_600_123_456_789  # 2026-01-01T00:00:00.123456789Z
_PIECES = st.lists(st.tuples(st.sampled_from((STDOUT, STDERR)), st.binary(max_size=40).map(lambda b: b.replace(b"a", b"\n"))), max_size=30)


async def _all(path: Path, selection: Selection | None = None) -> list[LogLine]:
    return [line async for line in logs.read(path, selection)]


def _writer(folder: Path, size: int = 0, count: int = 100, *, fresh: bool = True) -> LogWriter:
    return LogWriter(folder / "log", folder / "offset", size, count, fresh=fresh)


def _joined(lines: list[LogLine], stream: int) -> bytes:
    return b"".join(line.data for line in lines if line.stream == stream)


def test_the_format_is_conmons() -> None:
    assert logs.encode(_AT, STDOUT, b"one\ntwo") == (
        b"2026-01-01T00:00:00.123456789+00:00 stdout F one\n2026-01-01T00:00:00.123456789+00:00 stdout P two\n"
    )
    assert logs.encode(_AT, STDERR, b"\n") == b"2026-01-01T00:00:00.123456789+00:00 stderr F \n"
    assert logs.encode(_AT, STDERR, b"") == b""


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (b"2026-01-01T01:00:00.500000000+01:00 stdout F x y", LogLine(1767225600.5, 1, b"x y\n")),
        (b"2025-12-31T18:30:00.25-05:30 stderr P ", LogLine(1767225600.25, 2, b"")),
        (b"torn", None),
        (b"2026-01-01T01:00:00.5 stdout F no zone", None),
        (b"2026-13-01T01:00:00.500000000+01:00 stdout F x", None),
        (b"2026-01-01T01:00:00.500000000+01:00 stdin F x", None),
        (b"2026-01-01T01:00:00.500000000+01:00 stdout X x", None),
    ],
)
def test_records_are_read_or_left_out(record: bytes, line: LogLine | None) -> None:
    assert logs.decode(record) == line


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_PIECES, st.integers(min_value=1, max_value=400))
def test_what_is_written_is_read_byte_for_byte_over_rotations(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes]], size: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    writer = _writer(folder, size)
    for stream, data in pieces:
        writer.write(_AT, stream, data)
    writer.close()
    lines = asyncio.run(_all(folder / "log"))
    for wanted in (STDOUT, STDERR):
        assert _joined(lines, wanted) == b"".join(data for stream, data in pieces if stream == wanted)


async def test_rotation_keeps_so_many_files(tmp_path: Path) -> None:
    writer = _writer(tmp_path, size=100, count=3)
    for number in range(20):
        writer.write(_AT, STDOUT, b"%060d\n" % number)
    writer.close()
    assert sorted(path.name for path in tmp_path.glob("log*")) == ["log", "log.1", "log.2"]
    lines = [int(line.data) for line in await _all(tmp_path / "log")]
    assert lines == list(range(lines[0], 20))


def test_one_file_means_the_old_one_goes(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x")
    logs.rotate(tmp_path / "log", 1)
    assert logs.files(tmp_path / "log") == []


@pytest.mark.parametrize("seed", range(4))
async def test_following_through_rotations_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    writer, stop, got = _writer(tmp_path, size=300 + 50 * seed), asyncio.Event(), bytearray()

    async def follow() -> None:
        async for line in logs.read(tmp_path / "log", follow=True, stop=stop):
            got.extend(line.data)

    task = asyncio.create_task(follow())
    sent = bytearray()
    for number in range(300):
        data = b"%d " % number + (b"\n" if number % 3 else b"")
        sent += data
        writer.write(_AT, STDOUT, data)
        if number % (7 + seed) == 0:
            await asyncio.sleep(0)
        if number % 50 == 0:
            await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(task, 10)
    writer.close()
    assert bytes(got) == bytes(sent)


async def test_a_follower_sees_a_line_soon_and_starts_before_the_log(tmp_path: Path) -> None:
    stop, seen = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def follow() -> None:
        async for line in logs.read(tmp_path / "log", follow=True, stop=stop):
            seen.set_result((time.monotonic(), line.data))

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    writer = _writer(tmp_path)
    written = time.monotonic()
    writer.write(_AT, STDOUT, b"hello")
    at, data = await asyncio.wait_for(seen, 5)
    stop.set()
    await task
    writer.close()
    assert data == b"hello"
    assert at - written < 1.0


def _sample(folder: Path) -> None:
    writer = _writer(folder, size=200)
    for number in range(10):
        writer.write(_AT + number * 1_000_000_000, STDOUT, b"%d\n" % number)
    writer.close()


@pytest.mark.parametrize(
    ("selection", "first", "last"),
    [
        (Selection(tail=3), 7, 9),
        (Selection(tail=100), 0, 9),
        (Selection(tail=0), None, None),
        (Selection(since=1767225605), 5, 9),
        (Selection(until=1767225605), 0, 4),
        (Selection(tail=2, until=1767225605), 3, 4),
        (Selection(since=1767225608, tail=5), 8, 9),
        (Selection(since=1767225603, until=1767225606), 3, 5),
    ],
)
async def test_selection(tmp_path: Path, selection: Selection, first: int | None, last: int | None) -> None:
    _sample(tmp_path)
    numbers = [int(line.data) for line in await _all(tmp_path / "log", selection)]
    assert numbers == ([] if first is None else list(range(first, (last or 0) + 1)))


async def test_a_records_own_time_as_since_selects_it_even_cut_or_rounded(tmp_path: Path) -> None:
    _sample(tmp_path)
    for since in (1767225605.123456789, 1767225605.123456, 1767225605.123457):
        for selection in (Selection(since=since), Selection(since=since, tail=50)):
            assert int((await _all(tmp_path / "log", selection))[0].data) == 5


async def test_the_last_lines_are_whole_lines(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    for data in (b"first\n", b"se", b"co", b"nd\n", b"unfinished"):
        writer.write(_AT, STDOUT, data)
    writer.close()
    tails = {tail: b"".join(line.data for line in await _all(tmp_path / "log", Selection(tail=tail))) for tail in (1, 2, 3)}
    assert tails == {1: b"unfinished", 2: b"second\nunfinished", 3: b"first\nsecond\nunfinished"}


async def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert await _all(tmp_path / "log") == []
    assert await _all(tmp_path / "log", Selection(tail=5)) == []


def test_a_crash_between_log_and_offset_is_made_good_at_every_byte(tmp_path: Path) -> None:
    """The state file is older than the log: what is whole counts, what is torn goes, and the guest sends the rest again."""
    sent = b"alpha\nbe\xffta\ngamma"
    whole = logs.encode(_AT, STDOUT, sent)
    for cut in range(len(whole) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        writer = _writer(folder)
        writer.write(_AT, STDOUT, b"before\n")
        writer.close()
        with (folder / "log").open("ab") as file:
            file.write(whole[:cut])
        again = _writer(folder, fresh=False)
        again.write(_AT, STDOUT, sent[again.offset - len(b"before\n") :])
        again.close()
        assert _joined(asyncio.run(_all(folder / "log")), STDOUT) == b"before\n" + sent


def test_a_crash_after_a_rotation_is_made_good(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    writer.write(_AT, STDOUT, b"one\n")
    writer.close()
    logs.rotate(tmp_path / "log", 3)
    (tmp_path / "log").write_bytes(logs.encode(_AT, STDOUT, b"two\n"))
    again = _writer(tmp_path, fresh=False)
    assert again.offset == 8
    again.close()


def test_a_new_boot_counts_from_zero_and_keeps_the_log(tmp_path: Path) -> None:
    for _ in range(2):
        writer = _writer(tmp_path)
        assert writer.offset == 0
        writer.write(_AT, STDOUT, b"boot\n")
        writer.close()
    assert len(asyncio.run(_all(tmp_path / "log"))) == 2


def test_lost_output_is_counted_not_invented(tmp_path: Path) -> None:
    from twinhull.instance.vm.log import GuestLog

    log = GuestLog(tmp_path / "log", tmp_path, 0, 3, fresh=True)
    log.take(0, _AT, STDOUT, b"abc\n")
    log.take(2, _AT, STDOUT, b"c\ndef\n")  # two bytes known already
    log.take(0, _AT, STDOUT, b"abc\n")  # all known
    log.take(100, 1 << 63, STDERR, b"later\n")  # 92 bytes dropped; a time that no calendar has
    log.close()
    lines = asyncio.run(_all(tmp_path / "log"))
    assert log.offset == 106
    assert [line.data for line in lines] == [b"abc\n", b"def\n", b"later\n"]
    assert lines[-1].at < time.time() + 5
