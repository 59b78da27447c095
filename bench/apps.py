"""examples/shop against docker-compose with the same images, in one run on one machine.

    .venv/bin/python -m bench.apps [--rounds 5] [--instances 20] [--seed 1] [--without vm] [--out build/bench]

Three measurements, each with its start and its end event:
  up       spawn of the CLI (`up -d`) → all eleven instances are healthy, images and daemons being there, volumes not
  scale    spawn of the CLI (`scale web=20`) → 20 instances of `web` are there, and each has answered an HTTP request at its own address
  memory   with those 20: the proportional set size of the daemon and of everything below it, hypervisor and workloads included

The peers: Debian's dockerd and docker-compose; Twinhull with containers only; Twinhull with `payment` as a VM, as the file says.
docker-compose 1.29 knows no `start_interval`: it gets that as `interval`, so that both engines look after health twice a second.
Everything runs in a network namespace and a mount namespace of its own. The order within each round is random (seeded). Prints n, medians
and ratios; writes the raw samples as CSV.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import http.client
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.images import shop

from bench.peers import Docker
from twinhull import home as homes
from twinhull.client import Client
from twinhull.sys import namespaces

PROGRAM = str(Path(sys.executable).with_name("twinhull"))
FILE = shop.SHOP / "compose.yaml"
APP = "shop"
PATIENCE = 300.0
"""Seconds in which each step must be over."""
_PAUSE = 0.02
_MARK = "TWINHULL_BENCH"
"""A variable in the environment of everything that this program starts."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance."""

    service: str
    healthy: bool
    address: str


class Command:
    """A running CLI; what it says is kept for the case that it fails."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (`end` closes it)
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(argv, env=os.environ | env, stdin=null, stdout=null, stderr=self._said)

    def end(self) -> None:
        """Wait. Raises RuntimeError if it failed."""
        with self._said as said:
            if status := self.process.wait(PATIENCE):
                said.seek(0)
                raise RuntimeError(f"{self.process.args!r}: {status}: {said.read()[-1000:].decode(errors='replace')}")


class Side(ABC):
    """One engine with the shop on it. `name` is what the table shows."""

    name = ""

    @abstractmethod
    def open(self) -> None:
        """Start the daemon and load the images."""

    @abstractmethod
    def close(self) -> None:
        """End it and remove everything."""

    @abstractmethod
    def seen(self) -> list[Seen]:
        """What is there now."""

    @abstractmethod
    def run(self, verb: str, *words: str) -> Command:
        """The CLI: up, scale (SERVICE=N) or down."""


class Compose(Side):
    """Debian's."""

    name = "docker-compose"

    def __init__(self, scratch: Path, archive: Path) -> None:
        self._engine = Docker(scratch, archive)
        self._socket = scratch / "docker" / "s"
        self._file = scratch / "docker.yaml"
        self._file.write_text(yaml.safe_dump(for_docker(yaml.safe_load(FILE.read_text()))))

    def open(self) -> None:
        self._engine.up()

    def close(self) -> None:
        self._engine.down()

    def seen(self) -> list[Seen]:
        with contextlib.closing(_UnixConnection(str(self._socket))) as connection:
            connection.request("GET", "/containers/json")
            rows = json.load(connection.getresponse())
        return [_from_docker(row) for row in rows]

    def run(self, verb: str, *words: str) -> Command:
        argv = ["docker-compose", "-p", APP, "-f", str(self._file), "--project-directory", str(shop.SHOP), "--compatibility"]
        argv += {"up": ["up", "-d"], "scale": ["up", "-d", "--no-recreate", "--scale", *words], "down": ["down", "-v", "-t", "1"]}[verb]
        return Command(argv, {"DOCKER_HOST": f"unix://{self._socket}"})


class Twinhull(Side):
    """This project. `runtime` is payment's."""

    def __init__(self, scratch: Path, archive: Path, runtime: str) -> None:
        self.name = f"twinhull, {'all containers' if runtime == 'container' else 'payment a VM'}"
        self._folder = scratch / f"h-{runtime}"
        self._archive = archive
        self._env = {"TWINHULL_HOME": str(self._folder)}
        self._override = scratch / f"{runtime}.yaml"
        self._override.write_text(yaml.safe_dump({"services": {"payment": {"runtime": runtime}}}))

    def open(self) -> None:
        self._folder.mkdir()
        Command([PROGRAM, "daemon", "--detach"], self._env).end()
        Command([PROGRAM, "load", "-i", str(self._archive)], self._env).end()
        self._client = Client(str(homes.at(self._folder).socket))

    def close(self) -> None:
        Command([PROGRAM, "daemon", "stop", "--all"], self._env).end()
        shutil.rmtree(self._folder)

    def seen(self) -> list[Seen]:
        if not any(app.name == APP for app in self._client.apps()):
            return []
        services = self._client.app(APP).services
        return [Seen(service.name, member.health == "healthy", member.address) for service in services for member in service.members]

    def run(self, verb: str, *words: str) -> Command:
        which = ["-f", str(FILE), "-f", str(self._override)]
        return Command([PROGRAM, verb, *which, *{"up": ["-d"], "scale": words, "down": ["-v"]}[verb]], self._env)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def for_docker(file: dict[str, Any]) -> dict[str, Any]:
    """The compose file without what docker-compose 1.29 doesn't know."""
    services = {}
    for name, service in file["services"].items():
        kept = {key: value for key, value in service.items() if key not in ("runtime", "build", "x-twinhull")}
        check = dict(kept["healthcheck"])
        check["interval"] = check.pop("start_interval")
        services[name] = kept | {"healthcheck": check}
    return {"version": "3.9", "services": services} | {key: file[key] for key in ("networks", "volumes", "secrets")}


def _from_docker(row: dict[str, Any]) -> Seen:
    addresses = [network["IPAddress"] for network in row["NetworkSettings"]["Networks"].values() if network["IPAddress"]]
    return Seen(row["Labels"]["com.docker.compose.service"], "(healthy)" in row["Status"], (addresses or [""])[0])


def up(side: Side) -> float:
    """Seconds."""
    return _timed(side, ("up",), lambda: len(seen := side.seen()) == expected() and all(one.healthy for one in seen))


def scale(side: Side, instances: int) -> float:
    """Seconds."""
    answered: set[str] = set()

    def holds() -> bool:
        addresses = {one.address for one in side.seen() if one.service == "web" and one.address}
        answered.update(address for address in addresses - answered if _answers(address))
        return len(addresses) == instances and addresses <= answered

    return _timed(side, ("scale", f"web={instances}"), holds)


def expected() -> int:
    """How many instances the file asks for."""
    services = yaml.safe_load(FILE.read_text())["services"].values()
    return sum(service.get("deploy", {}).get("replicas", 1) for service in services)


def _timed(side: Side, command: tuple[str, ...], holds: Callable[[], bool]) -> float:
    begin = time.perf_counter()
    running = side.run(*command)
    while not holds():
        if time.perf_counter() > begin + PATIENCE or running.process.poll():
            running.end()
            raise RuntimeError(f"{side.name}: {' '.join(command)}: not within {PATIENCE:g} s: {side.seen()}")
        time.sleep(_PAUSE)
    seconds = time.perf_counter() - begin
    running.end()
    return seconds


def _answers(address: str) -> bool:
    connection = http.client.HTTPConnection(address, 8000, timeout=1)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    return False


def memory(scratch: Path) -> int:
    """Bytes of all processes that a side has started: those with our mark in their environment, or our folder in their arguments (what
    is started to outlive a daemon gets a clean environment and another parent), and all below them."""
    processes = {int(path.name): path for path in Path("/proc").glob("[0-9]*")}
    parents = {pid: _parent(path) for pid, path in processes.items()}
    mark, folder = f"{_MARK}={os.getpid()}".encode(), f"{scratch}/".encode()
    counted = {pid for pid, path in processes.items() if mark in _read(path / "environ") or folder in _read(path / "cmdline")}
    while more := {pid for pid, parent in parents.items() if parent in counted} - counted:
        counted |= more
    return sum(_proportional(processes[pid]) for pid in counted)


def _parent(process: Path) -> int:
    fields = _read(process / "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def _proportional(process: Path) -> int:
    lines = _read(process / "smaps_rollup").decode().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def _read(path: Path) -> bytes:
    """b"" for a process that has gone."""
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def measure(sides: list[Side], options: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """(measurement, side) → samples."""
    order = random.Random(options.seed)
    samples: dict[tuple[str, str], list[float]] = {}
    for number in range(options.rounds):
        for side in order.sample(sides, len(sides)):
            with contextlib.ExitStack() as last:
                last.callback(side.close)
                side.open()
                taken = {"up, s": up(side), "scale, s": scale(side, options.instances)}
                taken["memory, MB"] = memory(options.scratch) / 1e6
                side.run("down").end()
            for kind, value in taken.items():
                samples.setdefault((kind, side.name), []).append(value)
            print(f"round {number + 1}/{options.rounds}: {side.name}: {taken}", file=sys.stderr, flush=True)
    return samples


def report(samples: dict[tuple[str, str], list[float]], out: Path) -> None:
    """The table to stdout, the samples to apps.csv."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "apps.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("measurement", "side", "round", "value"))
        writer.writerows((*key, number, value) for key, values in samples.items() for number, value in enumerate(values))
    for kind in dict.fromkeys(kind for kind, _ in samples):
        peer = statistics.median(samples.get((kind, Compose.name), [float("nan")]))
        print(f"\n{kind:32}{'n':>4}{'median':>10}{'min':>10}{'max':>10}{'of docker':>11}")
        for (row, side), values in samples.items():
            if row == kind:
                middle = statistics.median(values)
                print(f"{side:32}{len(values):4}{middle:10.2f}{min(values):10.2f}{max(values):10.2f}{middle / peer:11.2f}")


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--without", action="append", default=[], metavar="SIDE", help="leave out sides whose name contains this word")
    parser.add_argument("--out", default="build/bench")
    options = parser.parse_args()
    if missing := [program for program in ("dockerd", "docker-compose") if shutil.which(program) is None]:
        print(f"bench: needs {' and '.join(missing)}: apt-get install docker.io docker-compose", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    archive = shop.archive()
    os.environ[_MARK] = str(os.getpid())
    namespaces.unshare(namespaces.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    namespaces.prepare_daemon_namespace()
    scratch = options.scratch = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
    try:
        sides: list[Side] = [Compose(scratch, archive), *(Twinhull(scratch, archive, runtime) for runtime in ("container", "vm"))]
        report(measure([side for side in sides if not any(word in side.name for word in options.without)], options), Path(options.out))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
