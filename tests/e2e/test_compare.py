"""`twinhull compare` from end to end: a quick run that is interrupted and goes on, and images and machines that lack something.

The measuring itself is the product here, so one run serves all tests of this module.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from tests.harness import PROGRAM, Daemon
from tests.images import base
from tests.images.archive import docker_archive, layer

from twinhull.compare import journal, tools
from twinhull.compare.model import Done, Turn
from twinhull.compare.subjects.hull import LABEL

IMAGE = "localhost/busybox:latest"
TURNS_BEFORE_INTERRUPT = 8
PATIENCE = 400
"""Seconds of one part of a quick run, on a machine that is busy with other tests."""
pytestmark = pytest.mark.timeout(3 * PATIENCE)


@dataclass(frozen=True)
class Ran:
    """The quick run: its first part, and what there was when it had been taken up to its end."""

    interrupted: int
    partial: dict[str, Any]
    left: list[str]
    report: dict[str, Any]
    folder: Path
    journal: Path


@pytest.fixture(scope="module")
def equipped(daemon: Daemon) -> Daemon:
    """The daemon with the tools image."""
    daemon.cli("image", "load", "-i", str(base.archive("compare-tools")))
    return daemon


def compare(daemon: Daemon, *words: str, timeout: float = PATIENCE, **env: str) -> subprocess.CompletedProcess[bytes]:
    """In the daemon's network namespace, as where both are the host's."""
    with daemon.net.popen(
        PROGRAM, "compare", *words, env=daemon.environment | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def start_and_interrupt(daemon: Daemon, *words: str) -> int:
    """Ctrl-C once some turns are done; the status."""
    known = set(journals(daemon))
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "preexec_fn": _listen_to_interrupts}
    with daemon.net.popen(PROGRAM, "compare", *words, env=daemon.environment, **streams) as process:
        assert process.stderr is not None
        for line in process.stderr:
            (path,) = set(journals(daemon)) - known or {None}
            if path and path.read_text().count('{"kind":"done"') >= TURNS_BEFORE_INTERRUPT:
                break
            assert b"Error" not in line
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    return int(process.returncode)


def _listen_to_interrupts() -> None:
    """As on a terminal: what a shell runs in the background is born deaf to SIGINT, and so are these tests then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def journals(daemon: Daemon) -> list[Path]:
    """Of all runs."""
    return sorted((daemon.home.state.parent / "compare").glob("*/samples.jsonl"))


@pytest.fixture(scope="module")
def ran(equipped: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("reports")
    known, volumes = set(journals(equipped)), set(equipped.cli("volume", "ls", "-q").lines)
    code = start_and_interrupt(equipped, IMAGE, "--profile", "quick", "--seed", "11", "-o", str(folder / "partial.json"))
    left = equipped.cli("ps", "-aq", "--filter", f"label={LABEL}").lines + sorted(set(equipped.cli("volume", "ls", "-q").lines) - volumes)
    (path,) = set(journals(equipped)) - known
    outputs = [word for kind in ("html", "json", "csv", "md", "png") for word in ("-o", str(folder / f"report.{kind}"))]
    for _ in range(4):
        done = compare(equipped, "--resume", path.parent.name, *outputs)
        assert done.returncode == 0, done.stderr.decode()
        if json.loads((folder / "report.json").read_text())["complete"]:
            break
    partial = json.loads((folder / "partial.json").read_text())
    yield Ran(code, partial, left, json.loads((folder / "report.json").read_text()), folder, path)


def cells(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """(metric, subject) → cell."""
    return {(metric["name"], cell["subject"]): cell for metric in report["metrics"] for cell in metric["subjects"]}


def test_ctrl_c_leaves_a_partial_report_and_nothing_else(ran: Ran) -> None:
    """No instance and no volume; that nothing else is left is what the daemon's own end looks at."""
    assert ran.interrupted == 130
    assert ran.left == []
    assert not ran.partial["complete"]
    assert "--resume" in " ".join(ran.partial["remarks"])


def test_a_resumed_run_has_every_turn_once(ran: Ran) -> None:
    _, records = journal.read(ran.journal)
    turns = [record.turn for record in records if isinstance(record, Done)]
    assert ran.report["complete"]
    assert len(turns) == len(set(turns))
    for measure, rounds in (("start", range(6)), ("cpu", range(6)), ("isolation", range(1, 2))):
        assert {turn for turn in turns if turn.measure == measure} == {
            Turn(measure, subject, number) for subject in ("container", "vm") for number in rounds
        }
    samples = [
        (record.metric, record.subject, record.round) for record in records if not isinstance(record, Done) and record.kind == "sample"
    ]
    assert all(samples.count(key) == 1 for key in samples if not key[0].startswith("memory"))


def test_the_report_is_valid_and_its_raw_samples_give_its_medians(ran: Ran) -> None:
    schema = json.loads(resources.files("twinhull.compare.report").joinpath("schema.json").read_text())
    jsonschema_rs.validator_for(schema).validate(ran.report)
    jsonschema_rs.validator_for(schema).validate(ran.partial)
    raw: dict[tuple[str, str], list[float]] = {}
    for line in ran.journal.read_text().splitlines():
        fields = json.loads(line)
        if fields["kind"] == "sample" and fields["round"] > 0:
            raw.setdefault((fields["metric"], fields["subject"]), []).append(fields["value"])
    found = {key: cell["median"] for key, cell in cells(ran.report).items() if cell["n"]}
    assert found == {key: pytest.approx(statistics.median(values)) for key, values in raw.items()}
    assert len(found) > 40


def test_what_can_be_measured_is_and_the_rest_has_a_reason(ran: Ran) -> None:
    full_only = ("network.stream8", "network.connections")
    for (metric, subject), cell in cells(ran.report).items():
        if not cell["n"]:
            assert cell["reason"], (metric, subject)
            assert metric.startswith("cold.") or metric in full_only or "servers take" in cell["reason"], (metric, subject, cell)
    assert cells(ran.report)["cold.snapshot_output", "vm"]["n"] == 1
    facts = {(fact["column"], fact["subject"]): fact["text"] for fact in ran.report["isolation"]}
    assert facts["Kernel", "container"].startswith("shared")
    assert facts["Kernel", "vm"].startswith("its own")
    assert int(facts["System calls open to the VMM process", "vm"].split()[0]) < 382
    assert "no disk; their drivers are the host's kernel's" in facts["Device surface", "container"]
    assert "no disk; their drivers are its own kernel's; QEMU answers" in facts["Device surface", "vm"]
    assert "0 ESCAPED" in facts["Escape attempts", "container"]
    assert "0 ESCAPED" in facts["Escape attempts", "vm"]


def test_every_format_is_there_and_the_emulator_is_named(ran: Ran) -> None:
    assert sorted(path.name for path in ran.folder.iterdir()) == [
        "partial.json",
        *(f"report.{kind}" for kind in ("csv", "html", "json", "md", "png")),
    ]
    if ran.report["run"]["machine"]["accelerator"] == "tcg":
        assert "about emulation" in (ran.folder / "report.html").read_text()


def test_advice_comes_from_the_last_run(equipped: Daemon, ran: Ran) -> None:
    equipped.cli("run", "-d", "--name", "advised", IMAGE, "sleep", "1000")
    try:
        found = json.loads(equipped.cli("advise", "--json", "--trust", "others", "--from", ran.journal.parent.name, "advised").out)
    finally:
        equipped.cli("rm", "-f", "advised")
    assert (found["instance"], found["hull"]) == ("advised", "vm")


@pytest.fixture(scope="module")
def bare(equipped: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of one program, without a shell, that ends at once."""
    path = tmp_path_factory.mktemp("bare") / "bare.tar"
    made = layer(lambda new: new.add("true", Path("/bin/busybox").read_bytes(), mode=0o755))
    docker_archive(path, ["localhost/bare:latest"], [made], {"Cmd": ["/true"]})
    equipped.cli("image", "load", "-i", str(path))
    return "localhost/bare:latest"


def reasons(daemon: Daemon, folder: Path, *words: str) -> dict[tuple[str, str], str]:
    """(metric, subject) → why not, of a run of one round; "" where there is a figure."""
    done = compare(daemon, *words, "--rounds", "1", "--seed", "1", "-o", str(folder / "r.json"))
    assert done.returncode == 0, done.stderr.decode()
    return {key: cell.get("reason", "") for key, cell in cells(json.loads((folder / "r.json").read_text())).items()}


def test_an_image_without_a_shell_that_exits_at_once_is_a_row(equipped: Daemon, bare: str, tmp_path: Path) -> None:
    found = reasons(equipped, tmp_path, bare, "--only", "start,memory")
    for subject in ("container", "vm"):
        assert found["start.ready", subject] == ""
        assert found["start.output", subject] == "the image has no /bin/sh"
        assert "no /bin/sh to wait in" in found["memory.anonymous", subject]


def test_an_application_that_needs_more_memory_than_it_is_given_is_a_row(equipped: Daemon, tmp_path: Path) -> None:
    definition = tmp_path / "load.yaml"
    definition.write_text('command: [sh, -c, "tail /dev/zero"]\nmemory: 64M\nready: {command: [test, -e, /never]}\n')
    found = reasons(equipped, tmp_path, IMAGE, "--workload", str(definition), "--only", "workload")
    for subject in ("container", "vm"):
        assert "memory" in found["workload.ready", subject]


def test_a_missing_tool_and_a_missing_engine_are_rows(equipped: Daemon, tmp_path: Path) -> None:
    words = (IMAGE, "--tools", IMAGE, "--only", "cpu", "--runtimes", "container", "--against", "podman=/no/such/podman")
    found = reasons(equipped, tmp_path, *words)
    assert "sysbench" in found["cpu.single", "container"]
    assert "podman isn't here" in found["cpu.single", "podman"]


def test_a_wrong_word_is_refused_before_anything_is_made(equipped: Daemon, tmp_path: Path) -> None:
    before = journals(equipped)
    for words, said in (
        ((IMAGE, "--only", "luck"), "no such measure"),
        ((IMAGE, "--runtimes", "vm"), "compared with itself"),
        ((IMAGE, "-o", "report.pdf"), ".html"),
        (("localhost/nothing:1",), "localhost/nothing"),
        (("--resume", "nothing"), "there is no run"),
        ((), "needs IMAGE"),
        (("-f", "/nowhere.yaml", "web"), "/nowhere.yaml"),
    ):
        done = compare(equipped, *words)
        assert done.returncode in (1, 2)
        assert said in done.stderr.decode()
    assert journals(equipped) == before
    assert tools.IMAGE in {name for view in json.loads(equipped.cli("images", "--json").out) for name in view["names"]}


SHOP = """
name: compared
services:
  web:
    image: busybox
    command: [sh, -c, "until wget -qO /page http://db:8000/x; do sleep 0.1; done; [ ! -e /data/mark ] && touch /data/mark && {serve}"]
    volumes: ["data:/data"]
    secrets: [token]
    environment: {{PASSWORD: hunter2}}
    depends_on: [db]
    deploy: {{resources: {{limits: {{memory: 96M}}}}}}
    x-twinhull: {{route: {{host: compared.localhost, port: 8080}}}}
  db:
    image: busybox
    command: [sh, -c, "mkdir /d && echo of the database >/d/x && exec httpd -f -p 8000 -h /d"]
volumes: {{data: {{}}}}
secrets: {{token: {{environment: TOKEN}}}}
"""
SERVE = "mkdir -p /srv && cat /page /run/secrets/token >/srv/index.html && exec httpd -f -p 8080 -h /srv"
"""A copy that got the running one's volume would end, as would one that can't reach the database."""


def test_a_service_is_compared_by_copies_that_touch_nothing_of_it(equipped: Daemon, tmp_path: Path) -> None:
    file, report = tmp_path / "compose.yaml", tmp_path / "r.json"
    file.write_text(SHOP.format(serve=SERVE))
    words = ("-f", str(file), "web", "--only", "workload,reach", "--rounds", "1", "--seed", "1", "-o", str(report))
    refused = compare(equipped, *words, TOKEN="s3cret")
    assert (refused.returncode, "secret /run/secrets/token" in refused.stderr.decode()) == (2, True)
    before = set(journals(equipped))
    try:
        equipped.cli("up", "-f", str(file), "--wait", env={"TOKEN": "s3cret"}, timeout=PATIENCE)
        running = equipped.cli("ps", "-q").lines
        done = compare(equipped, *words, TOKEN="s3cret")
        assert done.returncode == 0, done.stderr.decode()
        assert equipped.cli("ps", "-aq").lines == running
        found = json.loads(equipped.cli("advise", "-f", str(file), "web", "--trust", "others", "--json", env={"TOKEN": "s3cret"}).out)
    finally:
        equipped.cli("down", "-p", "compared", "-v", timeout=PATIENCE)
    said = json.loads(report.read_text())
    for subject in ("container", "vm"):
        assert cells(said)["workload.ready", subject]["n"] == 1
        assert cells(said)["workload.rate", subject]["median"] > 0
        assert cells(said)["workload.memory", subject]["n"] == 1
    assert said["run"]["service"] == {"app": "compared", "service": "web"}
    assert any("new volume" in remark for remark in said["remarks"])
    calls = {fact["subject"]: fact["text"] for fact in said["isolation"] if fact["column"] == "Host system calls made for it"}
    assert all("under its own load: " in calls[subject] and "different" in calls[subject] for subject in ("container", "vm"))
    assert (found["hull"], found["run"]) == ("vm", said["run"]["id"])
    (path,) = set(journals(equipped)) - before
    assert not any(word in path.read_text() + report.read_text() for word in ("hunter2", "s3cret"))
