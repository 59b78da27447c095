"""Each instance is a machine of its own: name, ids, clock, randomness, kernel."""

from __future__ import annotations

import os
import re
import time

import pytest
from tests.conformance.instance import PYTHON, Instance, Maker

WHO = {
    "hostname": "hostname",
    "mac": "cat /sys/class/net/eth0/address",
    "random": "head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'",
}


@pytest.fixture(scope="module")
def identities(small: Instance, box: Instance) -> list[dict[str, str]]:
    """Of two instances of the same runtime."""
    script = "; ".join(f"{command}; echo" for command in WHO.values())
    return [dict(zip(WHO, [line for line in one.sh(script).splitlines() if line], strict=True)) for one in (small, box)]


@pytest.mark.parametrize("what", WHO)
def test_two_instances_differ(identities: list[dict[str, str]], what: str) -> None:
    first, second = (identity[what] for identity in identities)
    assert first
    assert first != second


@pytest.mark.except_for("sandbox", "its /proc has no boot_id")
def test_boot_ids_differ(small: Instance, box: Instance) -> None:
    first, second = (one.sh("cat /proc/sys/kernel/random/boot_id") for one in (small, box))
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first)
    assert first != second
    assert small.sh("cat /proc/sys/kernel/random/boot_id") == first


def test_machine_ids_differ_where_the_image_has_one(make: Maker) -> None:
    first, second = (make.foreground(image=PYTHON, command=["cat", "/etc/machine-id"], check=False).text for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


def test_hostname_is_the_short_id_unless_given(small: Instance, make: Maker) -> None:
    assert small.sh("hostname; cat /etc/hostname").split() == [small.view()["id"][:12]] * 2
    assert make.foreground("--hostname", "deck", command=["sh", "-c", "hostname; cat /etc/hostname; grep -c deck /etc/hosts"]).lines == [
        "deck",
        "deck",
        "1",
    ]


def test_clock_is_within_fifty_milliseconds_of_the_machines(box: Instance) -> None:
    process = box.daemon.popen(
        "exec", "-i", box.name, "python3", "-uc", "import sys,time\nfor _ in sys.stdin: print(time.time(),flush=True)", stdin=-1, stdout=-1
    )
    assert process.stdin is not None
    assert process.stdout is not None
    offsets = []
    for _ in range(20):
        before = time.time()
        process.stdin.write(b"\n")
        process.stdin.flush()
        inside = float(process.stdout.readline())
        after = time.time()
        offsets.append((after - before, inside - (before + after) / 2))
    process.communicate()
    way, offset = min(offsets)  # the quickest answer says most about the clock
    assert abs(offset) < 0.05 + way / 2


def test_seconds_are_as_long_as_the_machines(box: Instance) -> None:
    began = time.monotonic()
    inside = float(box.py("import time; t=time.monotonic(); time.sleep(3); print(time.monotonic()-t)"))
    assert 2.95 < inside < 3.5
    assert time.monotonic() - began > 2.95


def test_timers_are_fine_grained(box: Instance) -> None:
    script = "import time\nt=time.monotonic()\nfor _ in range(100): time.sleep(0.001)\nprint(time.monotonic()-t)"
    assert float(box.py(script)) < 0.9  # a 10 ms tick would need a second or more


def test_randomness_is_there_at_once(make: Maker) -> None:
    began = time.monotonic()
    script = "import os; a=os.getrandom(64); print(len(a), len(set(a))>30)"
    assert make.foreground(image=PYTHON, command=["python3", "-c", script]).text == "64 True"
    assert time.monotonic() - began < 60


def test_kernel_is_the_hosts_or_its_own_as_the_word_says(box: Instance) -> None:
    release = box.sh("uname -r")
    host = os.uname().release
    assert (release == host) == (box.runtime == "container")


def test_system_is_up_since_its_start_in_a_vm_only(box: Instance) -> None:
    up = float(box.sh("cat /proc/uptime").split()[0])
    age = time.time() - box.view()["started_at"]
    if box.runtime == "vm":
        assert up < age + 60
    else:
        assert up > 0


def test_number_of_cpus_follows_the_limit_in_a_vm(make: Maker) -> None:
    seen = int(make.foreground("--cpus", "1", command=["nproc"]).text)
    assert seen == (1 if make.runtime == "vm" else seen)
    assert 1 <= seen <= (os.cpu_count() or 1)
