"""Streams: whole, apart, in order, held back where nobody reads, and alive when the host goes away."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import socket
import struct
from pathlib import Path

import pytest
from tests.agent.lab import PATH, Lab, collect, config, sh, until, until_true

from twinhull.errors import UserError
from twinhull.instance.base import Process
from twinhull.instance.vm import frames
from twinhull.instance.vm.agent import AgentClient, AgentLostError
from twinhull.instance.vm.frames import GuestState, Kind, ProtocolError

MEGABYTE = 1 << 20
BOTH = (
    "i=0; while [ $i -lt 160 ]; do dd if=/dev/zero bs=65536 count=1 2>/dev/null | tr '\\0' o;"
    " dd if=/dev/zero bs=65536 count=1 2>/dev/null | tr '\\0' e >&2; i=$((i+1)); done"
)


async def idle(lab: Lab) -> AgentClient:
    client = await lab.connect()
    await client.configure(config("sleep", "100000"))
    await client.start()
    return client


async def test_ten_megabytes_of_the_workload_on_both_streams(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("sh", "-c", BOTH))
    session = await client.attach()
    collecting = asyncio.create_task(collect(session))
    await client.start()
    assert (await client.wait_exit()).code == 0
    assert lab.text(1) == b"o" * 160 * 65536
    assert lab.text(2) == b"e" * 160 * 65536
    assert await collecting == (0, lab.text(1), lab.text(2))
    offsets = [(offset, offset + len(data)) for offset, _, data in lab.output]
    assert all(one[1] == two[0] for one, two in itertools.pairwise(offsets))


async def test_ten_megabytes_of_an_exec_on_both_streams(lab: Lab) -> None:
    client = await idle(lab)
    assert await sh(client, BOTH) == (0, b"o" * 160 * 65536, b"e" * 160 * 65536)


async def test_binary_round_trip_through_an_exec(lab: Lab) -> None:
    client = await idle(lab)
    data = os.urandom(5 * MEGABYTE) + bytes(range(256)) + b"\x5a\xa5\0" * 1000
    session = await client.exec(Process(argv=("cat",), env=(PATH,), stdin=True))
    collecting = asyncio.create_task(collect(session))
    await session.send(data)
    await session.close_stdin()
    code, out, err = await collecting
    assert (code, hashlib.sha256(out).digest(), err) == (0, hashlib.sha256(data).digest(), b"")


async def test_stdin_is_null_unless_asked_for(lab: Lab) -> None:
    client = await idle(lab)
    assert await sh(client, "cat; echo end") == (0, b"end\n", b"")
    session = await client.exec(Process(argv=("cat",), env=(PATH,)))
    await session.send(b"nobody reads this" * 100_000)
    await session.close_stdin()
    assert await collect(session) == (0, b"", b"")


async def test_stdin_waits_for_a_slow_reader(lab: Lab) -> None:
    client = await idle(lab)
    script = "while [ ! -e /tmp/go ]; do sleep 0.01; done; wc -c"
    session = await client.exec(Process(argv=("sh", "-c", script), env=(PATH,), stdin=True))
    sending = asyncio.create_task(session.send(bytes(3 * MEGABYTE)))
    assert (await sh(client, "echo other streams go on"))[0] == 0
    assert not sending.done(), "the window and the pipe hold less than three megabytes"
    await sh(client, "touch /tmp/go")
    await sending
    await session.close_stdin()
    assert await collect(session) == (0, b"3145728\n", b"")


async def test_a_program_that_closes_stdin_does_not_block_the_sender(lab: Lab) -> None:
    client = await idle(lab)
    session = await client.exec(Process(argv=("sh", "-c", "exec <&-; touch /tmp/closed; sleep 0.2; echo done"), env=(PATH,), stdin=True))
    async with asyncio.timeout(20):
        await session.send(bytes(8 * MEGABYTE))
    assert await collect(session) == (0, b"done\n", b"")


async def test_an_unread_exec_is_held_back_and_nothing_else(lab: Lab) -> None:
    client = await idle(lab)
    script = "head -c 2000000 /dev/zero; touch /tmp/written"
    session = await client.exec(Process(argv=("sh", "-c", script), env=(PATH,)))
    assert (await sh(client, "sleep 0.3; ls /tmp/written"))[0] == 1, "it would have written 2 MB without being read"
    assert await collect(session) == (0, bytes(2_000_000), b"")


async def test_an_unread_attached_session_holds_the_workload_back(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("sh", "-c", "head -c 9000000 /dev/zero; touch /tmp/written"))
    session = await client.attach()
    await client.start()
    await until(lambda: len(lab.text()) > 3 * MEGABYTE)
    assert (await sh(client, "sleep 0.3; ls /tmp/written"))[0] == 1
    assert len(lab.text()) < 5 * MEGABYTE
    assert await collect(session) == (0, bytes(9_000_000), b"")


async def test_closing_an_attached_session_lets_the_workload_go(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("head", "-c", "9000000", "/dev/zero"))
    session = await client.attach()
    await client.start()
    await until(lambda: len(lab.text()) > 3 * MEGABYTE)
    await session.close()
    assert (await client.wait_exit()).code == 0
    assert len(lab.text()) == 9_000_000


async def test_tty_of_an_exec(lab: Lab) -> None:
    client = await idle(lab)
    script = "tty; stty size; read line; echo got:$line; stty size; exit 4"
    process = Process(argv=("sh", "-c", script), env=(PATH,), tty=True, stdin=True, rows=33, cols=101)
    session = await client.exec(process)
    output = session.output()
    text = b""
    while text.count(b"\r\n") < 2:
        text += (await anext(output))[1]
    await session.resize(44, 132)
    await session.send(b"hello\n")
    text += b"".join([data async for _, data in output])
    assert await session.wait() == 4
    assert text.split(b"\r\n") == [b"/dev/pts/0", b"33 101", b"hello", b"got:hello", b"44 132", b""]
    with pytest.raises(UserError):
        await session.resize(70_000, 1)


async def test_tty_of_the_workload_is_its_console(lab: Lab) -> None:
    client = await lab.connect()
    script = "stty size; ls -la /dev/console | cut -c1; test -t 0 && test -t 1 && echo yes > /dev/console; cat"
    await client.configure(config("sh", "-c", script, tty=True, stdin=True, rows=20, cols=70))
    session = await client.attach()
    await client.start()
    await session.send(b"line\n")
    await session.close_stdin()
    code, out, _ = await collect(session)
    assert code == 0
    words = out.split()
    assert [word for word in words if word != b"line"] == [b"20", b"70", b"c", b"yes"]
    assert words.count(b"line") == 2, "the echo, and cat's"
    assert {fd for _, fd, _ in lab.output} == {1}


async def test_control_c_on_a_tty(lab: Lab) -> None:
    client = await idle(lab)
    script = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.02; done"
    session = await client.exec(Process(argv=("sh", "-c", script), env=(PATH,), tty=True, stdin=True))
    output = session.output()
    _, first = await anext(output)
    assert first == b"ready\r\n"
    await session.send(b"\x03")
    rest = b"".join([data async for _, data in output])
    assert (await session.wait(), b"interrupted" in rest) == (5, True)


async def test_all_of_a_ttys_output_comes(lab: Lab) -> None:
    client = await idle(lab)
    session = await client.exec(Process(argv=("sh", "-c", "yes | head -n 200000"), env=(PATH,), tty=True))
    assert await collect(session) == (0, b"y\r\n" * 200_000, b"")


async def test_an_exec_ends_although_a_descendant_keeps_its_pipes(lab: Lab) -> None:
    client = await idle(lab)
    async with asyncio.timeout(10):
        assert await sh(client, "sleep 1000 & echo started") == (0, b"started\n", b"")
        session = await client.exec(Process(argv=("sh", "-c", "trap '' HUP; sleep 1000 & echo started"), env=(PATH,), tty=True))
        assert await collect(session) == (0, b"started\r\n", b"")


async def test_signals_and_codes_of_execs(lab: Lab) -> None:
    client = await idle(lab)
    session = await client.exec(Process(argv=("sleep", "1000"), env=(PATH,)))
    await session.signal(15)
    assert await session.wait() == 143
    await session.signal(15)
    assert (await sh(client, "exit 255"))[0] == 255


async def test_closing_an_exec_kills_its_session(lab: Lab) -> None:
    client = await idle(lab)
    session = await client.exec(Process(argv=("sh", "-c", "sleep 4711 & sleep 4712"), env=(PATH,)))
    await _until_running(client, {"sleep 4711", "sleep 4712"})
    await session.close()
    await _until_running(client, set())
    await session.close()
    assert (await sh(client, "echo fine"))[1] == b"fine\n"


async def _until_running(client: AgentClient, wanted: set[str]) -> None:
    async def running() -> bool:
        commands = {row["COMMAND"] for row in await client.top()}
        return {command for command in commands if command.startswith("sleep 471")} == wanted

    await until_true(running)


async def test_many_execs_at_once(lab: Lab) -> None:
    client = await idle(lab)
    results = await asyncio.gather(*(sh(client, f"echo {number}; echo e{number} >&2; exit {number % 50}") for number in range(100)))
    assert results == [(number % 50, f"{number}\n".encode(), f"e{number}\n".encode()) for number in range(100)]


async def test_a_cancelled_exec_leaves_nothing_behind(lab: Lab) -> None:
    client = await idle(lab)
    task = asyncio.create_task(client.exec(Process(argv=("sleep", "4713"), env=(PATH,))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until_running(client, set())
    assert (await sh(client, "echo fine"))[1] == b"fine\n"


async def test_arguments_beyond_one_frame(lab: Lab) -> None:
    client = await idle(lab)
    words = [str(number) * 20 for number in range(10_000)]
    session = await client.exec(Process(argv=("sh", "-c", "echo $#; echo ${9999}", *words), env=(PATH,)))
    code, out, _ = await collect(session)
    assert (code, out) == (0, b"9999\n" + words[9999].encode() + b"\n")


# ---- the host goes away


async def test_output_goes_on_where_the_last_host_stopped(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("sh", "-c", "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); sleep 0.002; done; exit 6"))
    await client.start()
    while client.state is not GuestState.EXITED:
        await _until_more(lab, client)
        await client.close()
        with pytest.raises(AgentLostError):
            await client.stats()
        client = await lab.connect()
    assert (await client.wait_exit()).code == 6
    assert lab.text() == b"".join(b"line %d\n" % number for number in range(300))
    assert client.lost_bytes == 0


async def _until_more(lab: Lab, client: AgentClient) -> None:
    seen = lab.logged
    await until(lambda: lab.logged > seen or client.state is GuestState.EXITED)


async def test_exit_is_repeated_and_output_kept_until_seen(lab: Lab) -> None:
    client = await lab.connect(log=False)
    await client.configure(config("sh", "-c", "echo first; exit 8"))
    await client.start()
    await client.wait_exit()
    await client.close()
    for _ in range(3):
        client = await lab.connect(0)
        assert (await client.wait_exit()).code == 8
        await client.close()
    assert lab.text() == b"first\n" * 3


async def test_without_a_host_the_workload_never_waits_and_the_oldest_is_dropped(lab: Lab) -> None:
    client = await lab.connect()
    script = "while [ ! -e /tmp/go ]; do sleep 0.01; done; yes 0123456789abcde | head -n 1000000; touch /tmp/done; exec sleep 1000"
    await client.configure(config("sh", "-c", script))
    await client.start()
    await client.close()
    (lab.root / "tmp/go").touch()
    await until((lab.root / "tmp/done").exists, 60)
    client = await lab.connect()
    await until(lambda: lab.logged == 16_000_000)
    text = lab.text()
    assert client.lost_bytes == 16_000_000 - len(text)
    assert 3_500_000 < len(text) < 4 * MEGABYTE
    assert text == (b"0123456789abcde\n" * 1_000_000)[-len(text) :]


async def test_a_new_host_ends_the_old_ones_execs(lab: Lab) -> None:
    client = await idle(lab)
    session = await client.exec(Process(argv=("sh", "-c", "sleep 4714 & sleep 4715"), env=(PATH,)))
    await _until_running(client, {"sleep 4714", "sleep 4715"})
    await client.close()
    with pytest.raises(AgentLostError):
        await session.wait()
    client = await lab.connect()
    assert client.state is GuestState.RUNNING
    await _until_running(client, set())


async def test_frames_cut_off_by_a_dying_host(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("cat", stdin=True))
    await client.start()
    await client.close()
    whole = frames.stdin(0, b"poison" * 9000)
    socket_path = str(lab.folder / "agent.sock")
    for cut in (1, 5, 11, 12, 13, 100, len(whole) - 1):
        await asyncio.to_thread(_half_send, socket_path, whole[:cut])
        client = await lab.connect()
        session = await client.attach()
        await session.send(b"good%d\n" % cut)
        await until(lambda cut=cut: lab.text().endswith(b"good%d\n" % cut))  # type: ignore[misc]
        await client.close()
    assert b"poison" not in lab.text()
    assert b"\0" not in lab.text()


def _half_send(path: str, part: bytes) -> None:
    """As a daemon that dies while it writes: its HELLO went through, then half a frame."""
    nonce = os.urandom(frames.NONCE_SIZE)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(frames.hello(nonce, 0, bytes(frames.ENTROPY_SIZE)))
        received = b""
        while nonce not in received:
            received += connection.recv(65536)
        connection.sendall(part)


async def test_bad_frames_change_nothing(lab: Lab) -> None:
    client = await idle(lab)
    bad = [
        frames.encode(Kind.SIGNAL, 0, b"\x09"),
        frames.encode(Kind.SIGNAL, 0, struct.pack("<I", 4_000_000_000)),
        frames.encode(Kind.SIGNAL, 77, struct.pack("<I", 9)),
        frames.encode(Kind.WINDOW, 5, b""),
        frames.encode(Kind.RESIZE, 0, b"\0\0\0\0"),
        frames.encode(Kind.STDIN, 12345, b"x"),
        frames.encode(Kind.CLOSE, 0),
        frames.encode(Kind.LOGACK, 0, struct.pack("<Q", 1 << 63)),
        b"\xff" * 1000,
        bytes(5000),
        frames.HEADER.pack(frames.MARKER, 99, 0, 0, 1) + frames.TRAILER,
        frames.HEADER.pack(frames.MARKER, Kind.EXEC, 1, 0, 6) + b"12345" + frames.TRAILER,
    ]
    for frame in bad:
        client.write_nowait(frame)
        assert (await sh(client, "echo fine"))[1] == b"fine\n"


async def test_random_requests_never_end_the_agent(lab: Lab) -> None:
    import random

    client = await idle(lab)
    generator = random.Random(4)
    client._take_stream()
    for _ in range(300):
        kind = generator.choice([kind for kind in Kind if kind < 0x80 and kind not in (Kind.SHUTDOWN, Kind.HELLO)])
        payload = generator.randbytes(generator.choice([0, 1, 4, 8, 30, 3000]))
        stream = client._take_stream() if kind in (Kind.EXEC, Kind.CONFIG) else generator.randrange(1, client._next_stream)
        client.write_nowait(frames.encode(kind, stream, payload))
    try:
        assert (await sh(client, "echo fine"))[1] == b"fine\n"
    except ProtocolError:  # an answer of the wrong type, to a number that we drew by chance
        pytest.fail("the client drew a number twice")


async def test_nobody_is_there(tmp_path: Path) -> None:
    from twinhull.errors import TemporaryError

    with pytest.raises(TemporaryError, match="no answer"):
        await AgentClient.connect(tmp_path / "none", timeout=0.05)
