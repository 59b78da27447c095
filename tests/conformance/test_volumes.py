"""Named volumes, bind mounts, tmpfs, secrets and configs: the same files with the same owners from every hull."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.instance import Instance, Maker, volume, wait_for
from tests.harness import Daemon

WRITE = "echo '%s' >%s && sync"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A host folder that the mapped root of an instance may reach."""
    for parent in [tmp_path, *tmp_path.parents[:3]]:
        if parent != Path("/tmp"):
            parent.chmod(0o755)
    return tmp_path


@pytest.fixture(scope="module")
def shared(daemon: Daemon, runtime: str) -> Iterator[str]:
    """A volume for the whole module."""
    with volume(daemon, f"shared-{runtime}") as name:
        yield name


@pytest.fixture(scope="module")
def writer(daemon: Daemon, runtime: str, shared: str) -> Iterator[Instance]:
    """Runs on the runtime under test, with the volume."""
    maker = Maker(daemon, runtime)
    yield maker("-v", f"{shared}:/data")
    maker.clear()


@pytest.fixture(scope="module")
def reader(daemon: Daemon, other_runtime: str, shared: str, writer: Instance) -> Iterator[Instance]:
    """Runs on each runtime, with the same volume."""
    maker = Maker(daemon, other_runtime)
    yield maker("-v", f"{shared}:/elsewhere")
    maker.clear()


def test_volume_is_shared_between_any_two_runtimes(writer: Instance, reader: Instance) -> None:
    writer.sh("mkdir -p /data/d; " + WRITE % ("from the writer", "/data/d/note"))
    assert reader.sh("cat /elsewhere/d/note") == "from the writer"
    reader.sh("rm /elsewhere/d/note; " + WRITE % ("from the reader", "/elsewhere/d/answer"))
    wait_for("the answer", lambda: writer.sh("cat /data/d/answer 2>/dev/null || true") == "from the reader")
    assert writer.exec("test", "-e", "/data/d/note", check=False).code == 1
    writer.sh("rm -r /data/d")


def test_owners_and_modes_are_the_same_from_any_runtime(writer: Instance, reader: Instance) -> None:
    writer.sh("cd /data; touch o; chown 1000:33 o; chmod 2750 o; ln -sf /no/where l; ln -f o h")
    seen = reader.sh("cd /elsewhere; stat -c '%a %u:%g %h %F' o h; readlink l")
    assert seen.splitlines() == ["2750 1000:33 2 regular empty file"] * 2 + ["/no/where"]
    assert reader.exec("cat", "/elsewhere/o", flags=["-u", "app"]).code == 0
    assert reader.exec("cat", "/elsewhere/o", flags=["-u", "4321:4321"], check=False).code == 1
    writer.sh("cd /data; rm o l h")


@pytest.mark.except_for("vm", "its volumes hold no pipes")
@pytest.mark.except_for("sandbox", "its volumes hold no pipes")
def test_pipes_can_be_made_on_a_volume(writer: Instance) -> None:
    writer.sh("cd /data; umask 077; mkfifo p")
    assert writer.sh("stat -c '%a %F' /data/p; rm /data/p") == "600 fifo"


def test_appends_from_two_instances_are_all_kept(writer: Instance, reader: Instance) -> None:
    for number in range(10):
        writer.sh(f"echo w{number} >>/data/log; sync")
        reader.sh(f"echo r{number} >>/elsewhere/log; sync")
    wanted = {f"{who}{number}" for who in "wr" for number in range(10)}
    assert set(writer.sh("cat /data/log; rm /data/log").split()) == wanted


def test_a_plain_user_writes_to_a_volume_it_owns(writer: Instance) -> None:
    writer.sh("mkdir /data/own; chown app:app /data/own")
    writer.exec("sh", "-c", "echo mine >/data/own/f && mkdir /data/own/sub", flags=["-u", "app"])
    assert writer.sh("stat -c %u:%g /data/own/f /data/own/sub; rm -r /data/own").split() == ["1000:1000"] * 2
    assert writer.exec("touch", "/data/not-mine", flags=["-u", "app"], check=False).code == 1


@pytest.mark.except_for("sandbox", "its files tell no holes")
def test_files_of_a_volume_sync_lock_map_and_keep_holes(make: Maker, daemon: Daemon) -> None:
    script = (
        "import os,fcntl,mmap\nos.chdir('/data'); f=open('f','w+b'); f.truncate(1<<30); os.fsync(f.fileno())\n"
        "fcntl.lockf(f,fcntl.LOCK_EX); m=mmap.mmap(f.fileno(),4096); m[0:5]=b'hello'; m.flush(); os.rename('f','g')\n"
        "s=os.stat('g'); print(s.st_size, s.st_blocks*512 < 1<<20, open('g','rb').read(5), f.fileno()>0, os.listdir('.'))"
    )
    from tests.conformance.instance import PYTHON

    with volume(daemon, f"files-{make.runtime}") as name:
        assert make.foreground("-v", f"{name}:/data", image=PYTHON, command=["python3", "-c", script]).text == (
            f"{1 << 30} True b'hello' True ['g']"
        )


def test_new_volume_is_filled_from_the_image_once(make: Maker, daemon: Daemon) -> None:
    with volume(daemon, f"filled-{make.runtime}") as name:
        first = make.foreground(
            "-v", f"{name}:/var/www", command=["sh", "-c", "cat /var/www/index.html; rm /var/www/index.html; touch /var/www/x"]
        )
        assert first.text == "hello from busybox"
        assert make.foreground("-v", f"{name}:/var/www", command=["ls", "/var/www"]).text == "x"


def test_volume_outlives_its_instances_and_is_guarded_while_used(make: Maker, daemon: Daemon) -> None:
    with volume(daemon, f"kept-{make.runtime}") as name:
        made = make("-v", f"{name}:/data")
        made.sh("echo kept >/data/f; sync")
        refused = daemon.cli("volume", "rm", name, check=False)
        assert refused.code != 0
        assert made.name.encode() in refused.err or b"use" in refused.err
        made.act("rm", "-f", "-v")
        assert make.foreground("-v", f"{name}:/data:ro", command=["cat", "/data/f"]).text == "kept"


def test_anonymous_volumes_go_with_their_instance(make: Maker, daemon: Daemon) -> None:
    before = set(daemon.cli("volume", "ls", "-q").lines)
    made = make("-v", "/data")
    assert len(set(daemon.cli("volume", "ls", "-q").lines) - before) == 1
    made.act("rm", "-f", "-v")
    assert set(daemon.cli("volume", "ls", "-q").lines) == before


def test_bind_mount_keeps_owners_on_the_host(make: Maker, folder: Path) -> None:
    (folder / "host").write_text("from the host\n")
    os.chown(folder / "host", 1000, 33)
    made = make("-v", f"{folder}:/bound")
    assert made.sh("cat /bound/host; stat -c %u:%g /bound/host").splitlines() == ["from the host", "1000:33"]
    made.sh("echo inside >/bound/inside; chown 1000:33 /bound/inside; chmod 640 /bound/inside; touch /bound/of-root; sync")
    seen = (folder / "inside").stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (1000, 33, 0o640)
    assert (folder / "of-root").stat().st_uid == 0
    assert (folder / "inside").read_text() == "inside\n"


def test_changes_on_the_host_are_seen_inside(make: Maker, folder: Path) -> None:
    made = make("-v", f"{folder}:/bound")
    assert made.sh("ls /bound") == ""
    (folder / "late").write_text("late\n")
    wait_for("the file", lambda: made.sh("cat /bound/late 2>/dev/null || true") == "late")
    (folder / "late").write_text("later!\n")
    wait_for("the change", lambda: made.sh("cat /bound/late") == "later!")


@pytest.mark.parametrize("kind", ["volume", "bind"])
def test_read_only_mounts_refuse_every_change(make: Maker, daemon: Daemon, folder: Path, kind: str) -> None:
    (folder / "f").write_text("x")
    with volume(daemon, f"ro-{make.runtime}") as name:
        source = name if kind == "volume" else str(folder)
        script = "touch /m/new; mkdir /m/d; rm -f /m/f; chmod 777 /m; mount -o remount,rw /m; touch /m/again"
        done = make.foreground("-v", f"{source}:/m:ro", command=["sh", "-c", script], check=False)
    assert done.err.count(b"Read-only file system") >= 4
    assert sorted(path.name for path in folder.iterdir()) == ["f"]


def test_a_single_file_can_be_bound(make: Maker, folder: Path) -> None:
    (folder / "conf").write_text("bound\n")
    (folder / "secret").write_text("not for the instance\n")
    script = "cat /etc/my.conf; ls -a /etc | grep -c my; ls /etc/secret"
    done = make.foreground("-v", f"{folder / 'conf'}:/etc/my.conf:ro", command=["sh", "-c", script], check=False)
    assert done.lines == ["bound", "1"]
    assert done.code == 1


def test_missing_bind_source_is_refused(make: Maker, folder: Path) -> None:
    missing = folder / "missing"
    done = make.foreground("--mount", f"type=bind,source={missing},target=/m", command=["true"], check=False)
    assert done.code == 125
    assert str(missing).encode() in done.err
    assert not missing.exists()


def test_mounts_nest_and_hide_in_order(make: Maker, daemon: Daemon, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "hidden").write_text("hidden")
    with volume(daemon, f"nested-{make.runtime}") as name:
        flags = ["-v", f"{folder}:/m", "-v", f"{name}:/m/sub", "--tmpfs", "/m/sub/tmp"]
        script = "ls /m/sub; touch /m/sub/v /m/sub/tmp/t; ls /m /m/sub/tmp"
        done = make.foreground(*flags, command=["sh", "-c", script])
        assert done.text.split() == ["tmp", "/m:", "sub", "/m/sub/tmp:", "t"]
        assert make.foreground("-v", f"{name}:/v", command=["ls", "/v"]).text.split() == ["tmp", "v"]


def test_links_in_a_volume_do_not_lead_out_of_the_instance(make: Maker, folder: Path) -> None:
    (folder / "link").symlink_to("/etc/os-release")
    (folder / "up").symlink_to("../" * 20 + "etc/os-release")
    done = make.foreground("-v", f"{folder}:/m", command=["grep", "-h", "^ID=", "/m/link", "/m/up"])
    assert done.lines == ["ID=busybox"] * 2


def test_a_mount_over_a_link_of_the_image_stays_inside(make: Maker, folder: Path) -> None:
    (folder / "f").write_text("here\n")
    made = make.foreground("-v", f"{folder}:/usr/bin/../../var/./www", command=["cat", "/var/www/f"])
    assert made.text == "here"


def test_secrets_and_configs_are_files_with_owner_and_mode(make: Maker, folder: Path) -> None:
    (folder / "key").write_bytes(b"s3cret\0\xff\n")
    (folder / "conf").write_text("configured\n")
    flags = ["--secret", f"source={folder / 'key'},target=/run/secrets/key,uid=1000,gid=33,mode=0400"]
    made = make(*flags, "--config", f"source={folder / 'conf'},target=/etc/app/conf,mode=0444")
    assert made.exec("cat", "/run/secrets/key", flags=["-u", "app"]).out == b"s3cret\0\xff\n"
    assert made.sh("stat -c '%a %u:%g' /run/secrets/key; cat /etc/app/conf").splitlines() == ["400 1000:33", "configured"]
    assert made.exec("cat", "/run/secrets/key", flags=["-u", "www-data:app"], check=False).code == 1


def test_a_secret_is_never_on_the_hosts_disk_nor_in_what_is_told(make: Maker, folder: Path, daemon: Daemon) -> None:
    secret = os.urandom(24).hex()
    (folder / "key").write_text(secret)
    made = make("--secret", f"source={folder / 'key'},target=/run/secrets/key")
    assert made.sh("cat /run/secrets/key") == secret
    assert secret not in made.act("inspect").text
    assert secret not in made.act("diff").text
    assert files_with(daemon.home.state, secret.encode()) == []
    made.act("stop", "-t", "0")
    assert secret.encode() not in made.act("export").out


def files_with(folder: Path, needle: bytes) -> list[str]:
    """Regular files below that contain the needle; sparse disks are read in blocks."""
    import subprocess

    done = subprocess.run(["grep", "-rlaF", "--devices=skip", needle.decode(), str(folder)], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def test_missing_secret_is_refused(make: Maker, folder: Path) -> None:
    done = make.foreground("--secret", f"source={folder}/none,target=/run/secrets/x", command=["true"], check=False)
    assert done.code == 125
    assert b"none" in done.err
