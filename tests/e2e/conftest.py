"""Fixtures of several files here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.harness import Daemon, new_home
from tests.images.base import archive


@pytest.fixture(scope="module")
def machine() -> Iterator[Daemon]:
    """A daemon of the file's own, with busybox."""
    daemon = Daemon(new_home())
    try:
        daemon.start()
        daemon.cli("image", "load", "-i", str(archive("busybox")))
        yield daemon
    finally:
        daemon.close()
