"""`twinhull config`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
import yaml
from tests.unit.compose.app import App

from twinhull.cli.main import exit_code
from twinhull.cli.option import Option
from twinhull.cli.parse import UsageError, parse
from twinhull.cli.table.config import command
from twinhull.cli.verbs.config import config

FILES = tuple(Option(flag, "", repeat=flag in ("--file", "--profile", "--env-file")) for flag in (
    "--file", "--project-name", "--profile", "--env-file", "--project-directory"
))  # fmt: skip
ROW = command(FILES)
GOOD = """services:
  web: {image: "web:$TAG", command: echo $$HOME, depends_on: [db], volumes: ["data:/d"], profiles: [a]}
  db: {image: db, networks: [n]}
networks: {n: }
volumes: {data: }
"""
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(app: App, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in the application's folder: its status and output."""
    monkeypatch.chdir(app.folder)
    monkeypatch.setenv("TAG", "1")

    def call(*words: str) -> tuple[int, str]:
        status = config(parse(ROW, words))
        return status, capfd.readouterr().out

    return call


def test_yaml_and_json(app: App, run: Run) -> None:
    app.write(GOOD)
    status, out = run("--profile", "a")
    assert status == 0
    assert yaml.safe_load(out) == json.loads(run("--profile", "a", "--format", "json")[1])
    assert yaml.safe_load(out)["services"]["web"]["command"] == ["echo", "$$HOME"]
    assert yaml.safe_load(out)["networks"] == {"n": {"name": "app_n"}, "default": {"name": "app_default"}}


def test_what_it_prints_means_the_same(app: App, run: Run) -> None:
    app.write(GOOD)
    first = run("--profile", "a")[1]
    app.write(first)
    assert run("--profile", "a")[1] == first


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--services", "db\nweb\n"),
        ("--images", "db\nweb:1\n"),
        ("--volumes", "data\n"),
        ("--networks", "n\ndefault\n"),
        ("--profiles", "a\n"),
        ("-q", ""),
    ],
)
def test_lists(app: App, run: Run, flag: str, expected: str) -> None:
    app.write(GOOD)
    assert run("--profile", "a", flag) == (0, expected)


def test_one_service(app: App, run: Run) -> None:
    app.write(GOOD)
    assert list(yaml.safe_load(run("db")[1])["services"]) == ["db"]
    assert list(yaml.safe_load(run("web")[1])["services"]) == ["web"]


def test_hashes_change_with_the_service_only(app: App, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    app.write(GOOD)
    before = dict(line.split() for line in run("--profile", "a", "--hash", "*")[1].splitlines())
    monkeypatch.setitem(os.environ, "TAG", "2")
    after = dict(line.split() for line in run("--profile", "a", "--hash", "web,db")[1].splitlines())
    assert before["db"] == after["db"]
    assert before["web"] != after["web"]


def test_no_interpolate(app: App, run: Run) -> None:
    app.write(GOOD)
    assert yaml.safe_load(run("--no-interpolate")[1])["services"]["web"]["image"] == "web:$TAG"


def test_check(app: App, run: Run) -> None:
    app.write("services: {web: {image: x, links: [web2]}, web2: {image: y}}\n")
    assert run("--check") == (
        0,
        "note compose.yaml:1: services.web.links: not needed: names of services resolve anyway, "
        "an alias on all networks that the two share\napp: 2 services, 0 things refused, 1 notes\n",
    )
    app.write("services:\n  web:\n    image: x\n    privileged: true\n")
    status, out = run("--check")
    assert (status, out.splitlines()[0]) == (
        1,
        "refused compose.yaml:4: services.web.privileged: an instance with all rights isn't isolated: use cap_add",
    )
    assert run("--check", "-q") == (1, "")


def test_malformed_is_bad_usage(app: App, run: Run) -> None:
    app.write("services:\n  web: {imge: x}\n")
    with pytest.raises(UsageError, match=r"compose\.yaml:2: unknown key 'imge' in services\.web: did you mean 'image'\?") as caught:
        run()
    assert exit_code(caught.value, ROW) == 2


def test_two_lists_at_once(app: App, run: Run) -> None:
    app.write(GOOD)
    with pytest.raises(UsageError, match="--services and --images exclude each other"):
        run("--services", "--images")
