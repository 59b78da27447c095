"""Instances for the conformance suite.

A VM's boot costs seconds where it is emulated, so what only asks (exec, files, clock) shares one instance a runtime for the whole run:
`box` (Debian with Python) and `small` (busybox). Tests must leave them as they found them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.instance import PYTHON, Instance, Maker
from tests.conformance.outside import Outside
from tests.harness import Daemon


@pytest.fixture(scope="session")
def session_maker(daemon: Daemon, runtime: str) -> Iterator[Maker]:
    """For the shared instances."""
    made = Maker(daemon, runtime)
    yield made
    made.clear()


@pytest.fixture(scope="session")
def box(session_maker: Maker) -> Instance:
    """The shared Debian with Python."""
    return session_maker("--memory", "512m", image=PYTHON)


@pytest.fixture(scope="session")
def small(session_maker: Maker) -> Instance:
    """The shared busybox."""
    return session_maker()


@pytest.fixture
def make(daemon: Daemon, runtime: str) -> Iterator[Maker]:
    """For instances whose life is the subject; all are removed and nothing of them may be left."""
    made = Maker(daemon, runtime)
    yield made
    made.clear()


@pytest.fixture(scope="session")
def outside(daemon: Daemon) -> Iterator[Outside]:
    """The world outside of the daemon's machine."""
    made = Outside(daemon)
    yield made
    made.close()
