"""Instances as a user has them: made, asked and removed with the `twinhull` command only.

`Maker` makes any number of them for one runtime and removes them again; what carries a removed instance's id must be gone too.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tests import leaks
from tests.harness import Daemon, Done

BUSYBOX = "localhost/busybox:latest"
PYTHON = "localhost/debian-python:bookworm"
SLEEP = ("sleep", "1000000")
_T = TypeVar("_T")
_numbers = itertools.count(1)


def wait_for(what: str, probe: Callable[[], _T | None], timeout: float = 20.0) -> _T:
    """The first true answer of `probe`; fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"no {what} within {timeout:g} s"
        time.sleep(0.05)
    return answer


class Instance:
    """One instance, by its name."""

    def __init__(self, daemon: Daemon, name: str, runtime: str) -> None:
        self.daemon, self.name, self.runtime = daemon, name, runtime

    def exec(self, *argv: str, flags: Sequence[str] = (), stdin: bytes | None = None, check: bool = True, timeout: float = 120) -> Done:
        """`twinhull exec`, with -i if there is any stdin."""
        keep = ["-i"] if stdin is not None else []
        return self.daemon.cli("exec", *keep, *flags, self.name, *argv, stdin=stdin or b"", check=check, timeout=timeout)

    def sh(self, script: str, **options: Any) -> str:
        """A shell script's output."""
        return self.exec("sh", "-c", script, **options).text

    def py(self, script: str, *argv: str, **options: Any) -> str:
        """A Python script's output (images with Python only)."""
        return self.exec("python3", "-c", script, *argv, **options).text

    def view(self) -> dict[str, Any]:
        """`inspect`."""
        answer = json.loads(self.daemon.cli("inspect", self.name).out)
        return dict(answer[0] if isinstance(answer, list) else answer)

    @property
    def state(self) -> str:
        """created, running, paused, restarting, exited or dead."""
        return str(self.view()["state"])

    @property
    def address(self) -> str:
        """On its first network."""
        return str(self.view()["addresses"][0]["address"]).partition("/")[0]

    def wait_exit(self, timeout: float = 60) -> int:
        """The exit code that `wait` prints."""
        return int(self.daemon.cli("wait", self.name, timeout=timeout).text)

    def wait_state(self, *states: str, timeout: float = 60) -> dict[str, Any]:
        """The view once it is in one of the states."""
        return wait_for(f"state {states} of {self.name}", lambda: view if (view := self.view())["state"] in states else None, timeout)

    def logs(self, *flags: str) -> str:
        """`logs`, both streams."""
        done = self.daemon.cli("logs", *flags, self.name)
        return (done.out + done.err).decode()

    def wait_log(self, text: str, timeout: float = 60) -> str:
        """The log once it contains `text`."""
        return wait_for(f"{text!r} in the log of {self.name}", lambda: log if text in (log := self.logs()) else "", timeout)

    def act(self, verb: str, *flags: str, check: bool = True, timeout: float = 120) -> Done:
        """`twinhull VERB FLAGS NAME`."""
        return self.daemon.cli(verb, *flags, self.name, check=check, timeout=timeout)


class Maker:
    """Makes instances of one runtime; `clear` removes them all and looks for leftovers."""

    def __init__(self, daemon: Daemon, runtime: str) -> None:
        self.daemon, self.runtime = daemon, runtime
        self._ids: dict[str, str] = {}

    def __call__(self, *flags: str, image: str = BUSYBOX, command: Sequence[str] = SLEEP, runtime: str = "", verb: str = "run") -> Instance:
        """`run -d` (or `create`) and the instance."""
        name = self.name()
        chosen = runtime or self.runtime
        detach = ["-d"] if verb == "run" else []
        done = self.daemon.cli(verb, *detach, "--name", name, "--runtime", chosen, *flags, image, *command)
        self._ids[name] = done.lines[-1]
        return Instance(self.daemon, name, chosen)

    def foreground(
        self, *flags: str, image: str = BUSYBOX, command: Sequence[str], stdin: bytes = b"", check: bool = True, timeout: float = 120
    ) -> Done:
        """`run --rm` to its end."""
        argv = ["run", "--rm", "--name", self.name(), "--runtime", self.runtime, *flags, image, *command]
        return self.daemon.cli(*argv, stdin=stdin, check=check, timeout=timeout)

    def name(self) -> str:
        """A name that nobody has yet."""
        return f"{self.runtime}-{os.getpid()}-{next(_numbers)}"

    def clear(self) -> None:
        """Remove all that was made. Raises LeakError if anything with one of their ids is left."""
        ids = [identifier[:12] for identifier in self._ids.values()]
        if ids:
            self.daemon.cli("rm", "-f", "-v", *self._ids, check=False)
            self._ids.clear()
            leaks.assert_clean(self.daemon.home, ignore=lambda leak: not any(one in leak.name + leak.detail for one in ids))


@contextlib.contextmanager
def volume(daemon: Daemon, name: str) -> Iterator[str]:
    """A named volume, removed at the end; its users must be gone by then."""
    daemon.cli("volume", "create", name)
    try:
        yield name
    finally:
        daemon.cli("volume", "rm", "-f", name, check=False)


@contextlib.contextmanager
def network(daemon: Daemon, name: str, *flags: str) -> Iterator[str]:
    """A network, removed at the end; its users must be gone by then."""
    daemon.cli("network", "create", *flags, name)
    try:
        yield name
    finally:
        daemon.cli("network", "rm", name, check=False)
