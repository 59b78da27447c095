"""The fifo at which crun's first process waits."""

from __future__ import annotations

import os
from pathlib import Path

from twinhull.instance.runtimes import OciRuntime


def test_one_byte_and_the_fifo_is_gone(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    os.mkfifo(tmp_path / "one" / "exec.fifo")
    waiting = os.open(tmp_path / "one" / "exec.fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert OciRuntime("crun", tmp_path, gate="exec.fifo").open_gate("one")
    assert os.read(waiting, 10) == b"\0"
    assert not (tmp_path / "one" / "exec.fifo").exists()
    os.close(waiting)


def test_where_nobody_waits_the_runtime_is_asked(tmp_path: Path) -> None:
    crun = OciRuntime("crun", tmp_path, gate="exec.fifo")
    (tmp_path / "one").mkdir()
    os.mkfifo(tmp_path / "one" / "exec.fifo")
    assert not crun.open_gate("one")
    assert not crun.open_gate("none")
    assert (tmp_path / "one" / "exec.fifo").exists()
    assert not OciRuntime("runc", tmp_path).open_gate("one")
