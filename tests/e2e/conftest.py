"""Fixtures of several files here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.apps import prepared
from tests.harness import Daemon


@pytest.fixture(scope="module")
def machine() -> Iterator[Daemon]:
    """A daemon of the file's own, with busybox."""
    with prepared() as daemon:
        yield daemon
