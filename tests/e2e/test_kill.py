"""kill -9 of the daemon at 100 seeded points of the life cycle: afterwards every instance is right, and nothing leaks.

Each round starts one operation, kills the daemon a random time later, starts a new one, and checks three laws:
the survivor from before the first round still runs, as the same process; what `ps` says is what the machine shows; and when all
instances of the rounds are removed, nothing is left of them. TWINHULL_KILL_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable

import pytest
from tests import leaks
from tests.harness import Daemon
from tests.images.base import archive

SEED = int(os.environ.get("TWINHULL_KILL_SEED", "20261124"))
ROUNDS = {"container": 80, "vm": 20, "sandbox": 10}
LONGEST = {"container": 0.6, "vm": 8.0, "sandbox": 2.0}
"""Seconds after its beginning within which an operation is hit."""
UP = ("running", "paused")


def _run(daemon: Daemon, runtime: str, name: str) -> list[str]:
    return ["run", "-d", "--name", name, "--runtime", runtime, "-p", "80", "-v", f"{name}:/data", "busybox", "sleep", "1000"]


def _operations(daemon: Daemon, runtime: str, name: str) -> list[tuple[str, ...]]:
    """Each is the argv whose course gets cut; instances it needs are made before."""
    return [
        tuple(_run(daemon, runtime, name)),
        ("run", "--rm", "--runtime", runtime, "--name", name, "busybox", "sh", "-c", "echo hello; sleep 0.2"),
        ("create", "--runtime", runtime, "--name", name, "-v", "/anonymous", "busybox", "true"),
        ("stop", "-t", "1", f"{name}-made"),
        ("restart", "-t", "1", f"{name}-made"),
        ("rm", "-f", "-v", f"{name}-made"),
        ("kill", f"{name}-made"),
        ("exec", f"{name}-made", "sh", "-c", "sleep 0.3"),
        ("pause", f"{name}-made"),
        ("network", "create", f"net-{name}"),
    ]


def _need(daemon: Daemon, runtime: str, operation: tuple[str, ...]) -> None:
    if operation[-1].endswith("-made") or operation[0] == "exec":
        name = operation[1] if operation[0] == "exec" else operation[-1]
        daemon.cli(*_run(daemon, runtime, name))


def _views(daemon: Daemon) -> dict[str, dict[str, object]]:
    lines = daemon.cli("ps", "-a", "--format", "json").text
    rows = json.loads(lines) if lines.startswith("[") else [json.loads(line) for line in lines.splitlines()]
    return {row.get("name") or row["Names"]: row for row in rows}


def _inspect(daemon: Daemon, name: str) -> dict[str, object]:
    found = json.loads(daemon.cli("inspect", name).text)
    return found[0] if isinstance(found, list) else found


def _processes(daemon: Daemon, instance_id: str) -> list[str]:
    """Processes that carry the instance's id."""
    return [str(leak) for leak in leaks.snapshot(daemon.home) if leak.kind == "process" and instance_id[:12] in leak.detail]


def _check_states(daemon: Daemon) -> None:
    """`ps` and the machine agree, soon."""
    for name in _views(daemon):
        view = _inspect(daemon, name)
        identity, up = str(view["id"]), view["state"] in UP
        _eventually(lambda identity=identity, up=up: bool(_processes(daemon, identity)) == up, f"{name} is {view['state']}")  # type: ignore[misc]
        if view["state"] == "running":
            assert daemon.cli("exec", name, "true", check=False).code == 0, f"{name} is running, and exec fails"


def _eventually(holds: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def _clear(daemon: Daemon, keep: str) -> None:
    for name, view in _views(daemon).items():
        if name != keep:
            if view.get("state", view.get("State")) == "paused":
                daemon.cli("unpause", name, check=False)
            daemon.cli("rm", "-f", "-v", name)
    for kind in ("volume", "network"):
        for name in daemon.cli(kind, "ls", "-q").lines:
            daemon.cli(kind, "rm", name, check=False)


def _is_daemon(leak: leaks.Leak) -> bool:
    """It is another process after each round, and its socket has another name."""
    if leak.kind == "process":
        return leak.detail.endswith("twinhull daemon")
    return leak.kind == "socket" and "/run/twinhull.sock." in leak.name


@pytest.mark.timeout(1500)
def test_killed_at_any_point(own_daemon: Daemon, runtime: str) -> None:
    chance = random.Random(f"{SEED} {runtime}")
    daemon = own_daemon
    daemon.start()
    daemon.cli("image", "load", "-i", str(archive("busybox")))
    daemon.cli("run", "-d", "--name", "survivor", "--runtime", runtime, "busybox", "ping", "127.0.0.1")
    boot = daemon.cli("exec", "survivor", "cat", "/proc/1/stat").text.split()[21]
    before = leaks.snapshot(daemon.home)
    for number in range(ROUNDS[runtime]):
        operation = chance.choice(_operations(daemon, runtime, f"r{number}"))
        _need(daemon, runtime, operation)
        delay = chance.uniform(0, LONGEST[runtime])
        with daemon.popen(*operation, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as cut:
            with contextlib.suppress(subprocess.TimeoutExpired):
                cut.wait(delay)
            daemon.kill()
            cut.wait(30)
        daemon.start()
        where = f"round {number} (seed {SEED}): {' '.join(operation)} cut after {delay:.3f} s"
        try:
            assert daemon.cli("exec", "survivor", "cat", "/proc/1/stat").text.split()[21] == boot
            _check_states(daemon)
            _clear(daemon, "survivor")
            leaks.assert_clean(daemon.home, before, ignore=_is_daemon)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}\n{daemon.log_tail()}") from error
    sequence = [int(line.partition("seq=")[2].split()[0]) for line in daemon.cli("logs", "survivor").lines if "seq=" in line]
    assert sequence == list(range(len(sequence)))
    assert len(sequence) > ROUNDS[runtime]
    daemon.cli("rm", "-f", "survivor")
    daemon.stop(everything=True)
    leaks.assert_clean(daemon.home)


def test_a_paused_instance_waits_for_the_next_daemon(own_daemon: Daemon, runtime: str) -> None:
    """And one that was paused without anybody having written it down runs again."""
    daemon = own_daemon
    daemon.start()
    daemon.cli("image", "load", "-i", str(archive("busybox")))
    daemon.cli("run", "-d", "--name", "still", "--runtime", runtime, "busybox", "sleep", "1000")
    daemon.cli("pause", "still")
    daemon.kill()
    daemon.start()
    assert _inspect(daemon, "still")["state"] == "paused"
    assert b"paused" in daemon.cli("exec", "still", "true", check=False).err
    daemon.cli("unpause", "still")
    daemon.cli("exec", "still", "true")
    daemon.cli("pause", "still")
    daemon.kill()
    with contextlib.closing(sqlite3.connect(daemon.home.state / "twinhull.db")) as database, database:
        assert database.execute("UPDATE instances SET state = 'running'").rowcount == 1
    daemon.start()
    assert _inspect(daemon, "still")["state"] == "running"
    daemon.cli("exec", "still", "true")
    daemon.cli("rm", "-f", "still")
    daemon.stop(everything=True)
    leaks.assert_clean(daemon.home)
