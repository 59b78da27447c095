"""What tests of the shop need besides a daemon: the bank on another network, a client and a browser that are where the gateway is."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tests.harness import Netns
from tests.images.shop import SHOP

from twinhull.sys import namespaces

if TYPE_CHECKING:
    from playwright.sync_api import Browser

T = TypeVar("T")
BANK = "192.0.2.2"
"""Its address, beyond the daemon's network namespace."""
PORT = 9100
PAGES, API = "shop.localhost", "api.shop.localhost"
"""The hosts of the shop's routes."""
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage"
).split()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP server said. `headers`: whatever the case of their names. `body`: from JSON, or the text."""

    status: int
    headers: http.client.HTTPMessage
    body: Any


def inside(net: Netns, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call in a thread that is in the namespace."""
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def body() -> None:
        try:
            namespaces.setns(net.descriptor, namespaces.CLONE_NEWNET)
            result.set_result(work(*arguments, **options))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=body, daemon=True).start()
    return result.result(120)


def ask(
    net: Netns, path: str, *, host: str = API, to: tuple[str, int] = ("127.0.0.1", 80), body: Any = None, key: str = "", method: str = ""
) -> Answer:
    """One request to the gateway, or another server, from inside the namespace. `body`: sent as JSON."""
    headers = {"Host": host, **({"Idempotency-Key": key} if key else {})}
    data = None if body is None else json.dumps(body)
    return inside(net, _exchange, to, method or ("GET" if body is None else "POST"), path, data, headers)


def _exchange(to: tuple[str, int], method: str, path: str, data: str | None, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection(*to, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        parsed = json.loads(text) if "json" in (answer.headers.get("Content-Type") or "") and text else text
        return Answer(answer.status, answer.headers, parsed)


class Bank:
    """The payment provider, in a network namespace that is joined to the daemon's by a veth, as another machine would be."""

    url = f"http://{BANK}:{PORT}"

    def __init__(self, daemon_net: Netns) -> None:
        self.net = Netns()
        daemon_net.run("ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "bank0")
        daemon_net.adopt("bank0", self.net)
        for net, name, address in ((daemon_net, "uplink0", "192.0.2.1"), (self.net, "bank0", BANK)):
            net.run("ip", "address", "add", f"{address}/24", "dev", name)
            net.run("ip", "link", "set", name, "up")
        argv = [sys.executable, str(SHOP / "provider" / "provider.py"), "--port", str(PORT)]
        self.process = self.net.popen(*argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        assert b"listens" in self.process.stderr.readline()
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def close(self) -> None:
        """The namespace goes with it, and the veth with the namespace."""
        self.process.kill()
        self.process.wait()
        self.net.close()

    def be(self, mode: str) -> None:
        """ok, down, slow or flaky."""
        assert ask(self.net, "/faults", to=(BANK, PORT), body={"mode": mode}).status == 200

    def charges(self) -> list[dict[str, Any]]:
        """All that were made."""
        found: list[dict[str, Any]] = ask(self.net, "/charges", to=(BANK, PORT)).body["charges"]
        return found


@contextlib.contextmanager
def browser(net: Netns, folder: Path) -> Iterator[Browser]:
    """Debian's Chromium inside the namespace; there, *.localhost is the gateway."""
    from playwright.sync_api import sync_playwright

    started = folder / "chromium"
    started.write_text(f'#!/bin/sh\nexec nsenter --net="/proc/{os.getpid()}/fd/{net.descriptor}" -- /usr/bin/chromium "$@"\n')
    started.chmod(0o755)
    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=str(started), args=_FLAGS)
        try:
            yield launched
        finally:
            launched.close()
