"""The rules of tests/conftest.py, tried by runs of pytest in pytest: what they forbid must fail, and only that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def run(folder: Path, body: str, *, ci: bool) -> str:
    """The last line of a run of `body` under our conftest."""
    file = folder / "test_inner.py"
    file.write_text("import asyncio, pytest\n" + body)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--rootdir", str(folder)]
    argv = [sys.executable, "-m", "pytest", "-q", *options, str(file)]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "CI": "true" if ci else ""}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=folder, check=False, timeout=60)
    return done.stdout.strip().splitlines()[-1]


UNPROVED = """
@pytest.fixture
def absent(): pytest.skip('why')
def test_one(): pytest.skip('why')
def test_two(absent): pass
@pytest.mark.skip
def test_three(): pass
@pytest.mark.xfail
def test_four(): assert 0
@pytest.mark.xfail
def test_five(): pass
def test_six(): pass
"""
LEAKY = """
kept = []
async def test_leaky(): kept.append(asyncio.create_task(asyncio.sleep(100), name='lost'))
async def test_tidy(): await asyncio.create_task(asyncio.sleep(0))
"""


def test_what_is_not_proved_fails_in_ci_only(tmp_path: Path) -> None:
    line = run(tmp_path, UNPROVED, ci=True)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", line)}
    assert counts["passed"] == 1
    assert counts["failed"] + counts.get("error", 0) + counts.get("errors", 0) == 5
    assert run(tmp_path, UNPROVED, ci=False).startswith("1 passed, 3 skipped, 1 xfailed, 1 xpassed")


def test_a_module_that_is_skipped_fails_in_ci_only(tmp_path: Path) -> None:
    body = "pytest.importorskip('no_such_module')\ndef test(): pass"
    assert "1 error" in run(tmp_path, body, ci=True)
    assert run(tmp_path, body, ci=False).startswith("1 skipped")


def test_a_task_left_behind_fails_its_test(tmp_path: Path) -> None:
    assert run(tmp_path, LEAKY, ci=False).startswith("2 passed, 1 error")
