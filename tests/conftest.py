"""Fixtures of all tests, and the rules that every run obeys.

- With CI=true a skipped or expected-to-fail test is a failure: what isn't proved there isn't promised.
- An async test that leaves a task behind fails.
- `runtime` is every hull that works on this machine; what can't work here is said in the header, not skipped.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tests import hulls
from tests.harness import Daemon, new_home, remove_home, sweep
from tests.images.base import archive

from twinhull.home import Home

if TYPE_CHECKING:
    from twinhull.client import Client

IMAGES = ("busybox", "debian-python")
IN_CI = os.environ.get("CI") == "true"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hull", action="append", choices=["container", "sandbox", "vm"], help="only this runtime (may be repeated)")


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"hulls: {', '.join(_hulls(config))}", *(f"hulls: {line}" for line in hulls.remarks())] if os.geteuid() == 0 else []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "except_for(hull, reason): not promised there; SPECIFICATION.md gives the reason in the same words")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    exempt = {mark.args[0] for mark in metafunc.definition.iter_markers("except_for")}
    for name in ("runtime", "other_runtime"):
        if name in metafunc.fixturenames:
            promised = [hull for hull in _hulls(metafunc.config) if hull not in exempt]
            metafunc.parametrize(name, promised, scope="session")


def _hulls(config: pytest.Config) -> list[str]:
    chosen = config.getoption("--hull")
    return [hull for hull in hulls.working() if not chosen or hull in chosen]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and (report.skipped or hasattr(report, "wasxfail")):
        report.outcome = "failed"
        report.longrepr = f"not run, or expected to fail, which CI doesn't allow: {report.longrepr}"
        report.__dict__.pop("wasxfail", None)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped as a whole, which CI doesn't allow: {report.longrepr}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "_no_task_left")


def _group(item: pytest.Item) -> str:
    """What `--dist loadgroup` keeps in one process, for it shares instances: the conformance tests of a runtime, else a file."""
    hull = item.callspec.params.get("runtime", "") if hasattr(item, "callspec") else ""
    return f"{item.path.parent.name}-{hull}" if hull else item.path.stem


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    """Set up first and torn down last: other fixtures' tasks must have ended too."""
    before = asyncio.all_tasks()
    yield
    current = asyncio.current_task()
    left = [task for task in asyncio.all_tasks() - before if task is not current and not task.done()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert not left, f"tasks left behind: {[task.get_name() + ' ' + repr(task.get_coro()) for task in left]}"


@pytest.fixture
def home() -> Iterator[Home]:
    """A home of the test's own, swept and removed afterwards."""
    made = new_home()
    yield made
    sweep(made)
    remove_home(made)


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """One daemon for the whole run, with the test images. Its end is the leak check of everything that used it."""
    running = Daemon(new_home())
    try:
        running.start()
        for name in IMAGES:
            running.cli("image", "load", "-i", str(archive(name)))
    except BaseException:
        sys.stderr.write(running.log_tail())
        running.close()
        raise
    yield running
    running.close()


@pytest.fixture
def own_daemon(home: Home) -> Iterator[Daemon]:
    """A daemon of the test's own, not started and without images: for what ends or breaks one."""
    made = Daemon(home)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()
    made.net.close()


@pytest.fixture
def cli(daemon: Daemon) -> Any:
    """`cli("ps", "-a")` → Done; raises for a status other than 0 unless check=False."""
    return daemon.cli


@pytest.fixture(scope="session")
def client(daemon: Daemon) -> Iterator[Client]:
    """The Python client, connected to the daemon."""
    from twinhull.client import Client

    with Client(str(daemon.home.socket)) as connected:
        yield connected
