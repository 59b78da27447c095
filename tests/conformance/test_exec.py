"""Programs run inside a running instance: streams, exit codes, environment, users, terminals."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import signal
import subprocess
import time

import pytest
from tests.conformance.instance import Instance, Maker, wait_for
from tests.conformance.terminal import Terminal
from tests.harness import Daemon

ALL_BYTES = bytes(range(256))


@pytest.mark.parametrize("code", [0, 1, 7, 125, 126, 127, 255])
def test_exit_code_is_the_programs(small: Instance, code: int) -> None:
    assert small.exec("sh", "-c", f"exit {code}", check=False).code == code


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("KILL", 9), ("SEGV", 11)])
def test_death_by_signal_is_128_and_its_number(small: Instance, name: str, number: int) -> None:
    assert small.exec("sh", "-c", f"kill -{name} $$", check=False).code == 128 + number


def test_missing_program_is_127(small: Instance) -> None:
    done = small.exec("no-such-program", check=False)
    assert done.code == 127
    assert b"no-such-program" in done.err
    assert done.out == b""


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc"])
def test_program_that_cannot_be_executed_is_126(small: Instance, path: str) -> None:
    done = small.exec(path, check=False)
    assert done.code == 126
    assert path.encode() in done.err


def test_exec_in_an_unknown_instance_is_an_error_of_ours(daemon: Daemon, runtime: str) -> None:
    done = daemon.cli("exec", f"no-such-{runtime}", "true", check=False)
    assert done.code not in (0, 127)
    assert b"no-such" in done.err


def test_stdout_and_stderr_stay_apart(small: Instance) -> None:
    done = small.exec("sh", "-c", "echo out; echo err >&2; printf end")
    assert (done.out, done.err) == (b"out\nend", b"err\n")


def test_ten_megabytes_of_output_arrive_unbroken_with_stderr_apart(box: Instance) -> None:
    script = (
        "import sys,hashlib\n"
        "block=bytes(range(256))*256; digest=hashlib.sha256()\n"
        "for number in range(160):\n"
        "    data=block+b'%08d'%number; sys.stdout.buffer.write(data); digest.update(data)\n"
        "    sys.stderr.write('line %d\\n'%number); sys.stderr.flush()\n"
        "sys.stdout.flush(); sys.stderr.write(digest.hexdigest())"
    )
    done = box.exec("python3", "-c", script)
    assert len(done.out) == 160 * (65536 + 8)
    lines = done.err.decode().splitlines()
    assert lines[:-1] == [f"line {number}" for number in range(160)]
    assert hashlib.sha256(done.out).hexdigest() == lines[-1]


def test_pipes_are_binary_clean_both_ways(small: Instance) -> None:
    data = ALL_BYTES * 1000 + b"\r\n\0\n\n"
    assert small.exec("cat", stdin=data).out == data


def test_end_of_stdin_is_seen(small: Instance) -> None:
    assert small.exec("wc", "-c", stdin=b"x" * 12345).text.strip() == "12345"


def test_stdin_is_closed_without_i(small: Instance) -> None:
    assert small.exec("cat").out == b""


def test_a_slow_reader_gets_all_of_stdin(small: Instance) -> None:
    data = os.urandom(3 << 20)
    done = small.exec("sh", "-c", "sleep 1; sha256sum", stdin=data)
    assert done.text.split()[0] == hashlib.sha256(data).hexdigest()


def test_a_program_that_ignores_stdin_ends_in_time(small: Instance) -> None:
    began = time.monotonic()
    assert small.exec("true", stdin=b"y" * (2 << 20)).code == 0
    assert time.monotonic() - began < 20


def test_early_end_of_output_reader_ends_the_program(small: Instance) -> None:
    process = small.daemon.popen("exec", small.name, "yes", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.read(4) == b"y\ny\n"
    process.stdout.close()
    process.wait(30)
    wait_for("end of yes", lambda: "yes" not in small.sh("ps -o comm").split())


def test_end_of_the_client_ends_its_program(small: Instance) -> None:
    process = small.daemon.popen("exec", small.name, "sleep", "87654", stdout=subprocess.DEVNULL)
    wait_for("start of the program", lambda: "87654" in small.sh("ps -o args"))
    process.kill()
    process.wait()
    wait_for("end of the program", lambda: "sleep 87654" not in small.sh("ps -o args"))


def test_environment_keeps_newlines_utf8_and_empty_values(box: Instance) -> None:
    wanted = {"LINES2": "one\ntwo\n", "WORD": "Grüße, 世界 🚢", "EMPTY": "", "EQUAL": "a=b=c", "QUOTE": "'\"$HOME`\\"}
    flags = [part for key, value in wanted.items() for part in ("-e", f"{key}={value}")]
    seen = box.exec(
        "python3", "-c", "import os,sys; sys.stdout.buffer.write(b'\\0'.join(b'%s=%s'%p for p in os.environb.items()))", flags=flags
    )
    pairs = dict(item.split("=", 1) for item in seen.out.decode().split("\0"))
    assert {key: pairs.get(key) for key in wanted} == wanted
    assert pairs["PATH"].startswith("/usr/local/sbin:")
    assert pairs["HOME"] == "/root"


def test_arguments_arrive_as_given(box: Instance) -> None:
    wanted = ["", " ", "a b", "*", "$HOME", "new\nline", "'", '"', "\\", "ü", "-x", "--", "x" * 50_000]
    seen = box.exec("python3", "-c", "import sys; sys.stdout.write('\\0'.join(sys.argv[1:]))", *wanted)
    assert seen.out.decode().split("\0") == wanted


@pytest.mark.parametrize(
    ("user", "uid", "gid"),
    [
        ("app", 1000, 1000),
        ("1000", 1000, 1000),
        ("1000:33", 1000, 33),
        ("www-data:app", 33, 1000),
        ("4321", 4321, 0),
        ("4321:77", 4321, 77),
    ],
)
def test_user_by_name_and_number(small: Instance, user: str, uid: int, gid: int) -> None:
    assert small.exec("sh", "-c", "id -u; id -g", flags=["-u", user]).lines == [str(uid), str(gid)]


def test_supplementary_groups_come_from_the_image(small: Instance) -> None:
    assert set(small.exec("id", "-G", flags=["-u", "app"]).text.split()) == {"1000", "10", "29"}
    assert set(small.exec("id", "-G").text.split()) == {"0", "10"}


def test_home_of_a_user_comes_from_the_image(small: Instance) -> None:
    assert small.exec("sh", "-c", "echo $HOME", flags=["-u", "app"]).text == "/home/app"


def test_unknown_user_is_refused_by_name(small: Instance) -> None:
    done = small.exec("true", flags=["-u", "nosuchuser"], check=False)
    assert done.code in (125, 126)
    assert b"nosuchuser" in done.err


def test_a_plain_user_has_no_capabilities_and_no_rights(small: Instance) -> None:
    assert small.exec("sh", "-c", "grep CapEff /proc/self/status", flags=["-u", "app"]).text.split()[1] == "0" * 16
    assert small.exec("cat", "/etc/shadow", flags=["-u", "app"], check=False).code == 1


def test_working_directory(small: Instance) -> None:
    assert small.exec("pwd", flags=["-w", "/var/www"]).text == "/var/www"


def test_missing_working_directory_is_an_error(small: Instance) -> None:
    done = small.exec("pwd", flags=["-w", "/no/such/folder"], check=False)
    assert done.code in (125, 126, 127)
    assert b"/no/such/folder" in done.err


def test_without_t_there_is_no_terminal(small: Instance) -> None:
    assert small.sh("for fd in 0 1 2; do test -t $fd && echo tty || echo no; done").split() == ["no", "no", "no"]


def test_terminal_has_the_callers_size(box: Instance) -> None:
    with Terminal(
        box.daemon, "exec", "-it", box.name, "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && stty size", rows=37, cols=101
    ) as tty:
        tty.expect("37 101")
        assert tty.wait() == 0


def test_terminal_follows_a_resize(box: Instance) -> None:
    script = (
        "import os,signal,time\n"
        "signal.signal(signal.SIGWINCH, lambda *_: print('now', *os.get_terminal_size(), flush=True))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with Terminal(box.daemon, "exec", "-it", box.name, "python3", "-c", script, rows=24, cols=80) as tty:
        tty.expect("ready")
        tty.resize(50, 132)
        tty.expect("now 132 50")


def test_control_c_on_a_terminal_interrupts(small: Instance) -> None:
    with Terminal(small.daemon, "exec", "-it", small.name, "sh", "-c", "echo up; sleep 1000") as tty:
        tty.expect("up")
        tty.send("\x03")
        assert tty.wait() == 128 + signal.SIGINT


def test_twenty_programs_at_once(small: Instance) -> None:
    def one(number: int) -> str:
        return small.exec("sh", "-c", f"cat; echo {number}", stdin=b"in\n").text

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == [f"in\n{number}" for number in range(20)]


def test_exec_works_while_the_instance_is_busy(box: Instance) -> None:
    hog = box.daemon.popen("exec", box.name, "sh", "-c", "while :; do :; done", stdout=subprocess.DEVNULL)
    try:
        for _ in range(5):
            began = time.monotonic()
            assert box.sh("echo here") == "here"
            assert time.monotonic() - began < 10
    finally:
        hog.kill()
        hog.wait()


def test_detached_exec_returns_at_once_and_runs_on(small: Instance) -> None:
    began = time.monotonic()
    small.exec("sh", "-c", "sleep 2; echo done >/tmp/detached", flags=["-d"])
    assert time.monotonic() - began < 2
    wait_for("the file it writes", lambda: small.sh("cat /tmp/detached 2>/dev/null || true") == "done")
    small.sh("rm /tmp/detached")


def test_signal_to_the_client_reaches_the_program(small: Instance) -> None:
    script = "trap 'echo got it; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    process = small.daemon.popen("exec", small.name, "sh", "-c", script, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.terminate()
    assert process.stdout.read() == b"got it\n"
    assert process.wait(30) == 3


def test_exec_in_a_stopped_instance_is_refused(make: Maker) -> None:
    stopped = make(command=["true"])
    stopped.wait_exit()
    done = stopped.exec("true", check=False)
    assert done.code not in (0, 127)
    assert b"running" in done.err
