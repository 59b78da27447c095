"""`cp` in and out: trees with their modes, links and names; nothing outside of source and target is touched."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from tests.conformance.instance import Instance, Maker


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with what trees have."""
    root = tmp_path / "tree"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "file").write_bytes(bytes(range(256)) * 100)
    (root / "sub" / "script").write_text("#!/bin/sh\necho ran\n")
    (root / "sub" / "script").chmod(0o755)
    (root / "private").write_text("x")
    (root / "private").chmod(0o600)
    (root / "link").symlink_to("sub/script")
    (root / "dangling").symlink_to("sub/no-such-file")
    (root / "ü name\n").write_text("odd")
    return root


def describe(root: Path) -> dict[str, tuple[str, str]]:
    """Path → (type and mode, content or target)."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            else:
                content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
            found[str(path.relative_to(root))] = (stat.filemode(mode), content)
    return found


def test_a_tree_comes_back_as_it_went_in(small: Instance, tree: Path, tmp_path: Path) -> None:
    small.daemon.cli("cp", str(tree), f"{small.name}:/srv/tree")
    assert small.sh("/srv/tree/link; cat /srv/tree/private; stat -c '%a %u:%g' /srv/tree/private").splitlines() == ["ran", "x600 0:0"]
    small.daemon.cli("cp", f"{small.name}:/srv/tree", str(tmp_path / "back"))
    assert describe(tmp_path / "back") == describe(tree)
    small.sh("rm -r /srv/tree")


def test_copy_into_an_existing_folder_goes_below_it(small: Instance, tree: Path) -> None:
    small.sh("mkdir /srv/there")
    small.daemon.cli("cp", str(tree), f"{small.name}:/srv/there")
    small.daemon.cli("cp", f"{tree}/.", f"{small.name}:/srv/there")
    assert small.sh("ls -d /srv/there/tree/sub /srv/there/sub").splitlines() == ["/srv/there/sub", "/srv/there/tree/sub"]
    small.sh("rm -r /srv/there")


def test_a_file_can_be_renamed_on_the_way(small: Instance, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A")
    small.daemon.cli("cp", str(tmp_path / "a"), f"{small.name}:/srv/b")
    small.daemon.cli("cp", f"{small.name}:/srv/b", str(tmp_path / "c"))
    assert (tmp_path / "c").read_text() == "A"
    small.daemon.cli("cp", f"{small.name}:/srv/b", str(tmp_path))
    assert (tmp_path / "b").read_text() == "A"
    small.sh("rm /srv/b")


def test_tar_streams_in_and_out(small: Instance) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("in/file")
        info.size, info.mode, info.uid, info.gid = 5, 0o640, 1000, 33
        tar.addfile(info, io.BytesIO(b"hello"))
    small.daemon.cli("cp", "-", f"{small.name}:/srv", stdin=data.getvalue())
    assert small.sh("cat /srv/in/file; stat -c ' %a' /srv/in/file") == "hello 640"
    with tarfile.open(fileobj=io.BytesIO(small.daemon.cli("cp", f"{small.name}:/srv/in", "-").out)) as tar:
        assert [name.rstrip("/") for name in tar.getnames()] == ["in", "in/file"]
    small.sh("rm -r /srv/in")


def test_large_file_both_ways(small: Instance, tmp_path: Path) -> None:
    data = os.urandom(20 << 20)
    (tmp_path / "big").write_bytes(data)
    small.daemon.cli("cp", str(tmp_path / "big"), f"{small.name}:/srv/big")
    assert small.sh("sha256sum /srv/big").split()[0] == hashlib.sha256(data).hexdigest()
    small.daemon.cli("cp", f"{small.name}:/srv/big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    small.sh("rm /srv/big")


@pytest.mark.parametrize("how", ["parent", "absolute", "link", "absolute link", "hard link"])
def test_archives_cannot_lead_out_of_the_instance(small: Instance, tmp_path: Path, how: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("untouched")
    up = "../" * 30
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, target
            tar.addfile(info, io.BytesIO(content))

        if how == "parent":
            add(f"{up}{victim}/file", b"changed")
        elif how == "absolute":
            add(f"{victim}/file", b"changed")
        elif how == "hard link":
            add("hard", kind=tarfile.LNKTYPE, target=f"{up}{victim}/file")
            add("hard", b"changed")
        else:
            add("out", kind=tarfile.SYMTYPE, target=str(victim) if how == "absolute link" else f"{up}{victim}")
            add("out/file", b"changed")
    small.sh("mkdir -p /srv/jail")
    small.daemon.cli("cp", "-", f"{small.name}:/srv/jail", stdin=data.getvalue(), check=False)
    assert (victim / "file").read_text() == "untouched"
    assert [path.name for path in victim.iterdir()] == ["file"]
    assert small.state == "running"
    small.sh("rm -rf /srv/jail")


def test_links_inside_cannot_lead_a_copy_out(small: Instance, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    small.sh(f"mkdir -p /srv/evil; ln -s {tmp_path} /srv/evil/out; ln -s {'../' * 30}{tmp_path}/secret /srv/evil/file")
    (tmp_path / "new").write_text("x")
    small.daemon.cli("cp", str(tmp_path / "new"), f"{small.name}:/srv/evil/out/planted", check=False)
    assert not (tmp_path / "planted").exists()
    done = small.daemon.cli("cp", "-L", f"{small.name}:/srv/evil/file", str(tmp_path / "got"), check=False)
    assert done.code != 0 or not (tmp_path / "got").is_file()
    small.sh("rm -rf /srv/evil")


def test_missing_source_and_target_are_said(small: Instance, tmp_path: Path) -> None:
    done = small.daemon.cli("cp", f"{small.name}:/no/such", str(tmp_path), check=False)
    assert done.code != 0
    assert b"/no/such" in done.err
    (tmp_path / "f").write_text("x")
    done = small.daemon.cli("cp", str(tmp_path / "f"), f"{small.name}:/no/such/folder/f", check=False)
    assert done.code != 0
    assert b"/no/such/folder" in done.err


def test_copy_works_with_a_stopped_instance(make: Maker, tmp_path: Path) -> None:
    made = make()
    made.sh("echo left >/root/file")
    made.act("stop", "-t", "0")
    done = made.daemon.cli("cp", f"{made.name}:/root/file", str(tmp_path / "file"), check=False)
    if done.code == 0:
        assert (tmp_path / "file").read_text() == "left\n"
    else:  # a runtime that can't must say so: see SPECIFICATION.md
        assert b"running" in done.err
        assert made.runtime == "vm"


def test_read_only_targets_refuse_a_copy(make: Maker, tmp_path: Path) -> None:
    made = make("--read-only", "-v", "/data")
    (tmp_path / "f").write_text("x")
    assert made.daemon.cli("cp", str(tmp_path / "f"), f"{made.name}:/etc/f", check=False).code != 0
    made.daemon.cli("cp", str(tmp_path / "f"), f"{made.name}:/data/f")
    assert made.sh("cat /data/f; ls /etc/f 2>/dev/null || true") == "x"
