"""The engines that Twinhull is measured against, each started for one run, in one network namespace, and ended after it.

Every peer offers the same, so that a benchmark is a loop over them. `run_true()`: from the spawn of `run --rm IMAGE true` to its exit;
`begin(port)` asks for a web server, `end(port)` removes it, `serve(port)` is what a client sees between.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.world import PROGRAM, Daemon
from twinhull.spec.instance import InstanceSpec, PortMapping, Resources, Runtime

IMAGE = "localhost/busybox:latest"
SERVER = ("httpd", "-f", "-p", "80", "-h", "/etc")
PAGE = "/passwd"
PORTS = itertools.count(20_000)
"""Ports that nobody has had before: a connection of an earlier start can't be taken for an answer."""
PATIENCE = 60.0
"""Seconds in which a server must answer."""


class Peer(ABC):
    """One engine. `name` is what the table shows."""

    name = ""
    page = PAGE

    @abstractmethod
    def up(self) -> None:
        """Start what it needs and load the image."""

    @abstractmethod
    def down(self) -> None:
        """End it and remove everything."""

    @abstractmethod
    def run_true(self) -> float:
        """Seconds."""

    @abstractmethod
    def begin(self, port: int) -> None:
        """Ask for a server; it may answer a little later."""

    @abstractmethod
    def end(self, port: int) -> None:
        """Remove it."""

    def settle(self) -> None:  # noqa: B027  most have nothing to wait for
        """Return when what it prepares in the background is there."""

    def address(self, port: int) -> tuple[str, int]:
        """Where it answers."""
        return "127.0.0.1", port

    def serve(self, port: int) -> float:
        """Seconds from the request to the first page; the server is gone afterwards."""
        start = time.perf_counter()
        self.begin(port)
        seconds = first_page(*self.address(port), start, page=self.page)
        self.end(port)
        return seconds


class Docker(Peer):
    """Debian's dockerd with its defaults."""

    name = "docker"

    def __init__(self, scratch: Path, archive: Path) -> None:
        self._folder = scratch / "docker"
        self._archive = archive
        self._daemon: subprocess.Popen[bytes] | None = None

    def _argv(self, *words: str) -> list[str]:
        return ["/usr/bin/docker", "-H", f"unix://{self._folder}/s", *words]

    def up(self) -> None:
        self._folder.mkdir(parents=True)
        options = ["--data-root", f"{self._folder}/data", "--exec-root", f"{self._folder}/exec", "-p", f"{self._folder}/pid"]
        with (self._folder / "log").open("wb") as log:
            argv = ["/usr/sbin/dockerd", *options, "-H", f"unix://{self._folder}/s"]
            self._daemon = subprocess.Popen(argv, stdout=log, stderr=log)
        _until(lambda: _quiet(self._argv("version")) == 0, f"dockerd: see {self._folder}/log")
        _check([*self._argv("load", "-i", str(self._archive))])

    def down(self) -> None:
        if self._daemon:
            self._daemon.terminate()
            self._daemon.wait()
        _remove(self._folder)

    def run_true(self) -> float:
        return _timed(lambda: _check(self._argv("run", "--rm", IMAGE, "true")))

    def begin(self, port: int) -> None:
        _check(self._argv("run", "-d", "--name", f"b{port}", "-p", f"{port}:80", IMAGE, *SERVER))

    def end(self, port: int) -> None:
        _check(self._argv("rm", "-f", f"b{port}"))


class Podman(Peer):
    """Debian's podman as root."""

    name = "podman"

    def __init__(self, scratch: Path, archive: Path) -> None:
        self._folder = scratch / "podman"
        self._archive = archive

    def _argv(self, *words: str) -> list[str]:
        where = ["--root", f"{self._folder}/root", "--runroot", f"{self._folder}/run", "--tmpdir", f"{self._folder}/tmp"]
        return ["podman", *where, "--cgroup-manager", "cgroupfs", "--runtime", "runc", "--network-backend", "netavark", *words]

    def _run(self, *words: str) -> list[str]:
        return self._argv("run", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", *words)

    def up(self) -> None:
        self._folder.mkdir(parents=True)
        _check(self._argv("load", "-i", str(self._archive)))

    def down(self) -> None:
        _quiet(self._argv("rm", "-af"))
        _remove(self._folder)

    def run_true(self) -> float:
        return _timed(lambda: _check(self._run("--rm", IMAGE, "true")))

    def begin(self, port: int) -> None:
        _check(self._run("-d", "--name", f"b{port}", "-p", f"{port}:80", IMAGE, *SERVER))

    def end(self, port: int) -> None:
        _check(self._argv("rm", "-f", "-t", "0", f"b{port}"))


class BareCrun(Peer):
    """crun alone with a bundle, an overlay and a veth: what no engine can be faster than."""

    name = "bare crun"

    def __init__(self, scratch: Path, archive: Path) -> None:
        self._folder = scratch / "crun"
        self._archive = archive
        self._count = 0
        self._bundles: dict[int, Path] = {}

    def up(self) -> None:
        lower = self._folder / "lower"
        lower.mkdir(parents=True)
        _check(["skopeo", "copy", "-q", f"docker-archive:{self._archive}", f"dir:{self._folder}/image"])
        manifest = json.loads((self._folder / "image/manifest.json").read_text())
        for layer in manifest["layers"]:
            _check(["tar", "-xf", f"{self._folder}/image/{layer['digest'].removeprefix('sha256:')}", "-C", str(lower)])
        _check(["ip", "link", "add", "bench0", "type", "bridge"])
        _check(["ip", "addr", "add", "10.99.0.1/24", "dev", "bench0"])
        _check(["ip", "link", "set", "bench0", "up"])

    def down(self) -> None:
        for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else ():
            if name.startswith(f"bench{os.getpid()}-"):
                _quiet(["ip", "netns", "del", name])
        _quiet(["ip", "link", "del", "bench0"])
        _remove(self._folder)

    def run_true(self) -> float:
        bundle = self._bundle(("true",), None)
        seconds = _timed(lambda: _check(["crun", "run", "-b", str(bundle), bundle.name]))
        self._drop(bundle)
        return seconds

    def begin(self, port: int) -> None:
        netns = f"bench{os.getpid()}-{self._count}"
        _plumb(netns, self._count)
        bundle = self._bundles[port] = self._bundle(SERVER, f"/run/netns/{netns}")
        # its streams are the server's, which would keep a pipe open
        null = subprocess.DEVNULL
        subprocess.run(["crun", "run", "-d", "-b", str(bundle), bundle.name], stdin=null, stdout=null, stderr=null, check=True)

    def end(self, port: int) -> None:
        bundle = self._bundles.pop(port)
        _check(["crun", "delete", "-f", bundle.name])
        _check(["ip", "netns", "del", f"bench{os.getpid()}-{int(bundle.name.rpartition('-')[2]) - 1}"])
        self._drop(bundle)

    def address(self, port: int) -> tuple[str, int]:
        return "10.99.0.2", 80

    def _bundle(self, argv: tuple[str, ...], netns: str | None) -> Path:
        self._count += 1
        bundle = self._folder / f"bench{os.getpid()}-{self._count}"
        for name in ("upper", "work", "rootfs"):
            (bundle / name).mkdir(parents=True)
        layers = f"lowerdir={self._folder}/lower,upperdir={bundle}/upper,workdir={bundle}/work"
        _check(["mount", "-t", "overlay", "overlay", "-o", layers, str(bundle / "rootfs")])
        _check(["crun", "spec", "-f", str(bundle / "config.json")])
        spec = json.loads((bundle / "config.json").read_text())
        spec["process"] |= {"args": list(argv), "terminal": False}
        for namespace in spec["linux"]["namespaces"]:
            if namespace["type"] == "network" and netns:
                namespace["path"] = netns
        spec["root"] = {"path": "rootfs", "readonly": False}
        (bundle / "config.json").write_text(json.dumps(spec))
        return bundle

    def _drop(self, bundle: Path) -> None:
        _check(["umount", str(bundle / "rootfs")])
        _remove(bundle)


class Twinhull(Peer):
    """This project: the CLI for `run_true`, one API request for `begin`. `spec`: what else its instances have.

    `parked`: guests that must wait before a start. With `snapshot` in `spec` all starts go on from one that is made before the first.
    """

    def __init__(self, daemon: Daemon, runtime: Runtime, name: str = "", *, parked: int = 0, page: str = PAGE, **spec: Any) -> None:
        self.name = name or f"twinhull {runtime}"
        self._parked, self._demanded = parked, False
        self._snapshot = "snapshot" in spec
        self.page = page
        self._daemon = daemon
        self._runtime = runtime
        self._spec = {"image": IMAGE, "command": SERVER, "resources": Resources(memory=128 << 20)} | spec

    def up(self) -> None:
        """The daemon is shared; see world.py."""

    def down(self) -> None:
        """Nothing of its own."""

    def settle(self) -> None:
        """`parked` guests wait; those that were claimed are made anew in the background, which is not a part of any start."""
        if self._snapshot and not self._demanded:
            self._keep_warm(next(PORTS))
        if self._parked and self._demanded:
            _until(self._are_parked, f"{self._parked} parked guests")
        self._demanded = True

    def _are_parked(self) -> bool:
        pool = self._daemon.client().info()["vm_parked"]
        return int(pool["waiting"]) >= self._parked and int(pool["missing"]) == 0  # of other shapes too

    def _keep_warm(self, port: int) -> None:
        """A snapshot of the server after its first page."""
        self.begin(port)
        first_page("127.0.0.1", port, time.perf_counter(), page=self.page)
        self._daemon.client().snapshot_create(f"b{port}")
        self.end(port)

    def run_true(self) -> float:
        argv = [PROGRAM, "run", "--rm", "--runtime", str(self._runtime), IMAGE, "true"]
        return _timed(lambda: _check(argv, env=self._daemon.environment))

    def begin(self, port: int) -> None:
        spec = InstanceSpec(name=f"b{port}", runtime=self._runtime, ports=(PortMapping(80, port),), **self._spec)
        self._daemon.client().create(spec, start=True)

    def end(self, port: int) -> None:
        self._daemon.client().remove(f"b{port}", force=True)


def first_page(host: str, port: int, begin: float, pause: float = 0.002, page: str = PAGE) -> float:
    """Seconds from `begin` (perf_counter) to the first 200; asked every `pause` seconds."""
    deadline = begin + PATIENCE
    while time.perf_counter() < deadline:
        connection = http.client.HTTPConnection(host, port, timeout=1)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", page)
            if connection.getresponse().status == 200:
                return time.perf_counter() - begin
        connection.close()
        time.sleep(pause)
    raise TimeoutError(f"no page from {host}:{port} within {PATIENCE:g} s")


def _plumb(netns: str, number: int) -> None:
    rows = (
        f"netns add {netns}",
        f"link add bv{number} type veth peer name eth0 netns {netns}",
        f"link set bv{number} master bench0 up",
        f"-n {netns} addr add 10.99.0.2/24 dev eth0",
        f"-n {netns} link set eth0 up",
        f"-n {netns} link set lo up",
    )
    for row in rows:
        _check(["ip", *row.split()])


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _check(argv: list[str], stdin: bytes = b"", env: dict[str, str] | None = None) -> None:
    done = subprocess.run(argv, input=stdin, capture_output=True, env=env, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")


def _quiet(argv: list[str]) -> int:
    return subprocess.run(argv, capture_output=True, check=False).returncode


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.1)


def _remove(folder: Path) -> None:
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        if line.split()[1].startswith(f"{folder}/"):
            _quiet(["umount", "-l", line.split()[1]])
    shutil.rmtree(folder, ignore_errors=True)
