"""What the host does at an instance's request or on its files: exec, cp, volumes, images. Each is an invitation to follow a link."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.instance import PYTHON, Instance, Maker, volume
from tests.conformance.terminal import Terminal
from tests.escape.host import Host, Witness
from tests.harness import Daemon
from tests.images.archive import Layer, docker_archive, layer

SWAP = """
import ctypes, os, sys
a, b = (path.encode() for path in sys.argv[1:3])
renameat2 = ctypes.CDLL(None).renameat2
print("ready", flush=True)
while not os.path.exists(sys.argv[3]):
    for _ in range(1000): renameat2(-100, a, -100, b, 2)  # RENAME_EXCHANGE
"""
PUSH = """
import fcntl
try:
    for character in b"touch /tmp/pushed\\n": fcntl.ioctl(0, 0x5412, bytes([character]))
except OSError as error: print(error)
print("done")
"""


@contextlib.contextmanager
def swapping(instance: Instance, one: str, other: str) -> Iterator[None]:
    """Two names inside change places as fast as can be."""
    argv = ["exec", instance.name, "python3", "-c", SWAP, one, other, "/tmp/stop"]
    process = instance.daemon.popen(*argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        instance.sh("touch /tmp/stop")
        process.communicate(timeout=60)
        instance.sh("rm /tmp/stop")


@pytest.fixture(autouse=True)
def witness(host: Host) -> Iterator[None]:
    """After each of these the host is as it was."""
    before = Witness(host)
    yield
    assert before.changes() == {}


@pytest.mark.parametrize("number", [3, 5, 7, 8, 9, 10, 12, 16])
def test_no_descriptor_of_the_host_is_a_working_folder(box: Instance, host: Host, number: int) -> None:
    """CVE-2024-21626: the runtime kept a folder of the host open, and -w led there."""
    box.sh(f"ln -sfn /proc/self/fd/{number} /tmp/wd")
    for folder in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/..", f"/proc/thread-self/fd/{number}", "/tmp/wd"):
        done = box.exec("cat", f"../../../../../..{host.canary_path}", flags=["-w", folder], check=False)
        assert host.canary.encode() not in done.out
        assert done.code != 0


def test_no_descriptor_of_the_host_is_a_new_instances_working_folder(make: Maker, host: Host) -> None:
    for number in (7, 8) if make.runtime == "container" else (8,):
        done = make.foreground("-w", f"/proc/self/fd/{number}", command=["cat", f"../../../../../..{host.canary_path}"], check=False)
        assert host.canary.encode() not in done.out + done.err


def test_an_exec_of_the_runtimes_own_program_changes_nothing(box: Instance) -> None:
    """CVE-2019-5736: a program that is a link to /proc/self/exe makes the runtime execute itself inside, where it can be written to."""
    watcher = (
        "import os, time\n"
        "end = time.monotonic() + 4\n"
        "while time.monotonic() < end:\n"
        "  for name in os.listdir('/proc'):\n"
        "    if not name.isdigit(): continue\n"
        "    try:\n"
        "      exe = os.readlink(f'/proc/{name}/exe')\n"
        "      if exe.startswith(('/usr/bin/', '/bin/', '/tmp/')): continue\n"
        "      held = os.open(f'/proc/{name}/exe', os.O_RDONLY)\n"
        "    except OSError: continue\n"
        "    for _ in range(200):\n"
        "      try:\n"
        "        os.write(os.open(f'/proc/self/fd/{held}', os.O_WRONLY), b''); print('OPENED', exe, flush=True)\n"
        "      except OSError: pass\n"
        "    os.close(held)\n"
    )
    box.sh("ln -sf /proc/self/exe /tmp/evil; printf '#!/proc/self/exe\\n' >/tmp/evil2; chmod 755 /tmp/evil2")
    process = box.daemon.popen("exec", box.name, "python3", "-c", watcher, stdout=subprocess.PIPE)
    while process.poll() is None:
        for program in ("/tmp/evil", "/tmp/evil2", "/proc/self/exe"):
            box.exec(program, check=False)
    assert process.communicate()[0] == b""
    assert box.sh("echo alive") == "alive"


def test_a_copy_out_of_a_changing_tree_stays_in_its_target(box: Instance, host: Host, tmp_path: Path) -> None:
    box.sh(f"mkdir -p /srv/race/d && echo planted >/srv/race/d/planted && ln -sfn {host.shared} /srv/race/l && echo x >/srv/race/f")
    box.daemon.cli("cp", f"{box.name}:/srv/race", str(tmp_path / "before"))
    with swapping(box, "/srv/race/d", "/srv/race/l"):
        for number in range(8):
            box.daemon.cli("cp", f"{box.name}:/srv/race", str(tmp_path / str(number)), check=False)
            box.daemon.cli("cp", "-L", f"{box.name}:/srv/race/d", str(tmp_path / f"l{number}"), check=False)
    copied = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {path.name for path in copied} <= {"planted", "f"}
    assert sorted(path.name for path in host.shared.iterdir()) == ["kept"]
    box.sh("rm -r /srv/race")


def test_a_copy_into_a_changing_tree_stays_inside(box: Instance, host: Host, tmp_path: Path) -> None:
    (tmp_path / "planted").write_text("by a copy")
    box.sh(f"mkdir -p /srv/race/d && ln -sfn {'../' * 20}{host.shared} /srv/race/l")
    with swapping(box, "/srv/race/d", "/srv/race/l"):
        for _ in range(12):
            box.daemon.cli("cp", str(tmp_path / "planted"), f"{box.name}:/srv/race/d/planted", check=False)
    assert sorted(path.name for path in host.shared.iterdir()) == ["kept"]
    box.sh("rm -r /srv/race")


def test_a_volumes_subfolder_that_becomes_a_link_leads_nowhere(daemon: Daemon, make: Maker, host: Host) -> None:
    """Who has the volume exchanges the subfolder for a link to the host's files between look-up and mount (CVE-2021-30465)."""
    attackers = Maker(daemon, "container")
    with volume(daemon, f"raced-{make.runtime}") as name:
        attacker = attackers("-v", f"{name}:/v", image=PYTHON)
        attacker.sh(f"mkdir -p /v/a/x /v/b/x && touch /v/a/x/own /v/b/x/own && ln -s {host.shared} /v/a/link && ln -s {host.folder} /v/way")
        flags = ["--mount", f"type=volume,source={name},target=/m,volume-subpath=%s"]
        shown = []
        for one, other, subpath in (("/v/a/x", "/v/a/link", "a/x"), ("/v/b", "/v/way", "b/x")):
            with swapping(attacker, one, other):
                for _ in range(25 if make.runtime == "container" else 3):
                    done = make.foreground(flags[0], flags[1] % subpath, command=["ls", "/m"], check=False)
                    shown.append(done.text)
        attackers.clear()
    assert "kept" not in " ".join(shown), f"{sum('kept' in text for text in shown)} of {len(shown)} starts saw the host's folder"


def test_an_image_whose_files_are_links_to_the_host(daemon: Daemon, make: Maker, host: Host, tmp_path: Path) -> None:
    """Everything that the host mounts over, reads from or fills out of an image is a link out of it."""

    def fill(new: Layer) -> None:
        for target in ("etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/machine-id"):
            new.symlink(target, f"{'../' * 20}{str(host.shared)[1:]}/kept")
        for target, where in (
            ("data", str(host.folder)),
            ("sub", "../../../../.." + str(host.folder)),
            ("dev", str(host.folder)),
            ("proc", "/tmp"),
        ):
            new.symlink(target, where)
        new.symlink("run", str(host.folder))

    from tests.images import base

    path, tag = tmp_path / "evil.tar", f"localhost/evil-{make.runtime}:1"
    bottom = layer(base._fill_busybox)
    top = layer(lambda new: ([new.add(f".wh.{name}") for name in ("dev", "proc", "run")], fill(new))[1])
    docker_archive(path, [tag], [bottom, top], {"Env": [base.PATH], "Cmd": ["sh"]})
    daemon.cli("image", "load", "-i", str(path))
    with volume(daemon, f"evil-{make.runtime}") as name:
        flags = ["-v", f"{name}:/data", "-v", "/sub/deep", "-w", "/sub/new", "--tmpfs", "/data/tmp"]
        done = make.foreground(*flags, image=tag, command=["sh", "-c", "ls /data /sub/deep; cat /etc/hosts /etc/resolv.conf"], check=False)
        assert host.canary.encode() not in done.out + done.err
        assert b"as it was" not in done.out
        assert "canary" not in done.text
        stored = daemon.cli("volume", "inspect", name).out
        folder = Path(json.loads(stored)[0]["mountpoint"])
        stored_files = [path for path in folder.rglob("*") if path.is_file()]
        assert [path for path in stored_files if path.name.startswith("canary") or b"as it was" in path.read_bytes()] == []
    daemon.cli("image", "rm", "-f", tag)


def test_users_are_looked_up_inside_only(box: Instance, host: Host) -> None:
    box.sh(f"cp /etc/passwd /tmp/passwd; ln -sf {'../' * 20}{host.canary_path} /etc/passwd")
    try:
        assert box.exec("id", "-u", flags=["-u", host.canary], check=False).code != 0
    finally:
        box.sh("mv -f /tmp/passwd /etc/passwd")


def test_a_terminals_input_is_the_instances_own(daemon: Daemon, box: Instance) -> None:
    """TIOCSTI puts characters into a terminal's input: it must be that of the instance, which ends with it, not the user's shell's."""
    with Terminal(daemon, "exec", "-it", box.name, "python3", "-c", PUSH) as terminal:
        terminal.expect("done")
        assert terminal.wait() == 0
        waiting = _input_waiting(terminal)
    assert waiting == 0
    assert not Path("/tmp/pushed").exists()


def _input_waiting(terminal: Terminal) -> int:
    """Bytes that a shell on the user's terminal would read next."""
    number = struct.unpack("I", fcntl.ioctl(terminal.master, 0x80045430, bytes(4)))[0]  # TIOCGPTN
    name = f"/dev/pts/{number}"
    side = os.open(name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        return int(struct.unpack("i", fcntl.ioctl(side, termios.FIONREAD, bytes(4)))[0])
    finally:
        os.close(side)
