"""Fixtures of several files here.

What can't run on a machine isn't collected (a skip would count as a failure in CI, see tests/conftest.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration import gateway_lab, network_lab, vm_lab

from twinhull.home import Home

collect_ignore = [] if shutil.which("runsc") else ["test_sandbox.py"]


@pytest.fixture(scope="module")
def erofs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root for all VMs of a file."""
    return vm_lab.busybox_root(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose accelerator is decided."""
    return vm_lab.decided(tmp_path_factory.mktemp("decided"))


@pytest.fixture
def no_vm_left(home: Home, known: Home) -> Iterator[None]:
    """The test's home knows the accelerator, and has no process, mount, cgroup or file of an instance when it is over."""
    vm_lab.lend(known, home)
    yield
    vm_lab.assert_gone(home)


@pytest.fixture
def space() -> Iterator[None]:
    """A network namespace of the test's own."""
    with network_lab.own_namespace():
        yield


@pytest.fixture
def proxy_home() -> Iterator[Home]:
    """For a gateway alone: see gateway_lab."""
    with gateway_lab.own_home() as made:
        yield made
