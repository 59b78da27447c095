"""Instances that try to get out. They are shared, for a VM's start takes seconds: `box` as it comes, `strong` with every capability."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from tests.conformance.instance import PYTHON, Instance, Maker
from tests.escape.host import Host
from tests.harness import Daemon

from twinhull.compare import probes_archive

PROBES = probes_archive.PATH
READ_ONLY = "/given"


GVISOR_KNOWS_NOT = ("BPF", "PERFMON", "CHECKPOINT_RESTORE")
"""Capabilities newer than Debian's runsc, which doesn't start with them."""


@pytest.fixture(scope="session")
def host(daemon: Daemon) -> Iterator[Host]:
    """The host's canary, process and sockets."""
    made = Host(daemon)
    yield made
    made.close()


@pytest.fixture(scope="session")
def escape_maker(daemon: Daemon, runtime: str) -> Iterator[Maker]:
    """For the shared instances."""
    made = Maker(daemon, runtime)
    yield made
    made.clear()


@pytest.fixture(scope="session")
def box(escape_maker: Maker, host: Host) -> Instance:
    """Default capabilities, a folder of the host read-only."""
    return _equipped(escape_maker("-v", f"{host.shared}:{READ_ONLY}:ro", image=PYTHON))


@pytest.fixture(scope="session")
def strong(escape_maker: Maker, host: Host) -> Instance:
    """Every capability there is: what may be asked for without the owner's consent in config.toml."""
    drops = GVISOR_KNOWS_NOT if escape_maker.runtime == "sandbox" else ()
    flags = ["--cap-add", "ALL", *(word for name in drops for word in ("--cap-drop", name))]
    return _equipped(escape_maker(*flags, "-v", f"{host.shared}:{READ_ONLY}:ro", image=PYTHON))


@pytest.fixture
def make(daemon: Daemon, runtime: str) -> Iterator[Maker]:
    """For instances of one test."""
    made = Maker(daemon, runtime)
    yield made
    made.clear()


def attempts(instance: Instance, host: Host, user: str = "") -> list[tuple[str, str, str]]:
    """Run them all inside: (name, outcome, text)."""
    flags = ["-u", user] if user else []
    argument = json.dumps(asdict(host.place(READ_ONLY)))
    done = instance.exec("python3", PROBES, "run", argument, flags=flags, timeout=240)
    return [tuple(json.loads(line)) for line in done.lines]


def _equipped(instance: Instance) -> Instance:
    instance.exec("sh", "-c", f"cat >{PROBES}; chmod 644 {PROBES}", stdin=probes_archive.archive())
    return instance
