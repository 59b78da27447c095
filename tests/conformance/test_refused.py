"""What a runtime can't do is in SPECIFICATION.md's table, and is refused when the instance is created: never ignored."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.conformance.instance import BUSYBOX, Maker
from tests.harness import Daemon

SPECIFICATION = Path(__file__).parents[2] / "SPECIFICATION.md"
FEATURES = {
    "host network": (["--network", "host"], ["true"]),
    "pause": ([], []),
}


def table() -> dict[str, dict[str, str]]:
    """feature → runtime → "yes" or the reason, from the table "What a runtime can't do"."""
    text = SPECIFICATION.read_text().split("## What a runtime can't do")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    head, body = rows[0], rows[2:]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


def test_host_network_works_or_is_refused_as_the_table_says(make: Maker, daemon: Daemon) -> None:
    said = table()["`--network host`"][make.runtime]
    done = make.foreground("--network", "host", command=["ls", "/sys/class/net"], check=False)
    if said == "yes":
        assert done.code == 0
        machine = daemon.net.run("ip", "-o", "link").lines
        assert set(done.lines) >= {line.split(": ")[1].split("@")[0] for line in machine if ": lo:" in line}
    else:
        assert done.code == 125
        assert b"host" in done.err
        assert daemon.cli("ps", "-aq", "--filter", "label=none").text == ""


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
