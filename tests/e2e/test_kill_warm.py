"""kill -9 of the daemon while guests are parked, claimed, saved and resumed: the instance is right afterwards, and nothing is left.

Each round cuts one start at another moment. What waits, what is half-saved and what was half-claimed belongs to nobody then: the next
daemon ends it. TWINHULL_KILL_SEED repeats a run. A workload that stood still for its snapshot goes on.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

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


def _stands_still(daemon: Daemon, run: Path) -> bool:
    return bool(json.loads((run / "machine.json").read_text())["capturing"])


def _is_written(daemon: Daemon, run: Path) -> bool:
    """The guest has been saved, its volumes are unmounted; its disk is being copied."""
    return _stands_still(daemon, run) and any((daemon.home.state / "snapshots").glob(".disk-*"))


def _is_converted(daemon: Daemon, run: Path) -> bool:
    return any(daemon.home.run.glob("snapshot-*"))


MOMENTS = {_stands_still: True, _is_written: True, _is_converted: False}
"""When the daemon is killed, and whether the workload stands still then."""


@pytest.mark.timeout(300)
def test_killed_while_a_workload_stands_still_for_its_snapshot(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon = own_daemon
    daemon.start()
    daemon.cli("image", "load", "-i", str(archive("busybox")))
    (tmp_path / "key").write_text("hush")
    words = ["--snapshot", "app", "--snapshot-reconnect", "-v", "data:/data", "--secret", f"{tmp_path}/key"]
    server = "echo kept > /data/page; exec httpd -f -p 80 -h /"
    daemon.cli("run", "-d", "--name", "web", "--runtime", "vm", "--memory", "96m", *words, "busybox", "sh", "-c", server)
    view = json.loads(daemon.cli("inspect", "web").text)[0]
    run, [place] = daemon.home.instance_run(view["id"]), view["addresses"]
    url = f"http://{place['address'].partition('/')[0]}/data/page"
    boot = daemon.cli("exec", "web", "cat", "/proc/1/stat").text.split()[21]
    for moment, still in MOMENTS.items():
        with daemon.popen("snapshot", "create", "web", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cut:
            while not moment(daemon, run):
                assert cut.poll() is None, f"{moment.__name__} was missed"
            daemon.kill()
            cut.wait(30)
        assert _stands_still(daemon, run) is still, f"killed too late for {moment.__name__}"
        daemon.start()
        page = daemon.net.run("curl", "-sS", "-m", "30", url).text
        found = daemon.cli("exec", "web", "sh", "-c", "cat /run/secrets/key; cut -d ' ' -f 22 /proc/1/stat").text
        assert (page, found) == ("kept", f"hush{boot}"), f"{moment.__name__}\n{daemon.log_tail()}"
        assert not _stands_still(daemon, run)
        assert not [*(daemon.home.state / "snapshots").glob(".*"), *daemon.home.run.glob("snapshot-*")]
    daemon.cli("snapshot", "create", "web")
    assert len(daemon.cli("snapshot", "ls", "-q").lines) == 1
    daemon.cli("rm", "-f", "web")
    daemon.stop(everything=True)
    leaks.assert_clean(daemon.home)
