"""kill -9 of the daemon while guests are parked, claimed, saved and resumed: the instance is right afterwards, and nothing is left.

Each round cuts one start at another moment. What waits, what is half-saved and what was half-claimed belongs to nobody then: the next
daemon ends it. TWINHULL_KILL_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time

import pytest
from tests import leaks
from tests.harness import Daemon
from tests.images.base import archive

SEED = int(os.environ.get("TWINHULL_KILL_SEED", "20261124"))
ROUNDS = 6
LONGEST = 3.0
"""Seconds after the beginning of a start within which the daemon is killed: parking and saving go on in the background meanwhile."""


def _allow(daemon: Daemon, parked: int) -> None:
    daemon.home.config.mkdir(parents=True, exist_ok=True)
    (daemon.home.config / "config.toml").write_text(f"[vm]\nparked = {parked}\n")


def _start(name: str) -> list[str]:
    server = ["httpd", "-f", "-p", "80", "-h", "/etc"]
    return ["run", "-d", "--name", name, "--runtime", "vm", "--memory", "96m", "--snapshot", "app", "-p", "80", "busybox", *server]


def _is_known(leak: leaks.Leak) -> bool:
    """The daemon itself, which is another process after each round, and the empty group that its instances' groups were in."""
    if leak.kind == "process":
        return leak.detail.endswith("twinhull daemon")
    if leak.kind == "cgroup":
        return "/" not in leak.name.partition("/twinhull-")[2]
    return leak.kind == "socket" and "/run/twinhull.sock." in leak.name


@pytest.mark.timeout(600)
def test_killed_among_guests_that_wait(own_daemon: Daemon) -> None:
    chance = random.Random(SEED)
    daemon = own_daemon
    _allow(daemon, 0)
    daemon.start()
    daemon.cli("image", "load", "-i", str(archive("busybox")))
    before = leaks.snapshot(daemon.home)
    daemon.kill()
    _allow(daemon, 1)
    daemon.start()
    for number in range(ROUNDS):
        delay = chance.uniform(0, LONGEST)
        with daemon.popen(*_start(f"r{number}"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as cut:
            time.sleep(delay)  # the moment is what the test is about
            daemon.kill()
            cut.wait(30)
        daemon.start()
        where = f"round {number} (seed {SEED}), killed after {delay:.3f} s"
        for view in json.loads(daemon.cli("ps", "-a", "--format", "json").text or "[]"):
            name = view.get("name") or view["Names"]
            if json.loads(daemon.cli("inspect", name).text)[0]["state"] == "running":
                assert daemon.cli("exec", name, "hostname", check=False).code == 0, where
            daemon.cli("rm", "-f", name)
    for name in ("last", "first"):
        daemon.cli(*_start(name), timeout=180)
        assert daemon.cli("exec", name, "true").code == 0
    assert daemon.cli("snapshot", "ls").code == 0
    daemon.cli("rm", "-f", "last", "first")
    daemon.kill()
    _allow(daemon, 0)
    daemon.start()
    leaks.assert_clean(daemon.home, before, ignore=_is_known, timeout=30)
    assert list((daemon.home.state / "parked").glob("*")) == []
    assert list((daemon.home.state / "snapshots").glob(".*")) == []
    daemon.stop(everything=True)
    leaks.assert_clean(daemon.home)
