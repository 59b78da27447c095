"""A `lab` per test: the agent in its own namespaces, and a check that no sanitizer spoke."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.agent.lab import Lab, build_agent, copy_libraries, make_root


@pytest.fixture(scope="session")
def agent_program() -> Path:
    return build_agent()


@pytest.fixture(scope="session")
def root_template(agent_program: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="th-agent-", dir="/tmp"))
    root = folder / "root"
    make_root(root)
    copy_libraries(agent_program, root)
    yield root
    shutil.rmtree(folder)


@pytest.fixture
async def idle_lab(agent_program: Path, root_template: Path) -> AsyncIterator[Lab]:
    """Not started yet."""
    folder = Path(tempfile.mkdtemp(prefix="th-lab-", dir="/tmp"))
    shutil.copytree(root_template, folder / "root", symlinks=True)
    lab = Lab(folder, agent_program)
    said = ""
    try:
        yield lab
        said = await lab.end()
    finally:
        shutil.rmtree(folder)
    assert said == ""


@pytest.fixture
async def lab(idle_lab: Lab) -> Lab:
    await idle_lab.start()
    return idle_lab
