"""A guest that has its kernel in hand, and a workload that fills a volume with what a host doesn't expect."""

from __future__ import annotations

import json
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.instance import PYTHON, Instance, Maker, volume
from tests.escape.host import Host
from tests.escape.test_output import CONTROL, ROOM, found, peak, reset_peak
from tests.harness import Daemon

ODD = r"""
import os, socket, stat, sys
os.chdir("/data"); host = sys.argv[1]
names = [b"n" * 255, b"new\nline", b"\xff\xfe", b"...", b" .. ", b"-rf", b"\x1b]0;owned\x07", b"\\..\\..", b"%s%n", b"$(touch owned)"]
for name in names: open(name, "wb").write(b"x")
def attempt(act, *arguments):
    try: act(*arguments); print(act.__name__, arguments[0])
    except OSError: pass
for number, target in enumerate([host, host + "/shared", "../" * 40 + host, "/", "..", "/proc/self/root", "/dev/sda"]):
    os.symlink(target, f"link{number}")
os.link(names[0], "hard"); attempt(os.mkfifo, "fifo")
attempt(lambda path: socket.socket(socket.AF_UNIX).bind(path), "socket")
for kind, number in ((stat.S_IFBLK, os.makedev(254, 0)), (stat.S_IFCHR, os.makedev(1, 1)), (stat.S_IFCHR, os.makedev(1, 3))):
    attempt(os.mknod, f"device{number}", kind | 0o666, number)
    attempt(os.open, f"device{number}", os.O_RDONLY)
open("suid", "wb").write(b"#!/bin/sh\nid -u\n"); os.chmod("suid", 0o6777)
os.mkdir("deep"); at = os.open("deep", os.O_RDONLY)
try:
    for _ in range(600):  # longer than PATH_MAX, where the way to the volume can carry it
        os.mkdir("d" * 200, dir_fd=at); new = os.open("d" * 200, os.O_RDONLY, dir_fd=at); os.close(at); at = new
except OSError: pass
os.sync()
"""


def test_a_volume_full_of_traps_changes_nothing_on_the_host(make: Maker, daemon: Daemon, host: Host) -> None:
    with volume(daemon, f"odd-{make.runtime}") as name:
        make.foreground("-v", f"{name}:/data", image=PYTHON, command=["python3", "-c", ODD, str(host.folder)])
        data = Path(json.loads(daemon.cli("volume", "inspect", name).out)[0]["mountpoint"])
        modes = {path.name: path.lstat().st_mode for path in data.iterdir()}
        assert "n" * 255 in modes
        assert [path for path, mode in modes.items() if stat.S_ISBLK(mode) or stat.S_ISCHR(mode)] == []
        assert _closed_to_others(data, daemon.home.state), "anybody on the host could run a set-user-id file of the volume"
        assert found(daemon.cli("volume", "ls")) == found(daemon.cli("system", "df")) == []
        # a second instance gets it, its copies and its end: nothing follows a link of it
        make.foreground("-v", f"{name}:/data", command=["sh", "-c", "chmod -R 700 /data/link0 /data/..; rm -rf /data/link1/."], check=False)
        daemon.cli("volume", "rm", name)
        assert not data.exists()
    assert (host.shared / "kept").read_text() == "as it was"
    assert host.canary_path.read_text() == host.canary


def _closed_to_others(folder: Path, state: Path) -> bool:
    """Whether some folder from the state folder down can't be walked through: the files in a volume are root's on disk (CVE-2021-41091)."""
    way = [path for path in (folder, *folder.parents) if path.is_relative_to(state)]
    return any(path.stat().st_mode & 0o001 == 0 for path in way)


@pytest.mark.except_for("sandbox", "its kernel is a process of root without capabilities in an empty root")
def test_the_ways_to_the_host_are_not_the_workloads(box: Instance) -> None:
    """Neither the agent's port nor the serial console is there, nor can a node for them be opened (see the matrix's agent-port)."""
    assert box.sh("ls /dev | grep -E 'vport|hvc|ttyS|kmsg|mem|vd|console' || true") == ""
    assert box.sh("cat /proc/self/mountinfo | grep -c ' /dev .*nodev\\| /dev/' || true") != "0"


@pytest.fixture
def guest(daemon: Daemon, runtime: str) -> Iterator[Instance]:
    """Whose kernel is its own to break, with every capability."""
    maker = Maker(daemon, runtime)
    yield maker("--cap-add", "ALL", "--restart", "no", image=PYTHON)
    maker.clear()


FLOOD = r"""
import os, stat
os.makedirs("/tmp/d", exist_ok=True)
import ctypes; ctypes.CDLL(None).mount(b"x", b"/tmp/d", b"tmpfs", 0, None)
def device(name, major, minor):
    os.mknod(f"/tmp/d/{name}", stat.S_IFCHR | 0o600, os.makedev(major, minor))
    return os.open(f"/tmp/d/{name}", os.O_WRONLY | os.O_NOCTTY)
evil = b"\x1b]0;owned\x07\x1b[2J\xff\x9b31m\0\r" + bytes(range(256))
console = device("ttyS0", 4, 64)
for _ in range(1500): os.write(console, evil)
log = device("kmsg", 1, 11)
for n in range(3000): os.write(log, b"<0>flood \x1b]0;owned\x07 %d" % n)
print("flooded")
"""
PANIC = r"""
import os, ctypes
ctypes.CDLL(None).mount(b"x", b"/tmp/d", b"proc", 0, None)
os.write(os.open("/tmp/d/sysrq-trigger", os.O_WRONLY), b"c")
"""


@pytest.mark.except_for("sandbox", "its kernel is a process of root without capabilities in an empty root")
def test_a_guest_that_floods_its_console_and_dies_costs_nothing(daemon: Daemon, guest: Instance) -> None:
    """In a container the same script gets nowhere: it must not, for the kernel is the host's."""
    before = reset_peak(daemon)
    done = guest.exec("python3", "-c", FLOOD, check=False, timeout=120)
    if guest.runtime == "container":
        assert done.code != 0
        assert b"flooded" not in done.out
        return
    assert done.text.endswith("flooded"), str(done)
    assert guest.sh("echo alive") == "alive"
    guest.exec("python3", "-c", PANIC, check=False, timeout=60)
    view = guest.wait_state("exited", "dead", timeout=60)
    assert view["exit_code"] != 0
    assert peak(daemon) - before < ROOM
    past = ["events", "--since", str(view["created_at"]), "--until", str(time.time())]
    for argv in (["inspect", "--format", "{{json .}}", guest.name], ["ps", "-a"], past):
        assert "owned\x07" not in daemon.cli(*argv).text
    assert not re.search("\x1b", daemon.log.read_text(errors="replace"))
    assert CONTROL.findall(guest.act("start", check=False).err.decode()) == []


def test_the_state_of_a_home_is_its_owners_only(daemon: Daemon) -> None:
    """The database has environments and secrets; volumes and layers have programs with root's set-user-id bit."""
    assert daemon.home.images is not None
    for path in (daemon.home.state, daemon.home.images / "overlay", daemon.home.config, daemon.home.socket):
        assert path.stat().st_mode & 0o007 == 0, f"{path} is open to everybody"
