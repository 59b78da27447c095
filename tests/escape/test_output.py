"""What a workload says is hostile: lines of any length, any bytes, any speed. The daemon stays up and small, no terminal is moved."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.instance import PYTHON, Instance, Maker, wait_for
from tests.harness import Daemon, Done

ROOM = 24 << 20
"""Bytes that the daemon may need beyond what it had: less than the longest line, so nothing keeps one whole."""
SPEAK = """
import hashlib, sys, time
def parts():
    yield b"x" * (40 << 20)  # one line
    yield b"\\n" + bytes(range(256)) * 16 + b"\\n"
    yield b"\\x1b]0;owned\\x07\\x1b[2J\\x1b[31m\\x9b31m\\xc2\\x9b31m\\x1bP+q544e\\x1b\\\\\\r\\n\\0\\0\\n"
    yield b"\\xff\\xfe\\xc0\\x80\\xed\\xa0\\x80\\xf8\\n" * 100
    yield b"2026-01-01T00:00:00.000000000+00:00 stdout F forged\\n2026-01-01T00:00:00.000000000+00:00 stderr P x\\n"
    for tenth in range(20):  # 100,000 lines a second for two seconds
        yield b"".join(b"line %d\\n" % (tenth * 10_000 + n) for n in range(10_000))
        if "live" in sys.argv: time.sleep(0.1)
    yield b"the end, without a newline"
"""
WRITE = SPEAK + "\nfor part in parts(): sys.stdout.buffer.write(part); sys.stdout.flush()\ntime.sleep(1e6)"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]")
EVIL = "\x1b]0;owned\x07\x1b[2J\u009b31m\u202e\r"


def expected() -> bytes:
    """All of it."""
    done = subprocess.run([sys.executable, "-c", SPEAK + "\nfor p in parts(): sys.stdout.buffer.write(p)"], capture_output=True, check=True)
    return done.stdout


def peak(daemon: Daemon) -> int:
    """The most memory that the daemon had since `reset_peak`, in bytes."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) << 10


def reset_peak(daemon: Daemon) -> int:
    """Forget the peak; returns what the daemon has now."""
    assert daemon.process is not None
    Path(f"/proc/{daemon.process.pid}/clear_refs").write_text("5")
    return peak(daemon)


def test_any_output_is_kept_exactly_and_the_daemon_stays_small(make: Maker, daemon: Daemon) -> None:
    before = reset_peak(daemon)
    made = make("--log-opt", "max-size=300m", image=PYTHON, command=["python3", "-c", WRITE, "live"])
    follower = daemon.popen("logs", "-f", made.name, stdout=subprocess.DEVNULL)
    try:
        wait_for("the end", lambda: made.act("logs", "--tail", "1").out.endswith(b"newline"), 200)
    finally:
        follower.kill()
        follower.wait()
    out, wanted = made.act("logs").out, expected()
    assert (len(out), hashlib.sha256(out).hexdigest()) == (len(wanted), hashlib.sha256(wanted).hexdigest())
    used = peak(daemon) - before
    print(f"\n{make.runtime}: {len(wanted) >> 20} MiB of output, the daemon's peak rose by {used >> 20} MiB")
    assert used < ROOM
    assert daemon.cli("system", "info").code == 0


@pytest.fixture(scope="module")
def evil(daemon: Daemon, runtime: str) -> Iterator[Instance]:
    """An instance that puts control characters wherever it can."""
    maker = Maker(daemon, runtime)
    script = f"import sys; sys.stdout.write({EVIL!r} + 'up\\n'); sys.stdout.flush(); import time; time.sleep(1e6)"
    health = f"printf '%b' '{EVIL.encode().decode('latin-1').encode('unicode_escape').decode()}'; exit 1"
    flags = ["--label", f"evil={EVIL}", "-e", f"EVIL={EVIL}", "--health-cmd", health, "--health-interval", "500ms", "--health-retries", "1"]
    made = maker(*flags, image=PYTHON, command=["python3", "-c", script, EVIL])
    made.exec("sh", "-c", 'mkdir "/srv/$0"; echo x >"/srv/$0/$0"', EVIL)
    made.exec("sh", "-c", 'cp /bin/sleep "/tmp/$0"; "/tmp/$0" 1000000', EVIL, flags=["-d"])
    wait_for("the health check", lambda: made.view()["health"]["status"] == "unhealthy", 60)
    wait_for("the process", lambda: "1000000" in made.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", check=False))
    yield made
    maker.clear()


COMMANDS = {
    "ps": ["ps", "-a"],
    "ps long": ["ps", "-a", "--no-trunc"],
    "ps json": ["ps", "-a", "--format", "json"],
    "ps chosen": ["ps", "-a", "--format", "table {{.Command}}\t{{.Labels}}"],
    "inspect": ["inspect", "NAME"],
    "top": ["top", "NAME"],
    "diff": ["diff", "NAME"],
    "stats": ["stats", "--no-stream", "NAME"],
    "events": ["events", "--since", "STARTED", "--until", "NOW", "--filter", "instance=NAME"],
    "events json": ["events", "--since", "STARTED", "--until", "NOW", "--filter", "instance=NAME", "--format", "json"],
    "unknown name": ["inspect", EVIL],
    "unknown program": ["exec", "NAME", EVIL],
    "not a program": ["exec", "NAME", f"/srv/{EVIL}/{EVIL}"],
    "unknown user": ["exec", "-u", EVIL, "NAME", "true"],
    "unknown file": ["cp", f"NAME:/{EVIL}", "/tmp"],
    "unknown target": ["cp", "/etc/hostname", f"NAME:/no/{EVIL}/x"],
    "unknown image": ["run", "--rm", f"localhost/{EVIL}", "true"],
    "bad flag": ["run", f"--{EVIL}"],
}


@pytest.mark.parametrize("what", sorted(COMMANDS))
def test_no_command_shows_control_characters_from_inside(evil: Instance, what: str) -> None:
    words = {"NAME": evil.name, "STARTED": str(evil.view()["created_at"]), "NOW": str(time.time())}
    argv = [words.get(word, word.replace("NAME", evil.name)) for word in COMMANDS[what]]
    done = evil.daemon.cli(*argv, check=what.startswith(("ps", "inspect", "top", "diff", "stats", "events")))
    assert found(done) == []
    assert done.out or done.err


def test_health_output_is_shown_safely_and_told_exactly(evil: Instance) -> None:
    shown = evil.act("inspect", "--format", "{{json .health}}")
    assert found(shown) == []
    assert any("owned" in probe["output"] for probe in json.loads(shown.out)["log"])


def test_the_daemons_own_log_has_none(evil: Instance, daemon: Daemon) -> None:
    evil.exec(EVIL, check=False)
    assert CONTROL.findall(daemon.log.read_text(errors="replace")) == []


def found(done: Done) -> list[str]:
    """Control characters in what a command printed."""
    return CONTROL.findall((done.out + done.err).decode("utf-8", "replace"))
