"""The file tools: archives out and in, never outside the target; what an overlay changed."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import shutil
import socket
import stat
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.lab import copy_libraries

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
"""cap_net_bind_service=ep, version 2."""


@pytest.fixture
def run(agent_program: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    def call(*argv: str | Path, data: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([agent_program, *argv], input=data, capture_output=True, check=False, cwd=cwd, timeout=60)

    return call


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    subprocess.run(["chmod", "-R", "u+rwX", str(tmp_path)], check=False)


def make_tree(top: Path) -> None:
    """One of everything."""
    top.mkdir()
    (top / "plain").write_bytes(b"text\n")
    os.chmod(top / "plain", 0o640)
    (top / "empty").touch()
    os.link(top / "plain", top / "twin")
    (top / "link").symlink_to("plain")
    (top / "dangling").symlink_to("/no/where")
    (top / "long").symlink_to("t" * 300)
    os.mkfifo(top / "fifo", 0o600)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(top / "null", 0o666)
    os.mknod(top / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    (top / "setuid").write_bytes(b"#!")
    os.chown(top / "setuid", 1000, 2000)
    os.chmod(top / "setuid", 0o6755)
    os.chown(top / "link", 12, 13, follow_symlinks=False)
    deep = top / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    (deep / ("f" * 200)).write_bytes(b"deep")
    Path(os.fsdecode(bytes(top) + b"/n\xff\xfe\nodd ")).write_bytes(b"odd")
    (top / "grüße").write_bytes(b"umlaut")
    os.truncate(os.open(top / "sparse", os.O_CREAT | os.O_WRONLY), 3 << 20)
    with (top / "sparse").open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"middle")
    os.setxattr(top / "plain", "user.note", b"a=b\nc\0d")
    os.setxattr(top / "setuid", "security.capability", CAPABILITY)
    os.setxattr(top, "user.top", b"")
    (top / "sticky").mkdir()
    os.chmod(top / "sticky", 0o1777)
    os.utime(top / "plain", ns=(1, 1_234_567_890_123_456_789))
    os.utime(top / "sticky", ns=(1, -1_250_000_000))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(top / "socket"))


def describe(top: Path) -> dict[bytes, tuple[object, ...]]:
    """All that an archive must carry, by path."""
    found: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}
    for path in sorted([bytes(top), *(os.path.join(at, name) for at, dirs, files in os.walk(bytes(top)) for name in dirs + files)]):
        status = os.lstat(path)
        if stat.S_ISSOCK(status.st_mode):
            continue
        kind = stat.S_IFMT(status.st_mode)
        content: object = os.readlink(path) if kind == stat.S_IFLNK else None
        if kind == stat.S_IFREG:
            with open(path, "rb") as file:
                content = file.read()
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
        first = inodes.setdefault(status.st_ino, path)
        found[os.path.relpath(path, bytes(top))] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            status.st_rdev,
            content,
            attributes,
            os.path.relpath(first, bytes(top)),
        )
    return found


def test_round_trip_of_everything(run: Run, folder: Path) -> None:
    make_tree(folder / "tree")
    out = run("tar-out", folder / "tree")
    assert (out.returncode, out.stderr) == (0, b"")
    (folder / "copy").mkdir()
    into = run("tar-in", folder / "copy", data=out.stdout)
    assert (into.returncode, into.stderr) == (0, b"")
    assert describe(folder / "copy" / "tree") == describe(folder / "tree")
    assert describe(folder / "tree")[b"null"][0] == "0o20666"
    again = run("tar-in", folder / "copy", data=out.stdout)
    assert (again.returncode, again.stderr) == (0, b""), "unpacking over itself replaces"
    assert describe(folder / "copy" / "tree") == describe(folder / "tree")


def test_python_reads_our_archives(run: Run, folder: Path) -> None:
    make_tree(folder / "tree")
    with tarfile.open(fileobj=io.BytesIO(run("tar-out", folder / "tree").stdout)) as archive:
        members = {member.name: member for member in archive}
    assert set(members) == {os.fsdecode(b"tree/" + name) if name != b"." else "tree" for name in describe(folder / "tree")}
    assert members["tree/twin"].islnk()
    assert members["tree/twin"].linkname == "tree/plain"
    assert members["tree/plain"].pax_headers["SCHILY.xattr.user.note"] == "a=b\nc\0d"
    assert members["tree/plain"].mtime == pytest.approx(1_234_567_890.123)
    assert (members["tree/null"].devmajor, members["tree/null"].devminor) == (1, 3)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_we_read_pythons_archives(run: Run, folder: Path, format: int) -> None:
    stream = io.BytesIO()
    name = "/".join(["n" * 90] * (2 if format == tarfile.USTAR_FORMAT else 4))
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime, entry.mode, entry.uid = 5, 12345, 0o751, 77
        archive.addfile(entry, io.BytesIO(b"hello"))
        link = tarfile.TarInfo("s")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * (90 if format == tarfile.USTAR_FORMAT else 180)
        archive.addfile(link)
    done = run("tar-in", folder, data=stream.getvalue())
    assert (done.returncode, done.stderr) == (0, b"")
    status = (folder / name).stat()
    assert ((folder / name).read_bytes(), oct(status.st_mode), status.st_uid, status.st_mtime) == (b"hello", "0o100751", 77, 12345)
    assert os.readlink(folder / "s") == link.linkname


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("tree/sub", ["sub", "sub/x"]),
        ("tree/sub/", ["sub", "sub/x"]),
        ("tree/sub/.", ["x"]),
        ("tree/sub/x", ["x"]),
        ("tree/to-sub", ["to-sub"]),
    ],
)
def test_names_begin_at_the_last_component(run: Run, folder: Path, path: str, names: list[str]) -> None:
    (folder / "tree/sub").mkdir(parents=True)
    (folder / "tree/sub/x").touch()
    (folder / "tree/to-sub").symlink_to("sub")
    with tarfile.open(fileobj=io.BytesIO(run("tar-out", f"{folder}/{path}").stdout)) as archive:
        assert archive.getnames() == names


def test_errors_of_tar_out_are_precise(run: Run, folder: Path) -> None:
    done = run("tar-out", folder / "none")
    assert (done.returncode, done.stderr.decode()) == (1, f"tar-out: {folder}/none: No such file or directory\n")
    assert run("tar-out").returncode == 1


def test_one_mount(run: Run, folder: Path, agent_program: Path) -> None:
    (folder / "tree/other").mkdir(parents=True)
    (folder / "tree/file").touch()
    script = f"mount -t tmpfs x {folder}/tree/other && touch {folder}/tree/other/hidden && mount --bind /etc/passwd {folder}/tree/file && "
    script += f"{agent_program} tar-out -x {folder}/tree"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert archive.getnames() == ["tree", "tree/other"]


def make_archive(*entries: tuple[str, bytes, str]) -> bytes:
    """(name, type, link or content)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, text in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if kind == tarfile.REGTYPE:
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
            else:
                entry.linkname, entry.mode = text, 0o755
                archive.addfile(entry)
    return stream.getvalue()


FILE, DIR, SYM, HARD, CHAR = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../x", FILE, "evil")], "tar-in: ../x: outside the target"),
        ([("a/../../x", FILE, "evil")], "tar-in: a/../../x: outside the target"),
        ([("..", DIR, "")], "tar-in: ../: outside the target"),
        ([("/x", FILE, "evil")], "tar-in: /x: outside the target"),
        ([("l", SYM, ".."), ("l/x", FILE, "evil")], "tar-in: l/x: outside the target (by a symbolic link)"),
        ([("l", SYM, "/tmp"), ("l/x", FILE, "evil")], "tar-in: l/x: outside the target (by a symbolic link)"),
        ([("l", SYM, "../outside"), ("l", DIR, "")], "tar-in: l/: outside the target (by a symbolic link)"),
        ([("l", SYM, "l"), ("l/x", FILE, "evil")], "tar-in: l/x: outside the target (by a symbolic link)"),
        ([("h", HARD, "../outside/secret")], "tar-in: ../outside/secret: outside the target"),
        ([("l", SYM, "../outside"), ("h", HARD, "l/secret")], "tar-in: h: outside the target (by a symbolic link)"),
        ([("h", HARD, "none")], "tar-in: h: No such file or directory"),
        ([("d", DIR, ""), ("d", FILE, "x")], "tar-in: d: only a folder can replace a folder"),
        ([("f", FILE, "x"), ("f", DIR, "")], "tar-in: f/: a folder can't replace what isn't one"),
        ([("f", FILE, "x"), ("f/x", FILE, "x")], "tar-in: f/x: Not a directory"),
        ([("", FILE, "x")], "tar-in: : no name"),
    ],
)
def test_nothing_outside_is_touched(run: Run, folder: Path, entries: list[tuple[str, bytes, str]], message: str) -> None:
    (folder / "outside").mkdir()
    (folder / "outside/secret").write_text("secret")
    (folder / "in").mkdir()
    before = describe(folder / "outside")
    done = run("tar-in", folder / "in", data=make_archive(*entries))
    assert (done.returncode, done.stderr.decode().strip()) == (1, message)
    assert describe(folder / "outside") == before
    assert sorted(path.name for path in folder.iterdir()) == ["in", "outside"]


def test_a_link_at_the_end_is_replaced_not_followed(run: Run, folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "victim").write_text("old")
    (folder / "in/l").symlink_to("../victim")
    done = run("tar-in", folder / "in", data=make_archive(("l", FILE, "new")))
    assert (done.returncode, done.stderr) == (0, b"")
    assert (folder / "victim").read_text() == "old"
    assert (folder / "in/l").read_text() == "new"
    assert not (folder / "in/l").is_symlink()


def test_links_inside_the_target_are_followed(run: Run, folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "l").symlink_to("real")
    done = run("tar-in", folder, data=make_archive(("l", DIR, ""), ("l/x", FILE, "1"), ("./made/on/the/way", FILE, "2")))
    assert (done.returncode, done.stderr) == (0, b"")
    assert (folder / "real/x").read_text() == "1"
    assert (folder / "l").is_symlink()
    assert (folder / "made/on/the/way").read_text() == "2"


def test_absolute_links_inside_a_whole_root(agent_program: Path, folder: Path) -> None:
    """DIR is "/" of a chroot: var/run → /run stays inside."""
    (folder / "run").mkdir()
    (folder / "var").mkdir()
    (folder / "var/run").symlink_to("/run")
    (folder / "proc").mkdir()
    shutil.copy(agent_program, folder / "agent")
    copy_libraries(agent_program, folder)
    script = f"mount -t proc p {folder}/proc && exec chroot {folder} /agent tar-in /"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], input=make_archive(("var/run/x", FILE, "1")), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (folder / "run/x").read_text() == "1"


def test_without_openat2(agent_program: Path, folder: Path) -> None:
    """As under an old seccomp profile or in a sandbox: still works, and still doesn't follow links."""
    (folder / "d").mkdir()
    for entries, code in [((("d/e/x", FILE, "1"),), 0), ((("l", SYM, "d"), ("l/y", FILE, "2")), 1)]:
        done = subprocess.run(
            [agent_program, "tar-in", folder], input=make_archive(*entries), capture_output=True, check=False, preexec_fn=_forbid_openat2
        )
        assert done.returncode == code, done.stderr
    assert (folder / "d/e/x").read_text() == "1"
    assert not (folder / "d/y").exists()


def _forbid_openat2() -> None:
    program = struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 1, 437)
    program += struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | errno.ENOSYS) + struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    array = ctypes.create_string_buffer(program)
    filter_ = struct.pack("HxxxxxxP", 4, ctypes.addressof(array))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    assert libc.prctl(22, 2, ctypes.c_char_p(filter_), 0, 0) == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "unexpected end of the archive"),
        (b"x" * 511, "unexpected end of the archive"),
        (b"x" * 512, "wrong checksum: not a tar archive, or a damaged one"),
        (make_archive(("f", FILE, "x" * 2000))[:1500], "unexpected end of the archive"),
        (make_archive(("f", FILE, "x" * 2000))[:2560], "unexpected end of the archive"),
    ],
)
def test_damaged_archives(run: Run, folder: Path, data: bytes, message: str) -> None:
    done = run("tar-in", folder, data=data)
    assert (done.returncode, done.stderr.decode()) == (1, f"tar-in: {message}\n")


def test_the_target_must_be_there(run: Run, folder: Path) -> None:
    done = run("tar-in", folder / "none", data=b"")
    assert (done.returncode, done.stderr.decode()) == (1, f"tar-in: {folder}/none: No such file or directory\n")


def test_a_full_disk_is_said(folder: Path, agent_program: Path) -> None:
    data = make_archive(("f", FILE, "x" * 200_000))
    script = f"mount -t tmpfs -o size=64k x {folder} && exec {agent_program} tar-in {folder}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], input=data, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (1, "tar-in: f: No space left on device\n")


def test_a_big_file_streams(run: Run, folder: Path) -> None:
    """Nine gibibytes, announced as such; only the beginning is read here."""
    with (folder / "big").open("wb") as file:
        file.truncate(9 << 30)
    with subprocess.Popen([*_argv(run), "tar-out", folder / "big"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        head = process.stdout.read(1 << 20)
        process.kill()
    with tarfile.open(fileobj=io.BytesIO(head), mode="r|") as archive:
        member = archive.next()
        assert member is not None
        assert (member.name, member.size) == ("big", 9 << 30)


def _argv(run: Run) -> list[str]:
    closure = run.__closure__ or ()  # type: ignore[attr-defined]
    return [str(cell.cell_contents) for cell in closure if isinstance(cell.cell_contents, Path)]


def test_stat(run: Run, folder: Path) -> None:
    (folder / "l").symlink_to("target")
    os.utime(folder / "l", ns=(0, 5_000_000_007), follow_symlinks=False)
    path, mode, size, mtime, link, rest = run("stat", folder / "l").stdout.split(b"\0")
    assert (path, oct(int(mode, 8)), size, mtime, link, rest) == (
        os.fsencode(folder / "l"),
        "0o120777",
        b"6",
        b"5.000000007",
        b"target",
        b"",
    )
    assert run("stat", folder / "none").stderr.decode() == f"stat: {folder}/none: No such file or directory\n"


# ---- overlays


@pytest.fixture
def overlay(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """(upper, lowers topmost first), changed by real overlay mounts: two lower layers and an upper one."""
    base, middle, upper, merged = (folder / name for name in ("base", "middle", "upper", "merged"))
    for path in (base / "etc", base / "old/sub", base / "gone", base / "quiet", middle, upper, merged):
        path.mkdir(parents=True)
    for name in ("etc/changed", "etc/same", "old/sub/file", "old/a", "gone/x", "quiet/same", "removed-below", "removed"):
        (base / name).write_text(name)
    _change(folder, f"{base}", middle, "rm m/removed-below; echo x > m/middle; rm -r m/gone; mkdir m/gone; echo y > m/gone/y")
    script = (
        "echo x >> m/etc/changed; echo n > m/etc/new; rm -r m/old; mkdir m/old; echo o > m/old/only; rm m/removed; rm -r m/gone;"
        "mkdir -p m/new/dir m/run/twinhull m/holder; touch m/run/twinhull/agent m/holder/point; chmod 700 m/quiet;"
        "echo back > m/removed-below; rm m/middle; ln m/etc/new m/etc/twin; mkfifo m/pipe"
    )
    _change(folder, f"{middle}:{base}", upper, script)
    yield upper, [middle, base]


def _change(folder: Path, lowers: str, upper: Path, script: str) -> None:
    (folder / "work").mkdir(exist_ok=True)
    (folder / "m").mkdir(exist_ok=True)
    mount = f"mount -t overlay x -o lowerdir={lowers},upperdir={upper},workdir={folder}/work m && {script}"
    subprocess.run(["unshare", "-m", "sh", "-ec", mount], cwd=folder, check=True)
    subprocess.run(["rm", "-rf", "work"], cwd=folder, check=True)


EXPECTED = [
    "C /etc",
    "C /etc/changed",
    "A /etc/new",
    "A /etc/twin",
    "D /gone",
    "A /holder",
    "A /holder/point",
    "D /middle",
    "A /new",
    "A /new/dir",
    "C /old",
    "A /old/only",
    "D /old/a",
    "D /old/sub",
    "A /pipe",
    "C /quiet",
    "D /removed",
    "A /removed-below",
]


def test_diff(run: Run, overlay: tuple[Path, list[Path]]) -> None:
    upper, lowers = overlay
    done = run("diff", upper, *lowers)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split("\0")[:-1] == EXPECTED


def test_mount_points_are_no_changes(run: Run, overlay: tuple[Path, list[Path]]) -> None:
    upper, lowers = overlay
    without = run("diff", "-x", "/holder/point", "-x", "/new/", upper, *lowers).stdout.decode().split("\0")[:-1]
    assert sorted(set(EXPECTED) - set(without)) == ["A /holder", "A /holder/point"], "/new holds a folder of its own"
    (upper / "run/twinhull/agent").write_text("not empty")
    assert {"A /run", "A /run/twinhull", "A /run/twinhull/agent"} <= set(run("diff", upper, *lowers).stdout.decode().split("\0"))
    with tarfile.open(fileobj=io.BytesIO(run("layer", "-x", "holder/point", upper).stdout)) as archive:
        assert not [name for name in archive.getnames() if name.startswith("holder")]
    (upper / "holder/point").unlink()
    assert b"A /holder\0" in run("diff", "-x", "/holder/point", upper, *lowers).stdout, "an empty folder that somebody made"


def test_diff_of_nothing(run: Run, folder: Path) -> None:
    for name in ("upper/same", "lower/same"):
        (folder / name).mkdir(parents=True)
    assert run("diff", folder / "upper", folder / "lower").stdout == b""
    assert run("diff", folder / "none", folder / "lower").returncode == 1


def test_layer(run: Run, overlay: tuple[Path, list[Path]]) -> None:
    upper, _ = overlay
    done = run("layer", upper)
    assert (done.returncode, done.stderr) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        names = archive.getnames()
        members = {member.name: member for member in archive}
    assert names == [
        "etc", "etc/changed", "etc/new", "etc/twin", ".wh.gone", "holder", "holder/point", ".wh.middle", "new", "new/dir",
        "old", "old/.wh..wh..opq", "old/only", "pipe", "quiet", ".wh.removed", "removed-below",
    ]  # fmt: skip
    assert members["etc/twin"].islnk()
    assert all(not key.startswith("SCHILY.xattr.trusted.overlay") for member in members.values() for key in member.pax_headers)
    assert members["etc/changed"].mtime == int(members["etc/changed"].mtime)
    assert run("layer", upper).stdout == done.stdout, "the same tree, the same bytes"


def test_layer_of_a_user_namespace(run: Run, folder: Path) -> None:
    base = 200_000
    (folder / "file").write_text("x")
    (folder / "foreign").write_text("x")
    os.chown(folder / "file", base + 5, base + 6)
    os.setxattr(folder / "file", "security.capability", struct.pack("<6I", 0x03000001, 1 << 10, 0, 0, 0, base))
    with tarfile.open(fileobj=io.BytesIO(run("layer", "-u", str(base), folder).stdout), errors="surrogateescape") as archive:
        members = {member.name: member for member in archive}
    assert (members["file"].uid, members["file"].gid, members["foreign"].uid) == (5, 6, 0)
    assert members["file"].pax_headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape") == CAPABILITY
