"""Streams: exec, attach and run over WebSocket, events that end promptly, back-pressure, memory, and a server that stops."""

from __future__ import annotations

import select
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.server import Server, serving

from twinhull import home as homes
from twinhull.client import frames, http, target, thin
from twinhull.daemon.api import answers, streams
from twinhull.daemon.serve import STOP_SECONDS
from twinhull.errors import CannotRunError, ConflictError, NotFoundError, PermanentError, TemporaryError, UserError

BIG = 50 * 1024 * 1024
SLACK = 24 * 1024 * 1024
"""Bytes that the process may grow by while BIG go through it (server, fake and client are all in it)."""


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="th-") as folder, serving(homes.at(Path(folder))) as made:
        yield made


def where(server: Server) -> target.Target:
    return target.Target(socket=str(server.home.socket))


def box(server: Server, *command: str) -> str:
    """A running instance."""
    view = thin.call(
        "POST", "/v1/instances", {"start": True}, {"image": "busybox", "command": list(command or ("sleep",))}, target=where(server)
    )
    return str(view["id"])


def process(*argv: str, **more: Any) -> dict[str, Any]:
    return {"argv": list(argv), "env": [], **more}


def exec_(server: Server, ref: str, *argv: str, **more: Any) -> thin.Duplex:
    return thin.websocket(f"/v1/instances/{ref}/exec", None, process(*argv, **more), target=where(server))


def run(server: Server, *command: str, **more: Any) -> thin.Duplex:
    return thin.websocket("/v1/run", None, {"image": "busybox", "command": list(command), **more}, target=where(server))


def settle(duplex: thin.Duplex) -> tuple[list[dict[str, Any]], bytes, bytes]:
    """Control messages, stdout and stderr up to the end."""
    found: dict[int, list[Any]] = {thin.CONTROL: [], thin.STDOUT: [], thin.STDERR: []}
    for kind, payload in duplex.messages():
        found[kind].append(payload)
    duplex.close()
    return found[thin.CONTROL], b"".join(found[thin.STDOUT]), b"".join(found[thin.STDERR])


def rss() -> int:
    """Bytes resident in this process."""
    text = Path("/proc/self/statm").read_text().split()
    return int(text[1]) * 4096


# the protocol


def test_run_creates_starts_and_ends(server: Server) -> None:
    control, out, err = settle(run(server, "echo", "hello", "world"))
    assert (out, err) == (b"hello world\n", b"")
    assert list(control[0]) == ["created"]
    assert control[0]["created"]["image"] == "busybox"
    assert control[1:] == [{"started": True}, {"exit": 0}]


def test_stderr_is_apart_and_the_code_comes_last(server: Server) -> None:
    control, out, err = settle(exec_(server, box(server), "err", "oh"))
    assert (control, out, err) == ([{"started": True}, {"exit": 0}], b"", b"oh\n")
    assert settle(exec_(server, box(server), "exit", "42"))[0][-1] == {"exit": 42}


def test_stdin_goes_in_whole_and_ends(server: Server) -> None:
    duplex = exec_(server, box(server), "cat", stdin=True)
    data = bytes(range(256)) * 2000
    duplex.send_stdin(data)
    duplex.send_stdin(b"")
    duplex.send_eof()
    control, out, _ = settle(duplex)
    assert (out, control[-1]) == (data, {"exit": 0})


def test_resize_and_signal(server: Server) -> None:
    duplex = exec_(server, box(server), "size", tty=True, rows=30, cols=100)
    duplex.send_resize(50, 120)
    messages = duplex.messages()
    seen = b""
    while seen.count(b"\n") < 2:
        kind, payload = next(messages)
        seen += payload if kind == thin.STDOUT else b""
    assert seen == b"30 100\n50 120\n"
    duplex.send_signal("INT")
    assert [payload for kind, payload in messages] == [{"exit": 128 + signal.SIGINT}]
    duplex.close()


def test_attach_before_start_misses_nothing(server: Server) -> None:
    view = thin.call("POST", "/v1/instances", None, {"image": "busybox", "command": ["lines", "200"]}, target=where(server))
    duplex = thin.websocket(f"/v1/instances/{view['id']}/attach", target=where(server))
    messages = duplex.messages()
    assert next(messages) == (thin.CONTROL, {"started": True})
    thin.call("POST", f"/v1/instances/{view['id']}/start", target=where(server))
    lines = [payload for kind, payload in messages if kind != thin.CONTROL]
    assert b"".join(lines).count(b"\n") == 200
    duplex.close()


def test_attach_with_logs_begins_with_the_past(server: Server) -> None:
    identity = box(server, "cat")
    with_stdin = thin.websocket(f"/v1/instances/{identity}/attach", target=where(server))
    with_stdin.send_stdin(b"before\n")
    first = with_stdin.messages()
    assert (thin.STDOUT, b"before\n") in [next(first), next(first)]
    later = thin.websocket(f"/v1/instances/{identity}/attach", {"logs": True}, target=where(server))
    messages = later.messages()
    assert [next(messages), next(messages)] == [(thin.CONTROL, {"started": True}), (thin.STDOUT, b"before\n")]
    with_stdin.send_eof()
    assert list(messages) == [(thin.CONTROL, {"exit": 0})]
    later.close()
    with_stdin.close()


@pytest.mark.parametrize(("argv", "code"), [("missing", 127), ("denied", 126)])
def test_a_program_that_cannot_run(server: Server, argv: str, code: int) -> None:
    for duplex in (exec_(server, box(server), argv), run(server, argv)):
        with pytest.raises(CannotRunError) as caught:
            list(duplex.messages())
        assert caught.value.exit_code == code
        duplex.close()


def test_exec_in_nobody_and_in_a_stopped_one(server: Server) -> None:
    with pytest.raises(NotFoundError):
        list(exec_(server, "nobody", "true").messages())
    identity = box(server)
    thin.call("POST", f"/v1/instances/{identity}/stop", target=where(server))
    with pytest.raises(ConflictError):
        list(exec_(server, identity, "true").messages())


def test_an_internal_error_is_hidden_here_too(server: Server) -> None:
    server.engine.faults["run"] = RuntimeError("hunter2")
    with pytest.raises(PermanentError, match="internal error") as caught:
        list(run(server, "true").messages())
    assert "hunter2" not in str(caught.value)


# abuse


@pytest.mark.parametrize(
    "first",
    [
        '{"image": "busybox", "bogus": 1}',
        "[]",
        "{",
        '"text"',
        "null",
        "[" * 50_000,
        '{"image": 5}',
        '{"image": "b", "resources": {"cpus": NaN}}',
    ],
)
def test_a_wrong_first_message(server: Server, first: str) -> None:
    duplex = thin.websocket("/v1/run", target=where(server))
    duplex._send(frames.TEXT, first.encode())
    with pytest.raises(UserError):
        list(duplex.messages())
    duplex.close()
    assert "run" not in server.engine.calls


def test_a_binary_first_message(server: Server) -> None:
    duplex = thin.websocket("/v1/run", target=where(server))
    duplex.send_stdin(b"x")
    with pytest.raises(UserError, match="JSON text"):
        list(duplex.messages())
    duplex.close()


def test_no_first_message(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FIRST_MESSAGE", 0.05)
    duplex = thin.websocket("/v1/run", target=where(server))
    with pytest.raises(UserError, match="no first message"):
        list(duplex.messages())
    duplex.close()


@pytest.mark.parametrize(
    ("opcode", "payload"),
    [
        (frames.TEXT, b"{}"),
        (frames.TEXT, b"[]"),
        (frames.TEXT, b"nonsense"),
        (frames.TEXT, b'{"resize": [0, 80]}'),
        (frames.TEXT, b'{"resize": [1e3, 80]}'),
        (frames.TEXT, b'{"resize": [70000, 80]}'),
        (frames.TEXT, b'{"resize": "big"}'),
        (frames.TEXT, b'{"eof": false}'),
        (frames.TEXT, b'{"signal": "NOPE"}'),
        (frames.TEXT, b'{"signal": 9}'),
        (frames.TEXT, b'{"eof": true, "signal": "INT"}'),
        (frames.BINARY, b""),
        (frames.BINARY, b"\x01data"),
    ],
)
def test_a_message_against_the_protocol_ends_the_session(server: Server, opcode: int, payload: bytes) -> None:
    duplex = exec_(server, box(server), "cat")
    duplex._send(opcode, payload)
    with pytest.raises(UserError):
        list(duplex.messages())
    duplex.close()
    server.wait_until(lambda: not server.app.state.context.streams)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x82\x05hello",  # not masked
        b"\xf2\x80\0\0\0\0",  # reserved bits
        b"\x83\x80\0\0\0\0",  # an unknown opcode
        b"\x80\x80\0\0\0\0",  # a continuation of nothing
        b"\x89\xfe\x00\xff" + bytes(4 + 255),  # a long ping
        b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",  # a frame of 2^64-1 bytes
        b"\x81\x82\0\0\0\0\xff\xfe",  # text that isn't UTF-8
        b"\x82\xff\0\0\0\0\x40\0\0\0\0\0\0\0",  # a frame of 1 GiB
    ],
)
def test_frames_against_rfc_6455_end_the_connection(server: Server, raw: bytes) -> None:
    duplex = exec_(server, box(server), "cat")
    assert next(duplex.messages()) == (thin.CONTROL, {"started": True})
    duplex._connection.socket.setblocking(True)
    duplex._connection.socket.sendall(raw)
    duplex._connection.socket.settimeout(10)
    while duplex._connection.socket.recv(4096):
        pass
    duplex.close()
    server.wait_until(lambda: not server.app.state.context.streams)
    assert thin.call("GET", "/v1/ping", target=where(server))


def test_fragments_and_pings_in_between_are_fine(server: Server) -> None:
    duplex = exec_(server, box(server), "cat")
    key = b"\1\2\3\4"
    part = lambda first, data: bytes((first, 0x80 | len(data))) + key + frames.mask(key, data)  # noqa: E731
    raw = part(0x02, b"\0one ") + part(0x89, b"ping") + part(0x00, b"two ") + part(0x80, b"three")
    duplex._connection.socket.setblocking(True)
    duplex._connection.socket.sendall(raw)
    duplex._connection.socket.setblocking(False)
    duplex.send_eof()
    assert settle(duplex)[1] == b"one two three"


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/v1/nothing", NotFoundError, "no such address"),
        ("/v1/images", NotFoundError, "no such address"),
        ("/v1/run?bogus=1", UserError, "unknown query parameter 'bogus'"),
        ("/v1/instances/x/attach?logs=maybe", UserError, "logs"),
    ],
)
def test_handshakes_that_are_refused(server: Server, path: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        thin.websocket(path, target=where(server))


def test_ordinary_requests_to_websocket_addresses(server: Server) -> None:
    with pytest.raises(UserError):
        thin.call("GET", "/v1/run", target=where(server))


# who leaves when


def test_a_client_that_leaves_ends_its_exec_but_not_the_workload(server: Server) -> None:
    identity = box(server)
    duplex = exec_(server, identity, "sleep")
    assert next(duplex.messages()) == (thin.CONTROL, {"started": True})
    duplex.close()
    server.wait_until(lambda: not server.app.state.context.streams)
    attached = thin.websocket(f"/v1/instances/{identity}/attach", target=where(server))
    assert next(attached.messages()) == (thin.CONTROL, {"started": True})
    attached.close()
    server.wait_until(lambda: not server.app.state.context.streams)
    assert server.engine.record(identity).view.state == "running"


def test_a_client_that_vanishes_while_stdin_is_blocked_is_noticed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_GONE_CHECK", 0.05)
    duplex = exec_(server, box(server), "deaf")
    fill(duplex)
    duplex._connection.socket.close()
    server.wait_until(lambda: not server.app.state.context.streams)


def test_a_client_that_vanishes_during_a_flood_is_noticed(server: Server) -> None:
    duplex = exec_(server, box(server), "flood")
    next(duplex.messages())
    duplex._connection.socket.close()
    server.wait_until(lambda: not server.app.state.context.streams)


def test_a_client_that_stops_waiting_cancels_the_wait(server: Server) -> None:
    identity = box(server)
    connection = http.Connection(where(server))
    connection._send_request("POST", f"/v1/instances/{identity}/wait", ["Content-Length: 0"], None)
    server.wait_until(lambda: doing(server, "FakeEngine.wait"))
    connection.close()
    server.wait_until(lambda: not doing(server, "FakeEngine.wait"))


def test_a_client_that_leaves_a_stream_closes_its_generator(server: Server) -> None:
    identity = box(server)
    open_streams = [
        thin.sse("GET", "/v1/events", {"follow": True}, target=where(server)),
        thin.sse("GET", f"/v1/instances/{identity}/logs", {"follow": True}, target=where(server)),
    ]
    next(open_streams[0])
    server.wait_until(lambda: server.engine.open_streams == 2)
    thread = threading.Thread(target=lambda: list(open_streams[1]))
    thread.start()
    open_streams[0].close()  # type: ignore[attr-defined]
    server.wait_until(lambda: server.engine.open_streams == 1)
    thin.call("POST", f"/v1/instances/{identity}/stop", target=where(server))
    thread.join(10)
    server.wait_until(lambda: server.engine.open_streams == 0)


def test_a_silent_stream_beats(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "HEARTBEAT", 0.02)
    response = thin.request("GET", "/v1/events", {"follow": True}, target=where(server))
    with response:
        chunks = response.chunks()
        assert [next(chunks), next(chunks)] == [b": still here\n\n"] * 2


def test_events_end_at_until(server: Server) -> None:
    began = time.time()
    assert list(thin.sse("GET", "/v1/events", {"until": began + 0.3}, target=where(server))) == []
    assert 0.2 < time.time() - began < 5


def test_events_come_as_they_happen(server: Server) -> None:
    stream = thin.sse("GET", "/v1/events", {"follow": True, "filter": "action=start"}, target=where(server))
    identity = box(server)
    assert next(stream)[1]["id"] == identity
    stream.close()  # type: ignore[attr-defined]


# much data


def test_50_mb_of_output_in_bounded_memory(server: Server) -> None:
    before, size = rss(), 0
    duplex = run(server, "zeros", str(BIG))
    peak = before
    for kind, payload in duplex.messages():
        size += len(payload) if kind == thin.STDOUT else 0
        peak = max(peak, rss())
    duplex.close()
    record = next(iter(server.engine._records.values()))
    logged = sum(len(line.data) for line in record.log)
    assert size == BIG
    assert peak - before < SLACK + logged


def test_50_mb_through_cat_in_bounded_memory(server: Server) -> None:
    duplex = exec_(server, box(server), "cat")
    chunk, sent, received, before, peak, code = bytes(64 * 1024), 0, 0, rss(), 0, None
    poll = select.poll()
    while not duplex.closed:
        poll.register(duplex.fileno(), select.POLLIN | (select.POLLOUT if duplex.wants_write or sent < BIG else 0))
        poll.poll(10_000)
        if sent < BIG and duplex.pending < thin.HIGH_WATER:
            duplex.send_stdin(chunk)
            sent += len(chunk)
            if sent == BIG:
                duplex.send_eof()
        duplex.flush()
        for kind, payload in duplex.receive():
            received += len(payload) if kind == thin.STDOUT else 0
            code = payload.get("exit", code) if kind == thin.CONTROL else code
        peak = max(peak, rss())
    duplex.close()
    assert (received, code) == (BIG, 0)
    assert peak - before < SLACK


def test_a_process_that_reads_nothing_holds_the_client_back(server: Server) -> None:
    duplex = exec_(server, box(server), "deaf")
    before = rss()
    sent = fill(duplex)
    assert sent < 8 * 1024 * 1024
    assert rss() - before < SLACK
    duplex.close()
    server.wait_until(lambda: not server.app.state.context.streams)


def test_a_client_that_reads_nothing_holds_the_process_back(server: Server) -> None:
    before = rss()
    duplex = exec_(server, box(server), "flood")
    with pytest.raises(TimeoutError):
        server.wait_until(lambda: rss() - before > SLACK, seconds=1.0)
    duplex.close()
    server.wait_until(lambda: not server.app.state.context.streams)


def test_50_mb_of_tar_out_and_in(server: Server) -> None:
    identity = box(server)
    server.engine.export_size = BIG
    before, size, peak = rss(), 0, 0
    with thin.request("GET", f"/v1/instances/{identity}/export", target=where(server)) as response:
        for chunk in response.chunks():
            size += len(chunk)
            peak = max(peak, rss())
    assert size == BIG
    thin.call("POST", "/v1/images/load", None, (bytes(256 * 1024) for _ in range(BIG // (256 * 1024))), target=where(server))
    assert server.engine.received == BIG
    assert max(peak, rss()) - before < SLACK


def test_100_000_lines_of_log_in_time(server: Server) -> None:
    identity = box(server, "lines", "100000")
    thin.call("POST", f"/v1/instances/{identity}/wait", target=where(server))
    began = time.monotonic()
    assert sum(1 for _ in thin.sse("GET", f"/v1/instances/{identity}/logs", target=where(server))) == 100_000
    assert time.monotonic() - began < 20


def fill(duplex: thin.Duplex) -> int:
    """Send stdin until the socket has taken nothing for a second; the bytes sent."""
    sent = 0
    poll = select.poll()
    poll.register(duplex.fileno(), select.POLLOUT)
    while poll.poll(1000):
        if duplex.pending < thin.HIGH_WATER:
            duplex.send_stdin(bytes(64 * 1024))
            sent += 64 * 1024
        duplex.flush()
    return sent


# the server stops


def test_streams_are_told_when_the_server_stops(server: Server) -> None:
    identity = box(server)
    duplex = exec_(server, identity, "sleep")
    messages = duplex.messages()
    next(messages)
    events = thin.sse("GET", "/v1/events", {"follow": True, "filter": "action=never"}, target=where(server))
    server.wait_until(lambda: server.engine.open_streams == 1)
    waiting: list[BaseException] = []

    def wait() -> None:
        try:
            thin.call("POST", f"/v1/instances/{identity}/wait", target=where(server))
        except TemporaryError as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    server.wait_until(lambda: "wait" in server.engine.calls)
    server.stop()
    with pytest.raises(TemporaryError, match="stopping"):
        next(messages)
    with pytest.raises(TemporaryError, match="stopping"):
        next(events)
    thread.join(10)
    assert "stopping" in str(waiting[0])
    assert server.stop_took < STOP_SECONDS
    duplex.close()


def test_a_call_under_way_is_finished(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    slow, result = server.engine, []
    entered = threading.Event()

    async def info() -> dict[str, object]:
        entered.set()
        await asyncio.sleep(0.5)
        return {"slow": True}

    monkeypatch.setattr(slow, "info", info)
    thread = threading.Thread(target=lambda: result.append(thin.call("GET", "/v1/info", target=where(server))))
    thread.start()
    assert entered.wait(10)
    server.stop()
    thread.join(10)
    assert result == [{"slow": True}]


def test_calls_and_clients_that_hang_do_not_hinder_the_stop(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async def info() -> dict[str, object]:
        await asyncio.sleep(3600)
        return {}

    monkeypatch.setattr(server.engine, "info", info)
    hanging = http.Connection(where(server))
    hanging._send_request("GET", "/v1/info", [], None)
    flood = exec_(server, box(server), "flood")  # never read
    half = socket.socket(socket.AF_UNIX)
    half.connect(str(server.home.socket))
    half.sendall(b"POST /v1/instances HTTP/1.1\r\nContent-Len")
    deaf = exec_(server, box(server), "deaf")
    fill(deaf)
    server.stop()
    assert server.stop_took <= STOP_SECONDS
    for connection in (hanging, flood, half, deaf):
        connection.close()


def doing(server: Server, name: str) -> bool:
    """Whether a task of the server's loop runs the coroutine of that name."""
    import asyncio

    return any(name in repr(task) for task in asyncio.all_tasks(server._loop))
