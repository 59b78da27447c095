"""Where a run happens: a network and a mount namespace of its own, a scratch folder, and daemons with homes of their own.

Called by `__main__`; nothing of it is there when `scratch` ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhull import home as homes
from twinhull.client import Client
from twinhull.home import Home
from twinhull.sys import namespaces

PROGRAM = str(Path(sys.executable).with_name("twinhull"))


def isolate() -> None:
    """A network namespace with nothing but loopback, and cgroups as crun wants them."""
    namespaces.unshare(namespaces.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    namespaces.prepare_daemon_namespace()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a short name: a UNIX socket's path may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that answers."""

    home: Home

    @property
    def environment(self) -> dict[str, str]:
        """For its command line."""
        return os.environ | {"TWINHULL_HOME": str(self.home.state.parent)}

    def client(self) -> Client:
        """A client of one's own: one isn't for several threads."""
        return Client(f"unix://{self.home.socket}")

    def run(self, *words: str) -> None:
        """A command that must succeed."""
        done = subprocess.run([PROGRAM, *words], env=self.environment, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"twinhull {' '.join(words)}: {done.stderr.decode(errors='replace')[-500:]}")

    @property
    def pid(self) -> int:
        """Who answers on its socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.home.socket))
            return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


@contextlib.contextmanager
def daemon(folder: Path, images: Sequence[Path], config: str = "") -> Iterator[Daemon]:
    """Start one with these images; it ends with all it runs. `config`: the text of its config.toml."""
    home = homes.at(folder)
    home.config.mkdir(parents=True)
    (home.config / "config.toml").write_text(config)
    made = Daemon(home)
    made.run("daemon", "--detach")
    try:
        for image in images:
            made.run("load", "-i", str(image))
        yield made
    finally:
        made.run("daemon", "stop", "--all")


def memory(pid: int, field: str) -> float:
    """MB of a field of smaps_rollup: Pss, Anonymous …"""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{field}:")) / 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
