"""Bad input and a bad machine: each one clear error, a fitting exit code, and nothing left behind."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import leaks
from tests.harness import Daemon, Done
from tests.images.base import archive


@pytest.fixture(scope="module", autouse=True)
def _parent_cgroup(daemon: Daemon) -> None:
    """What the first instance of a daemon makes, and the daemon keeps to its end, is there before anything is compared."""
    daemon.cli("run", "--rm", "busybox", "true")


@pytest.fixture
def refused(daemon: Daemon) -> Iterator[Callable[..., Done]]:
    """`refused(words, *argv)`: the command fails with one short error that contains the words; afterwards nothing is new."""
    before = leaks.snapshot(daemon.home)

    def check(words: str, *argv: str, stdin: bytes = b"") -> Done:
        done = daemon.cli(*argv, stdin=stdin, check=False)
        text = done.err.decode()
        assert done.code not in (0, 137, -9), done
        assert words in text, text
        assert "Traceback" not in text, text
        assert len(text.splitlines()) <= 3, text
        return done

    yield check
    leaks.assert_clean(daemon.home, before)


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def test_unknown_image(refused: Callable[..., Done], runtime: str) -> None:
    assert refused("no/such", "run", "--rm", "--runtime", runtime, "no/such:1", "true").code == 125


@pytest.mark.parametrize("reference", ["UPPER/case", "a//b", "a:b:c", "img@sha256:short", "-x/y", "a b"])
def test_bad_reference(refused: Callable[..., Done], reference: str) -> None:
    refused(reference, "run", "--rm", "--", reference, "true")


def test_nothing_to_run(refused: Callable[..., Done], daemon: Daemon) -> None:
    """An instance without a program is never made: it couldn't be shown, nor recovered."""
    refused("neither entrypoint nor command", "run", "--entrypoint", "", "busybox")
    assert daemon.cli("ps", "-a").code == 0


def test_unknown_user(refused: Callable[..., Done], runtime: str) -> None:
    refused("nosuchuser", "run", "--rm", "--runtime", runtime, "--user", "nosuchuser", "busybox", "true")


def test_missing_program(refused: Callable[..., Done], runtime: str) -> None:
    assert refused("no-such-program", "run", "--rm", "--runtime", runtime, "busybox", "no-such-program").code == 127


def test_missing_bind_source(refused: Callable[..., Done], runtime: str) -> None:
    source = "/nonexistent/source"
    refused(source, "run", "--rm", "--runtime", runtime, "--mount", f"type=bind,source={source},target=/x", "busybox", "true")


def test_starts_that_fail_keep_no_interface_open(daemon: Daemon, runtime: str, tmp_path: Path) -> None:
    """The network is ready before the mounts are looked up: what it handed out for a start that then fails is given back."""
    source = tmp_path / "gone"
    source.mkdir()
    daemon.cli("create", "--name", "sourceless", "--runtime", runtime, "-v", f"{source}:/x", "busybox", "true")
    source.rmdir()
    try:
        assert daemon.process is not None
        before = _open_devices(daemon.process.pid)
        for _ in range(3):
            assert b"doesn't exist" in daemon.cli("start", "sourceless", check=False).err
        assert _open_devices(daemon.process.pid) == before
    finally:
        daemon.cli("rm", "-f", "sourceless")


def _open_devices(pid: int) -> list[str]:
    """Taps and network namespaces that the process holds."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    return sorted(link for link in links if link == "/dev/net/tun" or link.startswith("net:"))


def test_unknown_network(refused: Callable[..., Done], runtime: str) -> None:
    refused("nosuchnet", "run", "--rm", "--runtime", runtime, "--network", "nosuchnet", "busybox", "true")


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("memory", ["--memory", "1k"]),
        ("--memory", ["--memory", "much"]),
        ("runtime", ["--runtime", "zeppelin"]),
        ("--cpus", ["--cpus", "-1"]),
        ("port", ["-p", "99999:80"]),
        ("-p", ["-p", "a:b"]),
        ("absolute", ["-v", "relative/path:nowhere"]),
        ("seccomp", ["--security-opt", "seccomp=unconfined"]),
        ("rivileged", ["--privileged"]),
        ("signal", ["--stop-signal", "NOPE"]),
        ("restart", ["--restart", "sometimes"]),
        ("--nmae", ["--nmae", "x"]),
    ],
)
def test_bad_flag(refused: Callable[..., Done], words: str, flags: list[str]) -> None:
    refused(words, "run", "--rm", *flags, "busybox", "true")


def test_host_network_is_refused_for_vms(refused: Callable[..., Done]) -> None:
    refused("kernel of its own", "create", "--runtime", "vm", "--network", "host", "busybox", "true")


def test_port_taken_by_another_program(refused: Callable[..., Done], daemon: Daemon, runtime: str) -> None:
    code = "import socket,sys; s=socket.create_server(('0.0.0.0', 18080)); print('up', flush=True); sys.stdin.read()"
    with daemon.net.popen("python3", "-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        refused("18080", "run", "--rm", "--runtime", runtime, "-p", "18080:80", "busybox", "true")
        holder.communicate()


def test_port_taken_by_another_instance(refused: Callable[..., Done], daemon: Daemon, runtime: str) -> None:
    daemon.cli("run", "-d", "--name", "holder", "-p", "18081:80", "busybox", "sleep", "1000")
    try:
        refused("holder", "run", "--rm", "--runtime", runtime, "-p", "18081:80", "busybox", "true")
    finally:
        daemon.cli("rm", "-f", "holder")


def test_name_taken_and_volume_and_image_and_network_in_use(refused: Callable[..., Done], daemon: Daemon, runtime: str) -> None:
    daemon.cli("network", "create", "usednet")
    daemon.cli("create", "--name", "user", "--runtime", runtime, "--network", "usednet", "-v", "used:/data", "busybox", "true")
    try:
        refused("user", "create", "--name", "user", "busybox", "true")
        refused("user", "volume", "rm", "used")
        refused("user", "network", "rm", "usednet")
        refused("user", "image", "rm", "busybox")
    finally:
        daemon.cli("rm", "-f", "user")
        daemon.cli("volume", "rm", "used")
        daemon.cli("network", "rm", "usednet")


@pytest.mark.parametrize(
    "content",
    [b"", b"not a tar at all", archive("busybox").read_bytes()[:100_000], _tar((tarfile.TarInfo("manifest.json"), b"[{}]"))],
    ids=["empty", "noise", "truncated", "no-image"],
)
def test_malformed_archive(refused: Callable[..., Done], content: bytes) -> None:
    refused("", "image", "load", stdin=content)


@pytest.mark.parametrize(
    "member",
    [
        (tarfile.TarInfo("../escaped"), b"x"),
        (tarfile.TarInfo("/etc/../../escaped"), b"x"),
        _link("hard", "../../../etc/passwd", tarfile.LNKTYPE),
    ],
    ids=["parent", "through", "hardlink"],
)
def test_archive_that_leaves_its_root_is_refused(refused: Callable[..., Done], member: tuple[tarfile.TarInfo, bytes]) -> None:
    refused("", "image", "import", "-", "evil:1", stdin=_tar(member))
    assert not Path("/escaped").exists()


def test_cp_into_an_instance_never_leaves_its_root(daemon: Daemon, runtime: str, tmp_path: Path) -> None:
    daemon.cli("run", "-d", "--name", "victim", "--runtime", runtime, "busybox", "sleep", "1000")
    try:
        daemon.cli("exec", "victim", "ln", "-s", str(tmp_path), "/tmp/out")
        for evil in ((tarfile.TarInfo("../../../../../escaped"), b"x"), _link("h", "../../../../etc/shadow", tarfile.LNKTYPE)):
            assert daemon.cli("cp", "-", "victim:/tmp", stdin=_tar(evil), check=False).code != 0
        daemon.cli("cp", "-", "victim:/tmp/out", stdin=_tar((tarfile.TarInfo("landed"), b"x")), check=False)
        assert list(tmp_path.iterdir()) == []
        assert not Path("/escaped").exists()
    finally:
        daemon.cli("rm", "-f", "victim")


def test_cp_out_of_an_instance_writes_only_where_it_was_told(daemon: Daemon, runtime: str, tmp_path: Path) -> None:
    """A hostile instance may offer any tree; links in it stay links and nothing is written through them."""
    outside, into = tmp_path / "outside", tmp_path / "into"
    outside.mkdir()
    into.mkdir()
    daemon.cli("run", "-d", "--name", "hostile", "--runtime", runtime, "busybox", "sleep", "1000")
    try:
        daemon.cli("exec", "hostile", "sh", "-c", f"mkdir /tmp/d && ln -s {outside} /tmp/d/link && echo x > /tmp/d/file")
        daemon.cli("cp", "hostile:/tmp/d", str(into), check=False)
        assert list(outside.iterdir()) == []
        assert (into / "d" / "file").read_text() == "x\n"
    finally:
        daemon.cli("rm", "-f", "hostile")


def test_no_such_instance(refused: Callable[..., Done]) -> None:
    for verb in (["start"], ["stop"], ["rm"], ["logs"], ["inspect"], ["top"], ["pause"], ["port"]):
        refused("nosuch", *verb, "nosuch")
    refused("nosuch", "exec", "nosuch", "true")
    refused("nosuch", "cp", "nosuch:/a", "-")


def test_a_full_disk_is_said_and_leaves_nothing(own_daemon: Daemon, tmp_path: Path) -> None:
    """The home is a file system of 24 MiB on a loop device: the image doesn't fit."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
    root = own_daemon.home.state.parent
    subprocess.run(["mount", "-o", "loop", str(disk), str(root)], check=True)
    try:
        own_daemon.start()
        done = own_daemon.cli("image", "load", "-i", str(archive("debian-python")), check=False)
        assert done.code not in (0, 137), done
        assert "no space left" in done.err.decode().lower()
        assert own_daemon.cli("images", "-q").text == ""
        own_daemon.stop(everything=True)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_no_kernel_and_no_qemu_are_said_for_vms_and_containers_go_on(own_daemon: Daemon, tmp_path: Path) -> None:
    own_daemon.start(env={"TWINHULL_ASSETS": str(tmp_path)})
    own_daemon.cli("image", "load", "-i", str(archive("busybox")))
    done = own_daemon.cli("run", "--rm", "--runtime", "vm", "busybox", "true", check=False)
    assert done.code == 125, done
    assert "kernel" in done.err.decode()
    assert "make setup" in done.err.decode()
    own_daemon.stop(everything=True)
    leaks.assert_clean(own_daemon.home)


def test_a_second_daemon_for_the_same_home_is_refused(daemon: Daemon) -> None:
    second = subprocess.run([daemon_program(), "daemon"], env=daemon.environment, capture_output=True, timeout=30, check=False)
    assert second.returncode == 2
    assert b"runs already" in second.stderr


def daemon_program() -> str:
    from tests.harness import PROGRAM

    return PROGRAM


def test_a_file_that_is_no_daemon_at_the_socket_is_told_apart(own_daemon: Daemon) -> None:
    path = own_daemon.home.socket
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    own_daemon.start()
    assert own_daemon.cli("ps", "-q").text == ""
    own_daemon.stop(everything=True)
