"""Whether clones of one snapshot are told apart: 200 instances that went on from the same application, all there at once, compared.

    .venv/bin/python -m bench.clones [--count 200] [--at-once 10]

Each is paused once it has told what it is: so many emulated guests would leave no CPU to the next. Prints for random bytes, boot id,
machine id, hostname, MAC and address how many there are twice, and how far the clocks are from this machine's (the least of five readings:
what is late is the reading, not the clock). Exit status 1 if anything is there twice or a clock is more than 10 ms off.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import subprocess
import sys
import time

from tests.images.base import archive

from bench import world
from twinhull.spec.instance import InstanceSpec, PortMapping, Resources, Runtime

_IMAGE = "localhost/debian-python:bookworm"
_SERVER = ("python3", "-c", "import http.server as h; h.HTTPServer(('', 80), h.SimpleHTTPRequestHandler).serve_forever()")
_LOOK = """
import os
print(os.urandom(16).hex())
for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id", "/etc/hostname", "/sys/class/net/eth0/address"):
    print(open(path).read().strip())
"""
_CLOCK = "import time, sys\nfor _ in sys.stdin: print(time.time(), flush=True)"
_FIELDS = ("random bytes", "boot id", "machine id", "hostname", "MAC", "address")
_TOLERANCE = 0.010


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=10)
    options = parser.parse_args()
    world.isolate()
    with world.scratch() as folder, world.daemon(folder / "h", [archive("debian-python")], "[vm]\nparked = 0\n") as daemon:
        _warm(daemon)
        with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
            found = list(pool.map(lambda number: _clone(daemon, number), range(options.count)))
        resumed = daemon.client().info()["vm_snapshots"]
    return _report(found, resumed)


def _spec(name: str) -> InstanceSpec:
    ports = (PortMapping(80, 0),)
    return InstanceSpec(
        _IMAGE, name=name, runtime=Runtime.VM, command=_SERVER, ports=ports, resources=Resources(memory=128 << 20), snapshot="app"
    )


def _warm(daemon: world.Daemon) -> None:
    client = daemon.client()
    client.create(_spec("warm"), start=True)
    while not client.snapshots():
        time.sleep(0.2)
    client.remove("warm", force=True)


def _clone(daemon: world.Daemon, number: int) -> tuple[tuple[str, ...], float]:
    """What a clone says of itself, with its address; and how far its clock is off, in seconds."""
    client, name = daemon.client(), f"clone{number}"
    view = client.create(_spec(name), start=True)
    told = _exec(daemon, name, "python3", "-c", _LOOK).splitlines()
    off = _clock(daemon, name)
    client.pause(name)
    print(f"clone {number + 1}", end="\r", flush=True)
    return (*told, view.addresses[0].address), off


def _exec(daemon: world.Daemon, *words: str) -> str:
    argv = [world.PROGRAM, "exec", *words]
    return subprocess.run(argv, env=daemon.environment, capture_output=True, check=True, text=True).stdout


def _clock(daemon: world.Daemon, name: str) -> float:
    """Seconds by which the guest's clock is outside of the time in which it was read; the best of five readings."""
    argv = [world.PROGRAM, "exec", "-i", name, "python3", "-c", _CLOCK]
    off = []
    with subprocess.Popen(argv, env=daemon.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as asked:
        assert asked.stdin is not None
        assert asked.stdout is not None
        for _ in range(5):
            before = time.time()
            asked.stdin.write("\n")
            said = float(asked.stdout.readline())
            off.append(max(before - said, said - time.time(), 0.0))
        asked.stdin.close()
    return min(off)


def _report(found: list[tuple[tuple[str, ...], float]], resumed: object) -> int:
    bad = 0
    for field, values in zip(_FIELDS, zip(*(told for told, _ in found), strict=True), strict=True):
        twice = len(values) - len(set(values))
        bad += twice
        print(f"{field:14}{len(values):6} clones {twice:6} twice")
    worst = max(off for _, off in found)
    print(f"{'clock':14}{len(found):6} clones {worst * 1000:6.1f} ms off at worst")
    print(f"snapshots: {resumed}")
    return int(bad > 0 or worst > _TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
