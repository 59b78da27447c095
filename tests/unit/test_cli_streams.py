"""run, exec and attach end to end: the real CLI as a process, the real API, a fake engine."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from tests.fakes.server import Server, serving

from twinhull import home
from twinhull.cli.session import DetachKeys, detach_keys

PATIENCE = 20.0


class Cli:
    """The CLI against one home."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "TWINHULL_HOME": str(folder), "NO_COLOR": "1"}
        self.argv = [sys.executable, "-m", "twinhull.cli"]

    def __call__(self, *words: str, stdin: bytes | IO[Any] = b"") -> subprocess.CompletedProcess[bytes]:
        given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        return subprocess.run([*self.argv, *words], capture_output=True, env=self.environment, timeout=60, check=False, **given)

    def spawn(self, *words: str, **streams: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self.argv, *words], env=self.environment, **streams)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    place = home.at(tmp_path)
    place.run.mkdir(parents=True, exist_ok=True)
    with serving(place) as running:
        yield running


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (["run", "busybox", "echo", "hello", "--rm"], 0, b"hello --rm\n", b""),
        (["run", "busybox", "err", "oops"], 0, b"", b"oops\n"),
        (["run", "busybox", "exit", "7"], 7, b"", b""),
        (["run", "busybox", "exit", "255"], 255, b"", b""),
        (["run", "-e", "A=1", "busybox", "env"], 0, b"A=1\n", b""),
        (["run", "busybox", "missing"], 127, b"", b"twinhull: run missing: not found\n"),
        (["run", "busybox", "denied"], 126, b"", b"twinhull: run denied: permission denied\n"),
        (["run", "--pull", "never", "nope"], 125, b"", b"twinhull: no image nope\n  see: twinhull image ls\n"),
        (["run", "--snapshot", "app", "busybox"], 125, b"", b"twinhull: snapshots aren't supported\n"),
        (["run", "--memroy", "1g", "busybox"], 125, b"", b"twinhull: run: unknown option --memroy\n  did you mean --memory?\n"),
        (["exec", "nope", "true"], 125, b"", b"twinhull: no instance nope\n"),
        (["ps", "--frmat", "json"], 2, b"", b"twinhull: ps: unknown option --frmat\n  did you mean --format?\n"),
        (["inspect", "nope"], 1, b"[]\n", b"twinhull: there is no instance, image, network or volume nope\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exit_codes_and_streams(cli: Cli, words: list[str], code: int, out: bytes, err: bytes) -> None:
    done = cli(*words)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_exec(cli: Cli) -> None:
    cli("run", "-d", "--name", "web", "busybox", "sleep")
    assert cli("exec", "web", "echo", "hi").stdout == b"hi\n"
    assert cli("exec", "web", "exit", "3").returncode == 3
    assert cli("exec", "web", "missing").returncode == 127
    assert cli("exec", "web", "denied").returncode == 126
    assert cli("exec", "-d", "web", "true").returncode == 0


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_binary_data_of_any_size(cli: Cli, verb: str) -> None:
    cli("run", "-d", "--name", "web", "busybox", "sleep")
    data = os.urandom(8_000_000)
    done = cli(verb, "-i", "busybox" if verb == "run" else "web", "cat", stdin=data)
    assert done.returncode == 0
    assert done.stdout == data


def test_stdin_is_not_read_without_i(cli: Cli) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"mine")
    assert cli("run", "busybox", "true", stdin=os.fdopen(reader, "rb")).returncode == 0
    os.close(writer)


def test_empty_and_closed_stdin(cli: Cli) -> None:
    assert cli("run", "-i", "busybox", "cat").returncode == 0
    line = f"exec {' '.join(cli.argv)} run -i busybox cat <&-"
    assert subprocess.run(["sh", "-c", line], env=cli.environment, timeout=30, check=False).returncode == 0


def test_large_output(cli: Cli) -> None:
    assert cli("run", "busybox", "zeros", "20000000").stdout == bytes(20_000_000)


def test_output_keeps_its_order_on_one_descriptor(cli: Cli) -> None:
    process = cli.spawn("run", "busybox", "lines", "50", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = process.communicate(timeout=PATIENCE)
    assert out.decode() == "".join(f"line {number}\n" for number in range(50))


def test_a_reader_that_leaves_ends_it_quietly(cli: Cli) -> None:
    process = cli.spawn("run", "busybox", "flood", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    assert len(process.stdout.read(100)) == 100
    process.stdout.close()
    assert process.wait(PATIENCE) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_reader_that_leaves_a_listing(cli: Cli) -> None:
    cli("run", "-d", "--name", "web", "busybox", "sleep")
    reader, writer = os.pipe()
    os.close(reader)
    process = cli.spawn("ps", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (141, b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)])
def test_signals_go_to_the_workload(cli: Cli, server: Server, number: int, code: int) -> None:
    process = cli.spawn("run", "--name", "web", "busybox", "sleep")
    _wait_running(server, "web")
    _wait_proxying(process)
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    assert server.engine.record("web").process.signals == [number]  # type: ignore[union-attr]


def test_without_a_proxy_the_workload_lives_on(cli: Cli, server: Server) -> None:
    process = cli.spawn("run", "--sig-proxy=false", "--name", "web", "busybox", "sleep")
    _wait_running(server, "web")
    _wait_proxying(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    assert server.engine.record("web").view.state == "running"


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_signal_passes_stdin_that_nobody_reads(cli: Cli, server: Server, verb: str) -> None:
    cli("run", "-d", "--name", "busy", "busybox", "sleep")
    words = ["run", "-i", "--name", "web", "busybox", "deaf"] if verb == "run" else ["exec", "-i", "busy", "deaf"]
    process = cli.spawn(*words, stdin=subprocess.PIPE)
    assert process.stdin
    os.set_blocking(process.stdin.fileno(), False)
    taken = _fill(process.stdin)
    assert taken < 64_000_000  # bounded: it doesn't read what it can't pass on
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    process.stdin.close()


def _fill(pipe: IO[bytes]) -> int:
    """Write until nothing is taken for a second; bytes taken."""
    taken = 0
    while select.select([], [pipe], [], 1.0)[1]:
        taken += os.write(pipe.fileno(), bytes(65536))
    return taken


def _wait_running(server: Server, name: str) -> None:
    def runs() -> bool:
        return any(record.view.name == name and record.view.state == "running" for record in server.engine._records.values())

    server.wait_until(runs, PATIENCE)


def _wait_proxying(process: subprocess.Popen[bytes]) -> None:
    """Until the CLI has its handler for TERM (bit 15 of SigCgt)."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        caught = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.005)
    raise AssertionError("no handler for TERM")


class Terminal:
    """The CLI on a terminal of its own."""

    def __init__(self, cli: Cli, *words: str, rows: int = 30, columns: int = 90) -> None:
        self.leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (rows, columns))
        self.before = termios.tcgetattr(follower)
        self.follower = follower
        self.seen = b""
        self.process = cli.spawn(*words, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)

    def until(self, text: bytes) -> None:
        """Read until the text has come."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.leader], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} hasn't come: {self.seen!r}"
            self.seen += os.read(self.leader, 4096)

    def type(self, data: bytes) -> None:
        os.write(self.leader, data)

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.follower, (rows, columns))
        self.process.send_signal(signal.SIGWINCH)

    def end(self) -> int:
        """Exit code; the terminal must be as it was."""
        code = self.process.wait(PATIENCE)
        assert termios.tcgetattr(self.follower) == self.before
        os.close(self.follower)
        os.close(self.leader)
        return code


def test_terminal_size_and_resize(cli: Cli) -> None:
    terminal = Terminal(cli, "run", "-it", "busybox", "size")
    terminal.until(b"30 90")
    terminal.resize(41, 101)
    terminal.until(b"41 101")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 143


def test_exec_has_the_size_from_the_start(cli: Cli) -> None:
    cli("run", "-d", "--name", "web", "busybox", "sleep")
    terminal = Terminal(cli, "exec", "-it", "web", "size", rows=33, columns=77)
    terminal.until(b"33 77")
    terminal.type(b"\x10\x11")
    assert terminal.end() == 0


def test_keys_go_through_raw_and_detach_leaves_it_running(cli: Cli, server: Server) -> None:
    terminal = Terminal(cli, "run", "-it", "--name", "web", "busybox", "cat")
    _wait_running(server, "web")
    _wait_raw(terminal)
    terminal.type(b"a\x03b\x10c\r")  # ctrl-c is the workload's; a ctrl-p that leads nowhere too
    terminal.until(b"a\x03b\x10c\r")
    terminal.type(b"\x10\x11")
    assert terminal.end() == 0
    assert server.engine.record("web").view.state == "running"


def test_other_detach_keys(cli: Cli, server: Server) -> None:
    terminal = Terminal(cli, "run", "-it", "--detach-keys", "ctrl-x,q", "--name", "web", "busybox", "cat")
    _wait_running(server, "web")
    _wait_raw(terminal)
    terminal.type(b"\x18q")
    assert terminal.end() == 0


def test_the_terminal_is_restored_when_the_daemon_goes(cli: Cli, server: Server) -> None:
    terminal = Terminal(cli, "run", "-it", "--name", "web", "busybox", "cat")
    _wait_running(server, "web")
    _wait_raw(terminal)
    server.stop()
    terminal.until(b"twinhull:")
    assert terminal.end() == 125


def test_the_terminal_is_restored_when_the_workload_ends(cli: Cli, server: Server) -> None:
    terminal = Terminal(cli, "run", "-it", "--name", "web", "busybox", "sleep")
    _wait_running(server, "web")
    _wait_raw(terminal)
    cli("kill", "web")
    assert terminal.end() == 137


def _wait_raw(terminal: Terminal) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not termios.tcgetattr(terminal.follower)[3] & termios.ICANON:
            return
        time.sleep(0.005)
    raise AssertionError("the terminal isn't raw")


def test_a_long_wait_shows_what_goes_on(cli: Cli) -> None:
    cli("run", "-d", "--name", "web", "busybox", "sleep")
    terminal = Terminal(cli, "wait", "web")
    terminal.until(b"waiting for web")
    cli("kill", "web")
    terminal.until(b"137")
    assert terminal.end() == 0


def test_attach(cli: Cli, server: Server) -> None:
    cli("run", "-di", "--name", "web", "busybox", "cat")
    done = cli("attach", "web", stdin=b"through")
    assert (done.returncode, done.stdout) == (0, b"through")
    assert cli("attach", "web").returncode == 125  # it has ended


def test_start_and_follow(cli: Cli) -> None:
    cli("create", "--name", "job", "busybox", "echo", "done")
    done = cli("start", "-a", "job")
    assert (done.returncode, done.stdout) == (0, b"done\n")
    cli("create", "--name", "bad", "busybox", "exit", "9")
    assert cli("start", "-a", "bad").returncode == 9


def test_start_interactive(cli: Cli) -> None:
    cli("create", "-i", "--name", "job", "busybox", "cat")
    done = cli("start", "-ai", "job", stdin=b"to it")
    assert (done.returncode, done.stdout) == (0, b"to it")


def test_cidfile(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "cid"
    done = cli("run", "-d", "--cidfile", str(path), "busybox")
    assert path.read_text() == done.stdout.decode().strip()
    assert cli("run", "-d", "--cidfile", str(path), "busybox").returncode == 125


def test_an_image_that_is_not_here_is_fetched(cli: Cli) -> None:
    done = cli("run", "other:1", "echo", "x")
    assert (done.returncode, done.stdout) == (0, b"x\n")
    assert b"other:1" in done.stderr
    quiet = cli("run", "-q", "another:1", "echo", "x")
    assert (quiet.stdout, quiet.stderr) == (b"x\n", b"")


def test_without_a_daemon(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    done = cli("run", "busybox", "true")
    assert done.returncode == 125
    assert done.stderr.decode().endswith("start it with: twinhull daemon --detach\n")
    assert cli("ps").returncode == 1
    assert cli("version").returncode == 0
    assert cli("daemon", "status").returncode == 1
    many = cli("stop", "a", "b", "c").stderr.decode()
    assert many.count("no daemon") == 1


def test_debug_shows_the_traceback(cli: Cli) -> None:
    done = cli("--debug", "rm", "--debug", "nope")
    assert b"NotFoundError" in cli("inspect", "--debug", "nope").stderr or done.returncode == 1
    assert b"Traceback" in cli("run", "--debug", "--pull", "never", "nope").stderr
    assert b"Traceback" not in cli("run", "--pull", "never", "nope", "--debug").stderr


@pytest.mark.parametrize(
    ("sequence", "typed", "passed", "detached"),
    [
        (b"\x10\x11", [b"abc"], b"abc", False),
        (b"\x10\x11", [b"a\x10\x11b"], b"a", True),
        (b"\x10\x11", [b"\x10", b"\x11"], b"", True),
        (b"\x10\x11", [b"\x10", b"x"], b"\x10x", False),
        (b"\x10\x11", [b"\x10\x10\x11"], b"\x10", True),
        (b"aab", [b"aaab"], b"a", True),
        (b"", [b"\x10\x11"], b"\x10\x11", False),
    ],
)
def test_detach_keys_are_found(sequence: bytes, typed: list[bytes], passed: bytes, detached: bool) -> None:
    keys = DetachKeys(sequence)
    found = [keys.feed(data) for data in typed]
    assert b"".join(data for data, _ in found) == passed
    assert found[-1][1] == detached


def test_detach_keys_as_typed() -> None:
    assert detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert detach_keys("ctrl-@,a") == b"\x00a"
    assert detach_keys("") == b""
    with pytest.raises(ValueError, match="ctrl-p"):
        detach_keys("ctrl-ä")
