"""What a runtime can't do is in SPECIFICATION.md's table, and is refused when the instance is created: never ignored."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.conformance.instance import BUSYBOX, Maker
from tests.harness import Daemon

SPECIFICATION = Path(__file__).parents[2] / "SPECIFICATION.md"
REFUSED = {
    "snapshot": ["--snapshot", "app"],
    "sysctls": ["--sysctl", "net.ipv4.ip_forward=0"],
    "io-limits": ["--device-write-bps", "100m"],
    "pids-limit": ["--pids-limit", "100"],
}


def table() -> dict[str, dict[str, str]]:
    """feature → runtime → "yes" or the reason, from the table "What a runtime can't do"."""
    text = SPECIFICATION.read_text().split("## What a runtime can't do")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    head, body = rows[0], rows[2:]
    return {row[0]: dict(zip(head[2:], row[2:], strict=True)) for row in body}


@pytest.mark.parametrize("feature", REFUSED)
def test_each_feature_works_or_is_refused_with_the_tables_reason(make: Maker, daemon: Daemon, feature: str) -> None:
    said = table()[feature][make.runtime]
    before = daemon.cli("ps", "-aq").lines
    done = make.foreground(*REFUSED[feature], command=["true"], check=False)
    assert done.code == (0 if said == "yes" else 125)
    assert said == "yes" or said in done.err.decode()
    assert daemon.cli("ps", "-aq").lines == before


def test_host_network_works_or_is_refused_as_the_table_says(make: Maker, daemon: Daemon) -> None:
    said = table()["host-network"][make.runtime]
    done = make.foreground("--network", "host", command=["ls", "/sys/class/net"], check=False)
    if said == "yes":
        assert done.code == 0
        machine = daemon.net.run("ip", "-o", "link").lines
        assert set(done.lines) >= {line.split(": ")[1].split("@")[0] for line in machine if ": lo:" in line}
    else:
        assert done.code == 125
        assert said in done.err.decode()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--runtime", "hovercraft"], b"hovercraft"),
        (["--memory", "1x"], b"1x"),
        (["--cpus", "-1"], b"-1"),
        (["-p", "99999:1"], b"99999"),
        (["--user", ":::"], b":::"),
        (["--network", "no-such-network"], b"no-such-network"),
        (["-v", "relative/path:/m"], b"relative/path"),
        (["-v", "name:relative"], b"relative"),
        (["--name", "bad name!"], b"bad name!"),
        (["--cap-add", "NO_SUCH"], b"NO_SUCH"),
        (["--restart", "sometimes"], b"sometimes"),
        (["--stop-signal", "NOSUCH"], b"NOSUCH"),
        (["--ulimit", "nosuch=1"], b"nosuch"),
        (["-e", "=x"], b"=x"),
        (["--add-host", "nonsense"], b"nonsense"),
    ],
)
def test_nonsense_is_refused_by_name_and_nothing_is_left(daemon: Daemon, runtime: str, flags: list[str], named: bytes) -> None:
    before = daemon.cli("ps", "-aq").lines
    done = daemon.cli("run", "--rm", "--runtime", runtime, *flags, BUSYBOX, "true", check=False, timeout=60)
    assert done.code == 125
    assert named in done.err
    assert b"Traceback" not in done.err
    assert daemon.cli("ps", "-aq").lines == before


@pytest.mark.parametrize("reference", ["no-such-image", "UPPER/case", "a:b:c", "localhost/busybox@sha256:12", ""])
def test_bad_images_are_refused(daemon: Daemon, runtime: str, reference: str) -> None:
    done = daemon.cli("run", "--rm", "--runtime", runtime, reference, "true", check=False, timeout=60)
    assert done.code == 125
    assert re.search(rb"image|reference", done.err)
    assert b"Traceback" not in done.err
