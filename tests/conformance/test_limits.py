"""Limits hold, and hardening is there by default."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import leaks
from tests.conformance.instance import PYTHON, Instance, Maker, wait_for


def stats(instance: Instance) -> dict[str, Any]:
    """One reading."""
    rows = json.loads(instance.act("stats", "--no-stream", "--format", "json").out)
    return dict(rows[0] if isinstance(rows, list) else rows)


def cpu(instance: Instance) -> int:
    """Nanoseconds of the machine's CPUs used so far."""
    seen = stats(instance)
    return int(seen["host_cpu_ns"] or seen["cpu_ns"])


def test_cpu_quota_holds_within_fifteen_percent(make: Maker) -> None:
    made = make("--cpus", "0.5")
    hogs = [made.daemon.popen("exec", made.name, "sh", "-c", "while :; do :; done", stdout=subprocess.DEVNULL) for _ in range(2)]
    try:
        wait_for("load", lambda: made.sh("ps -o args | grep -c '[w]hile' || true") != "0", 60)
        shares = [measure(made) for _ in range(3)]
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert max(shares) <= 0.575  # never more than the quota
    assert max(shares) >= 0.425  # and all of it, in the window in which the machine was least busy otherwise


def measure(instance: Instance) -> float:
    """CPUs used over a window of four seconds; both ends are the moments at which a reading was there."""
    before = cpu(instance)
    began = time.monotonic()
    time.sleep(4)  # the window itself
    after = cpu(instance)
    return (after - before) / 1e9 / (time.monotonic() - began)


def test_memory_limit_is_told_and_use_is_measured(make: Maker) -> None:
    made = make("--memory", "256m", image=PYTHON)
    hold = made.daemon.popen(
        "exec", made.name, "python3", "-c", "b=bytearray(80<<20); print(1,flush=True); import time; time.sleep(60)", stdout=subprocess.PIPE
    )
    try:
        assert hold.stdout is not None
        hold.stdout.readline()
    finally:
        hold.kill()
        hold.wait()
    seen = stats(made)
    assert seen["memory_limit"] == 256 << 20
    assert 0 < seen["memory"] < 256 << 20


def test_memory_in_use_is_counted(make: Maker) -> None:
    made = make(
        "--memory",
        "256m",
        image=PYTHON,
        command=["python3", "-c", "b=bytearray(100<<20); print('up',flush=True); import time; time.sleep(1e6)"],
    )
    made.wait_log("up")
    assert stats(made)["memory"] > 100 << 20


@pytest.mark.except_for("sandbox", "pids-limit is refused")
def test_pids_limit_stops_a_fork_bomb(make: Maker) -> None:
    script = (
        "import os,time\nn=0\ntry:\n for _ in range(200):\n  if os.fork()==0: time.sleep(60); os._exit(0)\n  n+=1\n"
        "except BlockingIOError: pass\nprint(n, flush=True)\nos.system('') if n<1 else None; os.kill(os.getpid(),9)"
    )
    done = make.foreground("--pids-limit", "40", "--init", image=PYTHON, command=["python3", "-c", script], check=False)
    assert 10 <= int(done.text) < 40


def test_open_files_limit(make: Maker) -> None:
    done = make.foreground("--ulimit", "nofile=123:456", command=["sh", "-c", "ulimit -Sn; ulimit -Hn; echo x | wc -l"])
    assert done.text.split() == ["123", "456", "1"]


@pytest.mark.except_for("sandbox", "its kernel is a process of root without capabilities in an empty root")
def test_root_inside_is_nobody_outside(make: Maker) -> None:
    made = make("-v", "/data")
    assert made.sh("id -u") == "0"
    identifier = made.view()["id"][:12]
    running = [
        leak for leak in leaks.snapshot(made.daemon.home) if leak.kind == "process" and identifier in leak.name + leak.detail + cgroup(leak)
    ]
    owners = {leak.name: owner(leak) for leak in running if "conmon" not in leak.name}
    assert owners
    assert all(uid >= 65536 for uid in owners.values()), owners


@pytest.fixture
def devices() -> Iterator[dict[str, os.stat_result]]:
    """The host's devices that instances get; put right again whatever a test did to them, for the machine lives on."""
    before = {f"/dev/{name}": os.stat(f"/dev/{name}") for name in ("null", "zero", "full", "random", "urandom", "tty")}
    yield before
    for path, status in before.items():
        os.chown(path, status.st_uid, status.st_gid)
        os.chmod(path, status.st_mode & 0o7777)


def test_hosts_devices_keep_owner_and_mode(make: Maker, devices: dict[str, os.stat_result]) -> None:
    """crun gives stdin to the instance's root, whatever it is; and the owner of the host's /dev/null can take it from everybody."""
    made = make()
    made.exec("true")
    make.foreground("-i", command=["cat"], stdin=b"x")
    made.sh("chmod 000 /dev/null", check=False)
    for path, before in devices.items():
        now = os.stat(path)
        assert (now.st_uid, now.st_gid, now.st_mode) == (before.st_uid, before.st_gid, before.st_mode), path


def cgroup(leak: leaks.Leak) -> str:
    """The process's cgroups, which name its instance."""
    try:
        return Path(f"/proc/{leak.name.split()[0]}/cgroup").read_text()
    except OSError:
        return ""


def owner(leak: leaks.Leak) -> int:
    """The process's real user id on the host."""
    return os.stat(f"/proc/{leak.name.split()[0]}").st_uid


def test_capabilities_are_dockers_and_no_more(small: Instance) -> None:
    # chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod audit_write setfcap
    docker = 0xA80425FB
    held = int(small.sh("grep CapEff /proc/self/status").split()[1], 16)
    assert held & ~docker == 0
    assert int(small.sh("grep CapBnd /proc/self/status").split()[1], 16) & ~docker == 0


def test_capabilities_can_be_dropped_and_added(make: Maker) -> None:
    script = "grep CapEff /proc/self/status"
    assert make.foreground("--cap-drop", "ALL", command=["sh", "-c", script]).text.split()[1] == "0" * 16
    held = make.foreground(
        "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", command=["sh", "-c", script + "; ip link set lo mtu 1400 && echo set"]
    )
    assert held.text.split()[1:] == ["0" * 12 + "1000", "set"]


@pytest.mark.except_for("sandbox", "its /proc doesn't tell them")
def test_no_new_privileges_and_seccomp_are_on(small: Instance) -> None:
    status = dict(line.split(":\t", 1) for line in small.sh("cat /proc/self/status").splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /mnt",
        "ip link set eth0 down",
        "date -s 2001-01-01; test $(date +%Y) = 2001",
        "echo 1 >/proc/sys/kernel/panic",
        "echo c >/proc/sysrq-trigger",
        "mknod /dev/sda b 8 0 && cat /dev/sda",
        "chroot /proc/1/root true && nsenter -t 1 -m true",
        "reboot -f",
    ],
)
def test_what_only_the_machine_may_do_is_refused(small: Instance, attempt: str) -> None:
    assert small.exec("sh", "-c", attempt, check=False, timeout=30).code != 0
    assert small.state == "running"


@pytest.mark.except_for("sandbox", "its kernel log is its own, and harmless")
def test_kernel_log_is_hidden(small: Instance) -> None:
    assert small.exec("dmesg", check=False).code != 0


def test_host_is_not_visible(small: Instance) -> None:
    assert int(small.sh("ls /proc | grep -c '^[0-9]'")) < 40
    assert "systemd" not in small.sh("cat /proc/1/cmdline")
    assert small.exec("sh", "-c", "ls /proc/kcore && head -c 1 /proc/kcore | wc -c | grep -q 1", check=False).code != 0


def test_a_capability_is_needed_and_enough_to_mount(make: Maker) -> None:
    script = "mount -t tmpfs none /mnt && touch /mnt/x && ls /mnt"
    assert make.foreground(command=["sh", "-c", script], check=False).code != 0
    assert make.foreground("--cap-add", "SYS_ADMIN", command=["sh", "-c", script]).text == "x"


@pytest.mark.parametrize("flags", [["--privileged"], ["--security-opt", "seccomp=unconfined"]])
def test_what_opens_the_host_needs_the_owners_consent(make: Maker, flags: list[str]) -> None:
    done = make.foreground(*flags, command=["true"], check=False)
    assert done.code == 125
    assert b"config.toml" in done.err or b"allow_" in done.err or b"can't do privileged" in done.err


def test_live_update_of_the_memory_limit_holds_or_is_refused_with_a_reason(make: Maker) -> None:
    made = make("--memory", "128m")
    done = made.act("update", "--memory", "192m", check=False)
    if done.code == 0:
        assert stats(made)["memory_limit"] == 192 << 20
    else:
        assert b"memory" in done.err
        assert stats(made)["memory_limit"] == 128 << 20


def test_statistics_grow_with_use(make: Maker) -> None:
    made = make()
    before = stats(made)
    made.sh("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; dd if=/dev/urandom of=/root/x bs=1M count=8 2>/dev/null; sync")
    after = stats(made)
    assert after["cpu_ns"] - before["cpu_ns"] > 10_000_000
    assert after["pids"] >= 1
    assert after["memory"] > 0


def test_top_lists_the_processes(make: Maker) -> None:
    made = make(command=["sh", "-c", "sleep 76543 & wait"])
    rows = wait_for("both processes", lambda: text if "sleep 76543" in (text := made.act("top").text) else "")
    assert rows.splitlines()[0].split()[0] == "PID"
    assert any("sh -c" in line for line in rows.splitlines())
