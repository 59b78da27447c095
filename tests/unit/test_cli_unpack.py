"""Unpacking what an instance sends: its laws, one after the other, against archives made to break them."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from twinhull.cli.pack import pack
from twinhull.cli.transfer import ChunkReader, Target
from twinhull.cli.unpack import ArchiveError, unpack
from twinhull.errors import UserError

Entry = tuple[str, bytes, str]
"""Name, type, and content or link target."""
FILE, FOLDER, SYMLINK, HARD, CHAR, FIFO = (
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
)


def archive(entries: Iterable[Entry], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, text in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755 if kind == FOLDER else mode
            info.mtime = 1_000_000_000
            if kind == FILE:
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
            else:
                info.linkname = text if kind in (SYMLINK, HARD) else ""
                tar.addfile(info)
    return buffer.getvalue()


def put(folder: Path, entries: Iterable[Entry], name: str = "t", mode: int = 0o644) -> list[str]:
    """Unpack under `name`; the warnings."""
    return put_raw(folder, archive(entries, mode), name)


def put_raw(folder: Path, data: bytes, name: str = "t") -> list[str]:
    warnings: list[str] = []
    chunks = (data[start : start + 1000] for start in range(0, len(data), 1000))
    unpack(ChunkReader(chunks), Target(str(folder), name), warn=warnings.append)
    return warnings


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The target, beside a file that must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("precious")
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def _outside_is_untouched(place: Path) -> Iterable[None]:
    yield
    outside = place.parent / "outside"
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "precious"
    assert (outside / "precious").stat().st_nlink == 1
    assert sorted(path.name for path in place.parent.iterdir()) == ["in", "outside"]


def test_a_tree(place: Path) -> None:
    entries = [
        ("app", FOLDER, ""), ("app/sub", FOLDER, ""), ("app/sub/x", FILE, "hello"), ("app/l", SYMLINK, "sub/x"),
        ("app/sub/up", SYMLINK, "../l"), ("app/h", HARD, "app/sub/x"), ("app/dangling", SYMLINK, "sub/later"),
    ]  # fmt: skip
    assert put(place, entries) == []
    assert (place / "t/l").read_text() == "hello"
    assert os.readlink(place / "t/sub/up") == "../l"
    assert (place / "t/h").stat().st_ino == (place / "t/sub/x").stat().st_ino
    assert (place / "t/sub/x").stat().st_mtime == 1_000_000_000
    assert (place / "t/sub").stat().st_mtime == 1_000_000_000


def test_content_goes_into_the_folder_itself(place: Path) -> None:
    mode = place.stat().st_mode
    put(place, [("app", FOLDER, ""), ("app/x", FILE, "1")], name="")
    assert (place / "x").read_text() == "1"
    assert place.stat().st_mode == mode


def test_modes_are_kept_but_for_set_user_id(place: Path) -> None:
    put(place, [("x", FILE, "")], mode=0o6751)
    assert stat.S_IMODE((place / "t").stat().st_mode) == 0o751


def test_read_only_folders_are_filled(place: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        folder = tarfile.TarInfo("d")
        folder.type, folder.mode = FOLDER, 0o555
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("d/x"))
    put_raw(place, data.getvalue())
    assert stat.S_IMODE((place / "t").stat().st_mode) == 0o555
    assert (place / "t/x").exists()


@pytest.mark.parametrize("name", ["../outside/precious", "/etc/x", "a/../../outside/precious", "..", "a/.."])
def test_names_that_lead_out_are_refused(place: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="outside"):
        put(place, [("a", FOLDER, ""), (name, FILE, "evil")])


@pytest.mark.parametrize(
    "link", ["/etc/passwd", "../../outside/precious", "../..", "sub/../../../outside", "x/..", "./../../outside", "../t2/../../outside"]
)
def test_links_that_lead_out_are_left_out(place: Path, link: str) -> None:
    warnings = put(place, [("a", FOLDER, ""), ("a/ok", FILE, ""), ("a/l", SYMLINK, link)])
    assert warnings == [f"t/l is left out: it is a link to {link}, which leads outside"]
    assert sorted(os.listdir(place / "t")) == ["ok"]


def test_a_single_link_that_leads_out_is_an_error_that_says_what_to_do(place: Path) -> None:
    with pytest.raises(UserError) as caught:
        put(place, [("l", SYMLINK, "/etc/passwd")])
    assert "--follow-link" in caught.value.hint


def test_nothing_is_written_through_a_link_of_the_archive(place: Path) -> None:
    """The link alone would stay inside, by a chain it wouldn't: x → t/up → its parent."""
    with pytest.raises(ArchiveError, match="isn't followed"):
        put(place, [("a", FOLDER, ""), ("a/d", FOLDER, ""), ("a/l", SYMLINK, "d"), ("a/l/x", FILE, "evil")])
    assert os.listdir(place / "t/d") == []


def test_nothing_is_written_through_a_link_that_was_there(place: Path) -> None:
    (place / "t").mkdir()
    (place / "t/l").symlink_to(place.parent / "outside")
    with pytest.raises(ArchiveError, match="isn't followed"):
        put(place, [("a", FOLDER, ""), ("a/l/precious", FILE, "evil")])
    (place / "t/f").symlink_to(place.parent / "outside/precious")
    put(place, [("a", FOLDER, ""), ("a/f", FILE, "new")])
    assert not (place / "t/f").is_symlink()
    assert (place / "t/f").read_text() == "new"


def test_a_folder_entry_does_not_follow_a_link(place: Path) -> None:
    (place / "t").symlink_to(place.parent / "outside")
    before = (place.parent / "outside").stat().st_mode
    with pytest.raises(ArchiveError, match="isn't followed"):
        put(place, [("a", FOLDER, "")])
    assert (place.parent / "outside").stat().st_mode == before


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside/precious", "a/nothing", "precious"])
def test_hard_links_reach_only_what_the_archive_made(place: Path, target: str) -> None:
    (place / "t").mkdir()
    (place / "t/precious").symlink_to(place.parent / "outside/precious")
    try:
        warnings = put(place, [("a", FOLDER, ""), ("a/h", HARD, target)])
    except ArchiveError:
        warnings = ["refused"]
    assert warnings
    assert not (place / "t/h").exists()


def test_a_hard_link_to_a_link_is_left_out(place: Path) -> None:
    warnings = put(place, [("a", FOLDER, ""), ("a/x", FILE, ""), ("a/x", SYMLINK, "y"), ("a/h", HARD, "a/x")])
    assert len(warnings) == 1


def test_devices_and_pipes_are_left_out(place: Path) -> None:
    warnings = put(place, [("a", FOLDER, ""), ("a/null", CHAR, ""), ("a/pipe", FIFO, ""), ("a/x", FILE, "")])
    assert warnings == ["t/null is left out: it is a device or a pipe", "t/pipe is left out: it is a device or a pipe"]
    assert os.listdir(place / "t") == ["x"]


def test_a_file_does_not_replace_a_folder(place: Path) -> None:
    (place / "t/d").mkdir(parents=True)
    (place / "t/d/x").write_text("mine")
    with pytest.raises(UserError, match="is a folder"):
        put(place, [("a", FOLDER, ""), ("a/d", FILE, "evil")])
    assert (place / "t/d/x").read_text() == "mine"


def test_a_broken_archive_is_told(place: Path) -> None:
    data = archive([("a", FILE, "x" * 5000)])
    with pytest.raises(UserError):
        put_raw(place, data[:2000])
    assert not (place / "t").exists()
    with pytest.raises(ArchiveError, match="broken"):
        put_raw(place, b"not a tar at all" * 100)


def test_control_characters_in_names_are_not_shown(place: Path) -> None:
    warnings = put(place, [("a", FOLDER, ""), ("a/\x1b[2J", FIFO, "")])
    assert warnings == ["t/\\x1b[2J is left out: it is a device or a pipe"]


def packed(source: Path, name: str = "t", *, content_only: bool = False, follow: bool = False) -> tuple[bytes, list[str]]:
    warnings: list[str] = []
    data = b"".join(pack(str(source), name, content_only=content_only, keep_owner=False, follow=follow, warn=warnings.append))
    return data, warnings


def test_what_is_packed_comes_out_again(tmp_path: Path, place: Path) -> None:
    source = place / "src"
    (source / "sub").mkdir(parents=True)
    (source / "sub/big").write_bytes(os.urandom(700_000))
    (source / "empty").write_bytes(b"")
    (source / "exec").write_bytes(b"#!/bin/sh\n")
    (source / "exec").chmod(0o750)
    (source / "link").symlink_to("sub/big")
    os.link(source / "exec", source / "hard")
    (source / os.fsdecode(b"odd\xff\n name")).write_text("odd")
    data, warnings = packed(source)
    assert warnings == []
    assert put_raw(place, data) == []
    made = place / "t"
    assert (made / "sub/big").read_bytes() == (source / "sub/big").read_bytes()
    assert stat.S_IMODE((made / "exec").stat().st_mode) == 0o750
    assert os.readlink(made / "link") == "sub/big"
    assert (made / "hard").stat().st_ino == (made / "exec").stat().st_ino
    assert sorted(os.listdir(made)) == sorted(os.listdir(source))


def test_packed_owners_are_root(place: Path) -> None:
    (place / "f").write_text("x")
    os.chown(place / "f", 1234, 1234)
    data, _ = packed(place / "f")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        (member,) = tar
    assert (member.name, member.uid, member.gid, member.uname) == ("t", 0, 0, "")


def test_content_only_has_no_root(place: Path) -> None:
    (place / "d").mkdir()
    (place / "d/x").write_text("x")
    data, _ = packed(place / "d", "", content_only=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["x"]


def test_sockets_are_left_out(place: Path) -> None:
    import socket

    (place / "d").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / "d/s"))
        data, warnings = packed(place / "d")
    assert warnings == [f"{place}/d/s is left out: it is a socket"]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["t"]


def test_a_link_is_copied_or_followed(place: Path) -> None:
    (place / "f").write_text("x")
    (place / "l").symlink_to("f")
    kept, _ = packed(place / "l")
    followed, _ = packed(place / "l", follow=True)
    with tarfile.open(fileobj=io.BytesIO(kept)) as tar:
        assert tar.getmember("t").issym()
    with tarfile.open(fileobj=io.BytesIO(followed)) as tar:
        assert tar.getmember("t").isreg()
