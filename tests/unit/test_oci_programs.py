"""Docker's 126 and 127, and removing hostile trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twinhull.errors import CannotRunError
from twinhull.instance import programs
from twinhull.sys import mounts, trees

ELF = b"\x7fELF" + bytes(60)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("bin", "opt/app", "etc", "data"):
        (tmp_path / folder).mkdir(parents=True)
    for name, content, mode in (
        ("bin/sh", ELF, 0o755),
        ("bin/locked", ELF, 0o644),
        ("opt/app/run", b"#!/bin/sh -e\necho\n", 0o755),
        ("opt/app/orphan", b"#! /usr/bin/perl\n", 0o755),
        ("opt/app/locked", ELF, 0o755),
        ("etc/passwd", b"root:x:0:0::/:\n", 0o644),
    ):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(mode)
    (tmp_path / "bin/link").symlink_to("/bin/sh")
    (tmp_path / "bin/out").symlink_to("/../../../../etc/hostname")
    (tmp_path / "bin/loop").symlink_to("loop")
    os.mkfifo(tmp_path / "bin/fifo", 0o777)
    return tmp_path


def problem(root: Path, *argv: str, path: str = "/bin:/opt/app", cwd: str = "/", covered: tuple[str, ...] = ()) -> tuple[int, str] | None:
    with mounts.folder(root) as descriptor:
        try:
            programs.check(descriptor, argv, (f"PATH={path}",), cwd, covered)
        except CannotRunError as error:
            return error.exit_code, str(error)
    return None


@pytest.mark.parametrize("program", ["sh", "/bin/sh", "bin/sh", "link", "run", "/opt/app/../app/run"])
def test_runnable(root: Path, program: str) -> None:
    assert problem(root, program) is None


@pytest.mark.parametrize(
    ("program", "code", "text"),
    [
        ("zed", 127, 'exec: "zed": executable file not found in $PATH'),
        ("/bin/zed", 127, 'exec: "/bin/zed": stat /bin/zed: no such file or directory'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
        ("/etc", 126, 'exec: "/etc": is a directory'),
        ("orphan", 127, 'exec: "orphan": no such file or directory'),
        ("/bin/fifo", 126, 'exec: "/bin/fifo": permission denied'),
        ("/bin/out", 127, 'exec: "/bin/out": stat /bin/out: no such file or directory'),
        ("/bin/loop", 127, 'exec: "/bin/loop": stat /bin/loop: no such file or directory'),
        ("", 127, "no command specified"),
    ],
)
def test_not_runnable(root: Path, program: str, code: int, text: str) -> None:
    found = problem(root, program)
    assert found is not None
    if program != "orphan":  # in PATH an orphan counts as found; the words are execve's
        assert found == (code, text)
    assert found[0] == code


def test_path_goes_on_after_a_file_that_can_not_run(root: Path) -> None:
    assert problem(root, "locked") is None
    assert problem(root, "locked", path="/bin") == (126, 'exec: "locked": permission denied')


def test_the_working_folder_counts(root: Path) -> None:
    assert problem(root, "./run", cwd="/opt/app") is None
    assert problem(root, "./run", cwd="/") is not None


def test_what_a_mount_will_cover_is_not_judged(root: Path) -> None:
    assert problem(root, "/data/tool") is not None
    assert problem(root, "/data/tool", covered=("/data",)) is None
    assert problem(root, "/database", covered=("/data",)) is not None


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("executable file `zed` not found in $PATH: No such file or directory", 127),
        ('exec: "zed": permission denied', 126),
        ("open executable: Permission denied", 126),
        ("exec format error", 126),
        ("mount `proc` to `/proc`: Permission denied", None),
        ("", None),
    ],
)
def test_the_runtimes_words(message: str, code: int | None) -> None:
    found = programs.from_message(message, "zed")
    assert (found.exit_code if found else None) == code


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    outside = tmp_path / "outside"
    outside.write_text("stays")
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):  # deeper than the recursion limit, the open-file limit and PATH_MAX
        os.mkdir("d", dir_fd=here)
        os.symlink(outside, "link", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    trees.remove(top)
    assert not top.exists()
    assert outside.read_text() == "stays"


def test_removing_what_is_no_tree(tmp_path: Path) -> None:
    trees.remove(tmp_path / "missing")
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_text("")
    (tmp_path / "link").symlink_to(target)
    trees.remove(tmp_path / "link")
    assert (target / "file").exists() and not (tmp_path / "link").is_symlink()
