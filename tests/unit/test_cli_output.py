"""Tables, formats, words for people."""

from __future__ import annotations

import json
import os
import pty
import sys
from typing import Any

import pytest

from twinhull.cli import columns, human, output, sheets, table
from twinhull.cli.parse import Arguments, UsageError, parse
from twinhull.cli.style import printable
from twinhull.errors import UserError

NOW = 1_700_000_000.0
VIEW: dict[str, Any] = {
    "id": "0123456789abcdef0123",
    "name": "web",
    "image": "shop/web",
    "runtime": "vm",
    "state": "running",
    "created_at": NOW - 3600,
    "started_at": NOW - 180,
    "spec": {"labels": {"app": "shop"}},
    "argv": ["python3", "-m", "http.server", "--bind", "0.0.0.0"],
    "ports": [{"container_port": 80, "host_port": 8080, "host_ip": "", "protocol": "tcp"}],
    "health": {"status": "healthy"},
}


def args(*words: str) -> Arguments:
    command = table.find("ps")
    assert command
    return parse(command, words)


def shown(capfd: pytest.CaptureFixture[str], *words: str, views: list[dict[str, Any]] | None = None) -> str:
    full = "--no-trunc" in words
    output.rows(args(*words), sheets.instances(NOW, full=full), [VIEW] if views is None else views)
    return capfd.readouterr().out


def test_table(capfd: pytest.CaptureFixture[str]) -> None:
    assert shown(capfd) == (
        "INSTANCE ID    IMAGE      RUNTIME   COMMAND                      CREATED             STATUS                   "
        "PORTS                  NAMES\n"
        '0123456789ab   shop/web   vm        "python3 -m http.server …"   About an hour ago   Up 3 minutes (healthy)   '
        "0.0.0.0:8080->80/tcp   web\n"
    )


def test_empty_table_is_its_header(capfd: pytest.CaptureFixture[str]) -> None:
    assert shown(capfd, views=[]).startswith("INSTANCE ID")


def test_quiet_and_no_trunc(capfd: pytest.CaptureFixture[str]) -> None:
    assert shown(capfd, "-q") == "0123456789ab\n"
    assert shown(capfd, "-q", "--no-trunc") == "0123456789abcdef0123\n"
    assert '"python3 -m http.server --bind 0.0.0.0"' in shown(capfd, "--no-trunc")


def test_json_is_exact(capfd: pytest.CaptureFixture[str]) -> None:
    assert json.loads(shown(capfd, "--json")) == [VIEW]
    assert json.loads(shown(capfd, "--format", "json")) == [VIEW]
    assert json.loads(shown(capfd, "--format", "{{json .}}")) == VIEW
    assert json.loads(shown(capfd, "--json", views=[])) == []


def test_templates_see_columns_and_fields(capfd: pytest.CaptureFixture[str]) -> None:
    assert shown(capfd, "--format", r"{{.Names}}\t{{.Status}}") == "web\tUp 3 minutes (healthy)\n"
    assert shown(capfd, "--format", '{{.Label "app"}} {{.Labels}} {{.created_at}}') == f"shop app=shop {NOW - 3600}\n"
    assert shown(capfd, "--format", r"table {{.ID}}\t{{.Names}}") == "INSTANCE ID    NAMES\n0123456789ab   web\n"


def test_unknown_field_names_the_nearest(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as caught:
        shown(capfd, "--format", "{{.Statsu}}")
    assert caught.value.hint == "did you mean .Status?"


@pytest.mark.parametrize("words", [("--format", "yaml"), ("--format", "Names"), ("--json", "--format", "{{.ID}}")])
def test_format_refused(words: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        shown(capfd, *words)


def test_every_column_of_every_sheet_reads_a_minimal_object() -> None:
    base = {"id": "a" * 64, "name": "n", "created_at": NOW, "size": 5}
    cases = [
        (sheets.instances(NOW), base | {"image": "i", "runtime": "vm", "state": "created", "argv": []}),
        (sheets.images(NOW, digests=True), base | {"repository": "r", "tag": "t"}),
        (sheets.history(NOW), {}),
        (sheets.networks(NOW), base | {"subnet": "10.0.0.0/24"}),
        (sheets.volumes(NOW), base),
        (sheets.usage(), {"kind": "images", "total": 1, "active": 0, "size": 0, "reclaimable": 0}),
        (sheets.events(), {"at": NOW, "kind": "instance", "action": "die"}),
    ]
    for sheet, item in cases:
        for column in sheet.columns:
            column.value(item)
        sheet.ident(item)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ({"state": "created"}, "Created"),
        ({"state": "running", "started_at": NOW - 5}, "Up 5 seconds"),
        ({"state": "running", "started_at": NOW - 5, "health": {"status": "starting"}}, "Up 5 seconds (health: starting)"),
        ({"state": "paused", "started_at": NOW - 7200}, "Up 2 hours (Paused)"),
        (
            {"state": "exited", "exit_code": 137, "finished_at": NOW - 60, "oom_killed": True},
            "Exited (137) About a minute ago (out of memory)",
        ),
        ({"state": "restarting", "exit_code": 1, "finished_at": NOW - 3}, "Restarting (1) 3 seconds ago"),
        ({"state": "dead"}, "Dead"),
    ],
)
def test_status(view: dict[str, Any], expected: str) -> None:
    assert sheets.status(view, NOW) == expected


def test_ports_join_neighbours() -> None:
    def port(inside: int, outside: int, address: str = "", protocol: str = "tcp") -> dict[str, Any]:
        return {"container_port": inside, "host_port": outside, "host_ip": address, "protocol": protocol}

    assert sheets.ports([port(80, 8000), port(81, 8001), port(82, 9000)]) == "0.0.0.0:8000-8001->80-81/tcp, 0.0.0.0:9000->82/tcp"
    assert sheets.ports([port(53, 53, "::1", "udp"), port(80, 0)]) == "80/tcp, [::1]:53->53/udp"
    assert sheets.ports([]) == ""


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, "Less than a second"), (1, "1 second"),
     (59, "59 seconds"), (60, "About a minute"), (3599, "59 minutes"), (3600, "About an hour"),
     (47 * 3600, "47 hours"), (48 * 3600, "2 days"), (13 * 86400, "13 days"), (14 * 86400, "2 weeks"), (70 * 86400, "2 months"),
     (3 * 365 * 86400, "3 years"), (-5, "Less than a second")],
)  # fmt: skip
def test_span(seconds: float, expected: str) -> None:
    assert human.span(seconds) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (4096, "4.1kB"), (123456789, "123MB"), (999_999, "1MB"), (10**18, "1000PB")],
)
def test_size(count: int, expected: str) -> None:
    assert human.size(count) == expected


def test_binary_size() -> None:
    assert [human.binary_size(count) for count in (1023, 1024, 128 << 20, 1000 << 10)] == ["1023B", "1KiB", "128MiB", "1000KiB"]


def test_split_name() -> None:
    assert sheets.split_name("reg:5000/a/b:1") == ("reg:5000/a/b", "1")
    assert sheets.split_name("reg:5000/a/b") == ("reg:5000/a/b", "latest")
    assert sheets.split_name("a@sha256:00") == ("a", "latest")


def test_tables_fit() -> None:
    headers, rows = ["A", "COMMAND", "C"], [["x" * 12, "y" * 60, "z" * 10], ["", "short", ""]]
    assert columns.fit(headers, rows, [False, True, False], None) == [12, 60, 10]
    assert columns.fit(headers, rows, [False, True, False], 50) == [12, 22, 10]
    assert columns.fit(headers, rows, [False, True, False], 10) == [12, 8, 10]
    assert columns.cut("漢字漢字", 5) == "漢字…"
    assert columns.width("é漢") == 3


def test_a_terminal_gets_colours_and_a_table_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = _on_terminal(60)
    assert "\x1b[32mUp 3 minutes (healthy)\x1b[0m" in text
    assert "…" in text
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in _on_terminal(60)


def _on_terminal(width: int) -> str:
    """The table as a terminal of that width gets it."""
    import termios

    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, width))
    real = sys.stdout
    with os.fdopen(follower, "w") as stream:
        sys.stdout = stream
        try:
            output.rows(args(), sheets.instances(NOW), [VIEW])
        finally:
            sys.stdout = real
        text = os.read(leader, 65536).decode()
    os.close(leader)
    return text


def test_what_comes_from_inside_cannot_drive_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b]0;owned\x07\x9b2J\u202eb"
    assert printable(evil) == "a\\x1b]0;owned\\x07\\x9b2J\\u202eb"
    assert "\x1b" not in shown(capfd, views=[VIEW | {"name": evil, "argv": [evil]}])
    assert "\x1b" not in printable(sheets.event_line({"at": NOW, "kind": "instance", "action": "die", "name": evil}))


def test_event_line() -> None:
    event = {"at": NOW, "kind": "instance", "action": "die", "id": "a" * 64, "name": "web", "attributes": {"exit_code": "1"}}
    assert sheets.event_line(event).endswith(" instance die aaaaaaaaaaaa (name=web, exit_code=1)")
