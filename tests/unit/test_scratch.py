"""Scratch disks: made once a size, copied with their holes, kept."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from twinhull.instance.vm import scratch
from twinhull.sys import proc

_SIZE = 256 << 20


def test_an_image_is_an_empty_file_system_and_takes_little(tmp_path: Path) -> None:
    scratch.ensure(tmp_path / "scratch.img", tmp_path / "cache", _SIZE)
    image = tmp_path / "scratch.img"
    assert image.stat().st_size == _SIZE
    assert image.stat().st_blocks * 512 < 1 << 20
    assert image.stat().st_mode & 0o777 == 0o600
    proc.run_blocking(("e2fsck", "-n", "-f", str(image)))


def test_an_image_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "scratch.img").write_bytes(b"a guest's")
    scratch.ensure(tmp_path / "scratch.img", tmp_path / "cache", _SIZE)
    assert (tmp_path / "scratch.img").read_bytes() == b"a guest's"


def test_the_template_is_made_once(tmp_path: Path) -> None:
    first = scratch.template(tmp_path, _SIZE).stat()
    assert scratch.template(tmp_path, _SIZE).stat().st_ino == first.st_ino
    assert scratch.template(tmp_path, _SIZE * 2).stat().st_ino != first.st_ino


def test_a_failed_format_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(proc.ProcessError):
        scratch.template(tmp_path, 4096)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extents", [[], [(0, 5000)], [(1 << 20, 1)], [(0, 1), (70_000, 70_000), ((8 << 20) - 10, 10)]])
def test_a_sparse_copy_is_the_same_file(tmp_path: Path, extents: list[tuple[int, int]]) -> None:
    with open(tmp_path / "source", "w+b") as source, open(tmp_path / "target", "w+b") as target:
        source.truncate(8 << 20)
        for start, length in extents:
            os.pwrite(source.fileno(), random.Random(start).randbytes(length), start)
        scratch.copy_sparse(source.fileno(), target.fileno())
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
