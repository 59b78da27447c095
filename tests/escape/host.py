"""The host's side: what an escape would change, and the canary that it would read.

`Witness` compares the host before and after; what other programs on the machine change by themselves isn't looked at.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.harness import Daemon

from twinhull.compare.probes.table import Place

SETTINGS = (
    *("kernel/core_pattern", "kernel/modprobe", "kernel/hotplug", "kernel/poweroff_cmd", "kernel/hostname", "kernel/domainname"),
    *("kernel/panic", "kernel/sysrq", "kernel/randomize_va_space", "kernel/printk", "kernel/perf_event_paranoid", "kernel/kptr_restrict"),
    *("kernel/dmesg_restrict", "kernel/kexec_load_disabled", "kernel/modules_disabled", "kernel/unprivileged_bpf_disabled"),
    *("vm/overcommit_memory", "vm/swappiness", "fs/file-max", "fs/suid_dumpable", "fs/protected_symlinks", "fs/protected_hardlinks"),
)
_FILES = (
    "/proc/modules",
    "/proc/swaps",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/kexec_loaded",
    "/sys/kernel/mm/transparent_hugepage/enabled",
)
_PROGRAMS = ("crun", "conmon", "runsc", "qemu-system-x86_64")
_CLOCK_SLACK = 0.25
"""Seconds that the clock may be adjusted by others in a test's time."""
_LISTENER = """
import socket, sys
made = []
for name in sys.argv[1:]:
    s = socket.socket(socket.AF_UNIX); s.bind("\\0" + name[1:] if name[0] == "@" else name); s.listen(); made.append(s)
print("ready", flush=True)
sys.stdin.read()
"""


class Host:
    """A canary, a process and sockets of the host that nothing inside may reach."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.folder = Path(tempfile.mkdtemp(prefix="th-escape-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.canary = secrets.token_hex(16)
        self.canary_path = self.folder / f"canary-{secrets.token_hex(4)}"
        self.canary_path.write_text(self.canary)
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        (self.shared / "kept").write_text("as it was")
        self.programs = _programs()
        self.sockets = (str(self.folder / "host.sock"), f"@escape-{secrets.token_hex(4)}")
        self._listener = daemon.net.popen(sys.executable, "-c", _LISTENER, *self.sockets, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._listener.stdout is not None
        assert self._listener.stdout.readline() == b"ready\n"

    def place(self, read_only: str = "") -> Place:
        """What the probes are told."""
        device = os.stat("/").st_dev
        return Place(
            canary_path=str(self.canary_path),
            canary=self.canary,
            pid=self._listener.pid,
            disk=f"{os.major(device)}:{os.minor(device)}",
            sockets=(*self.sockets, str(self.daemon.home.socket)),
            read_only=read_only,
        )

    def answers(self) -> bool:
        """Whether the listener is there for those who may: so that a refusal inside isn't its absence."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.sockets[0])
        return self._listener.poll() is None

    def close(self) -> None:
        """End the process, remove the files."""
        self._listener.communicate()
        for descriptor in self.programs:
            os.close(descriptor)
        shutil.rmtree(self.folder)


class Witness:
    """The host at one moment."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._before = _state(host)
        self._clock = _offset()

    def changes(self) -> dict[str, tuple[str, str]]:
        """What is different now: name → (before, after)."""
        after = _state(self._host)
        found = {key: (self._before.get(key, ""), after.get(key, "")) for key in self._before.keys() | after.keys()}
        different = {key: pair for key, pair in found.items() if pair[0] != pair[1]}
        drift = abs(_offset() - self._clock)
        return different | ({"clock": ("0", f"{drift:.3f} s")} if drift > _CLOCK_SLACK else {})


def _state(host: Host) -> dict[str, str]:
    names = [f"/proc/sys/{name}" for name in SETTINGS] + list(_FILES)
    found = {name: _text(Path(name)) for name in names}
    found |= {str(path): _text(path) for path in Path("/sys/fs/cgroup").glob("*/release_agent")}
    found |= {f"program {number}": _digest(Path(f"/proc/self/fd/{number}")) for number in host.programs}
    found |= {f"file {path}": f"{_digest(path)} {path.lstat().st_mode:o}" for path in host.folder.rglob("*")}
    found["/dev"] = " ".join(sorted(name for name in os.listdir("/dev") if not name.startswith(("loop", "pts"))))
    found |= {f"/dev/{name}": _owner_and_mode(Path("/dev", name)) for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx")}
    found["mounts on the canary"] = "".join(line for line in _text(Path("/proc/mounts")).splitlines() if str(host.folder) in line)
    found["keys"] = str(_text(Path("/proc/keys")).count("twinhull-escape"))
    found["hostname"] = socket.gethostname()
    return found


def _programs() -> list[int]:
    """Descriptors of what the hulls run on the host, so that what is looked at again is the same file, whatever has its name by then."""
    from twinhull import home

    paths = [path for name in _PROGRAMS if (path := shutil.which(name))]
    return [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in (*paths, home.assets() / "agent")]


def _offset() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def _owner_and_mode(path: Path) -> str:
    """Once it is root's again: while another test's container is being made, crun has given it away for a moment (instance/host.py)."""
    deadline = time.monotonic() + 5
    while (status := path.stat()).st_uid != 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    return f"{status.st_uid}:{status.st_gid} {status.st_mode:o}"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        return f"({error.strerror})"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
