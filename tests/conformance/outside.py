"""The world outside of the machine: a network namespace behind a cable to the daemon's, where clients and servers of the tests are.

198.51.100.1 is the daemon's machine, 198.51.100.2 is outside. Addresses of RFC 5737, so they are nobody's.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from tests.harness import Daemon, Netns

MACHINE, WORLD = "198.51.100.1", "198.51.100.2"


class Outside:
    """One per daemon. The machine's default route leads here, as a real one's leads to the internet."""

    def __init__(self, daemon: Daemon) -> None:
        self.net = Netns()
        machine = daemon.net
        machine.run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1")
        machine.adopt("out1", self.net)
        machine.run("ip", "address", "add", f"{MACHINE}/24", "dev", "out0")
        machine.run("ip", "link", "set", "out0", "up")
        self.net.run("ip", "address", "add", f"{WORLD}/24", "dev", "out1")
        self.net.run("ip", "link", "set", "out1", "up")
        machine.run("ip", "route", "add", "default", "via", WORLD)
        # Whoever is asked for out there refuses at once: silence would cost every look-up of a name its time-out.
        self.net.run("ip", "route", "add", "local", "default", "dev", "lo")

    def python(self, script: str, *argv: str, **options: Any) -> str:
        """A script's output, run outside."""
        return self.net.run(sys.executable, "-c", script, *argv, **options).text

    def start(self, script: str, *argv: str) -> subprocess.Popen[bytes]:
        """A script outside that goes on, after its first line, "ready"; the caller ends it and waits for it."""
        process = self.net.popen(sys.executable, "-c", script, *argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    def close(self) -> None:
        """The cable goes with the namespace."""
        self.net.close()
