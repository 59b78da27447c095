"""A registry on loopback for tests: Debian's docker-registry, storage in a folder, no TLS, optionally with a password."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "docker-registry"
USER, PASSWORD = "alice", "secret-word"


@dataclass(frozen=True)
class Registry:
    """`address`: host:port."""

    address: str
    log: Path

    def auth_file(self, path: Path, password: str = PASSWORD) -> Path:
        """An auth.json with the user's password, as `podman login` writes it."""
        token = b64encode(f"{USER}:{password}".encode()).decode()
        path.write_text(json.dumps({"auths": {self.address: {"auth": token}}}))
        return path


def installed() -> bool:
    return shutil.which(PROGRAM) is not None and shutil.which("htpasswd") is not None


@contextlib.contextmanager
def serve(folder: Path, *, password: bool = False) -> Iterator[Registry]:
    """Run one until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(_config(folder, port, password))
    if password:
        subprocess.run(["htpasswd", "-Bbc", str(folder / "htpasswd"), USER, PASSWORD], check=True, capture_output=True)
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([PROGRAM, "serve", str(folder / "config.yml")], stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait_open(port, process)
        yield Registry(f"127.0.0.1:{port}", log)
    finally:
        process.terminate()
        process.wait(10)


def _config(folder: Path, port: int, password: bool) -> str:
    auth = f"auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/htpasswd\n" if password else ""
    return (
        f"version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\n  delete:\n    enabled: true\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{auth}"
    )


def _wait_open(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError("the registry didn't start")
