"""The checker itself: each kind of leak is planted, found by its name, and gone after it was removed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.leaks import LeakError, assert_clean, difference, snapshot

from twinhull.home import Home


@contextmanager
def sleeper(*wrapper: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> Iterator[int]:
    """A process that says when it runs; its pid."""
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    argv = [*wrapper, sys.executable, "-c", code]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd, env={"PATH": os.environ["PATH"]} | (env or {}), text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process.pid
    finally:
        process.communicate("")


def kinds(home: Home) -> dict[str, list[str]]:
    """kind → names."""
    found: dict[str, list[str]] = {}
    for leak in sorted(snapshot(home)):
        found.setdefault(leak.kind, []).append(leak.name)
    return found


@contextmanager
def netns() -> Iterator[str]:
    """A network namespace, as a path."""
    with sleeper("unshare", "-n") as pid:
        yield f"/proc/{pid}/ns/net"


def enter(space: str, *argv: str) -> None:
    subprocess.run(["nsenter", f"--net={space}", *argv], check=True, capture_output=True)


def test_nothing_is_found_for_a_fresh_home(home: Home) -> None:
    assert snapshot(home) == frozenset()


@pytest.mark.parametrize("mark", ["environment", "folder", "argument", "open file"])
def test_a_process_is_known_by_each_mark(home: Home, mark: str) -> None:
    root = home.state.parent
    plant = {
        "environment": lambda: sleeper(env={"TWINHULL_HOME": str(root)}),
        "folder": lambda: sleeper(cwd=root),
        "argument": lambda: sleeper("env", f"X={root}/run/i/1"),
        "open file": lambda: sleeper("sh", "-c", f'exec 9>{root}/held; rm {root}/held; exec "$@"', "sh"),
    }
    with plant[mark]() as pid:
        assert [name.split()[0] for name in kinds(home)["process"]] == [str(pid)]
    assert_clean(home, timeout=2)


def test_a_longer_name_is_another_home(home: Home) -> None:
    with sleeper(env={"TWINHULL_HOME": f"{home.state.parent}2"}):
        assert snapshot(home) == frozenset()


def test_a_cgroup_and_the_process_in_it_are_found(home: Home) -> None:
    root = Path("/sys/fs/cgroup/pids") if Path("/sys/fs/cgroup/pids").is_dir() else Path("/sys/fs/cgroup")
    folder = root / home.cgroup / "0123456789ab"
    folder.mkdir(parents=True)
    try:
        with sleeper() as pid:
            (folder / "cgroup.procs").write_text(str(pid))
            found = kinds(home)
            assert str(folder) in found["cgroup"]
            assert found["process"] == [f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}"]
    finally:
        folder.rmdir()
        folder.parent.rmdir()
    assert_clean(home, timeout=2)


def test_a_mount_is_found_in_somebody_elses_namespace(home: Home) -> None:
    point = home.run / "a mount"
    point.mkdir(parents=True)
    with sleeper("unshare", "-m", "sh", "-c", f'mount -t tmpfs none "{point}" && exec "$@"', "sh"):
        assert kinds(home)["mount"] == [str(point)]


def test_interfaces_tables_and_namespaces_are_found(home: Home) -> None:
    name = home.ifname("b", 7)
    with netns() as space:
        enter(space, "ip", "link", "add", name, "type", "bridge")
        enter(space, "nft", "add", "table", "inet", home.nft_table)
        found = kinds(home)
    assert found == {"interface": [name], "nftables table": [home.nft_table]}
    assert_clean(home, timeout=2)


def test_a_pinned_network_namespace_is_found(home: Home) -> None:
    point = home.run / "slot"
    home.run.mkdir(parents=True)
    point.touch()
    with sleeper("unshare", "-m", "sh", "-c", f'mount --bind /proc/self/ns/net "{point}" && exec "$@"', "sh", "unshare", "-n"):
        pass
    with netns() as space:
        wanted = os.readlink(space)
        with sleeper("unshare", "-m", "sh", "-c", f'mount --bind {space} "{point}" && exec "$@"', "sh"):
            assert kinds(home)["network namespace"] == [wanted]


def test_a_namespace_that_only_a_process_of_the_home_holds_is_found(home: Home) -> None:
    with sleeper("unshare", "-n", env={"TWINHULL_HOME": str(home.state.parent)}) as pid:
        assert kinds(home)["network namespace"] == [os.readlink(f"/proc/{pid}/ns/net")]


def test_a_loop_device_is_found_though_its_file_is_deleted(home: Home) -> None:
    home.state.mkdir(parents=True)
    backing = home.state / "scratch.img"
    with backing.open("wb") as file:
        file.truncate(1 << 20)
    device = subprocess.run(["losetup", "-f", "--show", str(backing)], check=True, capture_output=True, text=True).stdout.strip()
    try:
        backing.unlink()
        assert kinds(home)["loop device"] == [device.removeprefix("/dev/")]
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    assert_clean(home, timeout=2)


def test_files_and_sockets_are_found(home: Home) -> None:
    instance = home.instance_run("a" * 64)
    instance.mkdir(parents=True)
    home.instance_state("b" * 64).mkdir(parents=True)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(instance / "control.sock"))
        found = kinds(home)
    assert found["socket"] == [str(instance / "control.sock")]
    assert sorted(found["file"]) == sorted([str(instance), str(home.instance_state("b" * 64))])


def test_difference_and_message_name_what_is_new(home: Home) -> None:
    home.instance_run("a" * 64).mkdir(parents=True)
    before = snapshot(home)
    home.instance_run("c" * 64).mkdir(parents=True)
    assert [leak.name for leak in difference(before, snapshot(home))] == [str(home.instance_run("c" * 64))]
    with pytest.raises(LeakError, match=f"file {home.instance_run('c' * 64)}"):
        assert_clean(home, before, timeout=0)
    assert_clean(home, before, timeout=0, ignore=lambda leak: leak.name.endswith("c" * 12))
