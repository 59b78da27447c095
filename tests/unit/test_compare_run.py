"""Journals that were cut, workload files, and advice."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import comparison

from twinhull.compare import advice, journal, model, workload
from twinhull.compare.journal import Journal
from twinhull.compare.measures import reach
from twinhull.compare.model import Done, Fact, Sample
from twinhull.compare.workload import Page
from twinhull.errors import NotFoundError, UserError
from twinhull.spec.app import ScaleSpec, ServiceSpec
from twinhull.spec.instance import InstanceSpec, NetworkMode, Resources, Security


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINHULL_HOME", str(tmp_path))


def test_what_an_interrupted_turn_left_is_cut_off() -> None:
    with Journal.create(comparison.run()) as made:
        made.write(Sample("cpu.single", "vm", 1, 2.0, detail={"a": 1}))
        made.write(Done("cpu", "vm", 1, 0.5))
        made.write(Sample("cpu.single", "container", 1, 3.0))
    with made.path.open("ab") as file:
        file.write(b'{"kind":"sample","metr')
    with Journal.reopen(made.path) as again:
        assert [type(record).__name__ for record in again.records] == ["Sample", "Done"]
        again.write(Sample("cpu.single", "container", 1, 4.0))
        again.write(Done("cpu", "container", 1, 0.5))
    run, records = journal.read(made.path)
    found = model.gather(run, records, 2)
    assert (run, found.complete) == (comparison.run(), True)
    assert (found.values("cpu.single", "vm"), found.values("cpu.single", "container")) == ((2.0,), (4.0,))
    assert journal.last() == made.path


def test_warm_ups_are_kept_and_not_counted() -> None:
    records = [
        Sample("cpu.single", "vm", 0, 9.0),
        Done("cpu", "vm", 0, 1.0),
        Fact("Kernel", "vm", "x", "y"),
        Done("isolation", "vm", 1, 1.0),
    ]
    found = model.gather(comparison.run(), records, 2)
    assert (found.samples, len(found.facts), len(found.done)) == ((), 1, 2)


@pytest.mark.parametrize("text", ["", "{}", "not JSON\n", '{"kind":"run","id":"x"}\n'])
def test_another_file_is_no_journal(text: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match="no journal"):
        journal.read(path)


def test_without_a_run_there_is_no_last_one() -> None:
    with pytest.raises(NotFoundError, match="nothing has been compared"):
        journal.last()


def test_a_workload_file(tmp_path: Path) -> None:
    path = tmp_path / "load.yaml"
    path.write_text(
        'image: shop/web\ncommand: [python3, -m, http.server, 8000]\nmemory: 256M\nready: {http: ":8000/health"}\n'
        "load: \"wrk -d5s http://{address}:8000/\"\nrate: 'Requests/sec: +([0-9.]+)'\n"
    )
    found = workload.Definition.parse(workload.read(path))
    assert (found.command[-1], found.memory, found.page) == ("8000", 256 << 20, Page(8000, "/health"))
    assert found.load == ("/bin/sh", "-c", "wrk -d5s http://{address}:8000/")
    assert found.value("Requests/sec:  17.5\n") == 17.5
    with pytest.raises(UserError, match="doesn't match"):
        found.value("nothing")


def test_the_example_of_a_workload_can_be_read() -> None:
    found = workload.Definition.parse(workload.read(Path(__file__).parents[2] / "bench/workload.yaml"))
    assert (found.page, found.load[0]) == (Page(8000, "/index.html"), "wrk")


def test_the_default_load_asks_for_a_page_by_its_host() -> None:
    found = workload.Definition.parse({"load": {"http": ":8080/shop", "host": "shop.localhost"}})
    assert found.load[-3:] == ("-H", "Host: shop.localhost", "http://{address}:8080/shop")
    assert found.target == Page(8080, "/shop", "shop.localhost")
    assert found.value("Requests/sec:  17.5\n") == 17.5
    with pytest.raises(UserError, match="itself"):
        workload.over({}, {"image": "other"})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"comand": []}, "unknown key 'comand'"),
        ({"ready": {"http": "8000"}}, "':PORT/path'"),
        ({"ready": "yes"}, "ready is"),
        ({"memory": "lots"}, "memory 'lots'"),
        ({"load": {"a": 1}}, "load is a list"),
        ({"load": {"host": "x"}}, "load.http"),
        ({"rate": "("}, "no pattern"),
    ],
)
def test_a_bad_workload_names_the_key(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        workload.Definition.parse(raw)


def posture(trust: str, starts: float, **changes: Any) -> advice.Posture:
    return advice.posture("web", "container", InstanceSpec("shop/web", name="web", **changes), trust, starts)


@pytest.mark.parametrize(
    ("changes", "trust", "starts", "hull", "why"),
    [
        ({}, "others", 0.0, "vm", "code of others"),
        ({"network_mode": NetworkMode.HOST}, "others", 0.0, "container", "host's network"),
        ({"security": Security(privileged=True)}, "own", 0.0, "vm", "privileges"),
        ({"security": Security(cap_add=("SYS_ADMIN",))}, "own", 0.0, "vm", "SYS_ADMIN"),
        ({"security": Security(seccomp="unconfined")}, "own", 0.0, "vm", "filter"),
        ({}, "own", 600.0, "container", "a VM would cost"),
        ({"resources": Resources(memory=4)}, "own", 0.0, "container", "anonymous"),
        ({}, "own", 0.0, "", "neither its starts nor its memory"),
    ],
)
def test_advice_gives_its_reason(changes: dict[str, Any], trust: str, starts: float, hull: str, why: str) -> None:
    found = advice.advise(comparison.results(), posture(trust, starts, **changes))
    assert found.hull == hull
    assert why in advice.text(found)
    assert any("emulation" in limit for limit in found.limits)
    assert json.loads(json.dumps(advice.plain(found)))["instance"] == "web"


@pytest.mark.parametrize(
    ("calls", "image", "hull", "why"),
    [
        ([0, 1, 425], "shop/web", "vm", "(io_uring_setup)"),
        ([0, 1], "shop/web", "", "Host system calls made for it: container: 3 different ones"),
        ([0, 1, 425], "shop/other", "", "hasn't been seen"),
        (None, "shop/web", "", "hasn't been seen"),
    ],
)
def test_system_calls_seen_under_its_own_load_count(calls: list[int] | None, image: str, hull: str, why: str) -> None:
    found = comparison.results()
    fact = Fact(reach.CALLS, "container", "3 different ones", "ftrace", {"benign": [321]} if calls is None else {"own": calls})
    about = replace(posture("own", 0.0), image=image)
    said = advice.advise(replace(found, facts=(*found.facts, fact)), about)
    assert said.hull == hull
    assert why in advice.text(said)


def test_a_service_that_starts_on_demand_asks_how_often() -> None:
    about = advice.of_service("shop", ServiceSpec("web", InstanceSpec("shop/web"), scale=ScaleSpec(min=0)), "own", 0.0)
    assert "--starts" in advice.text(advice.advise(comparison.results(), about))


def test_figures_of_another_service_are_no_advice() -> None:
    found = comparison.results()
    other = replace(found, run=replace(found.run, service={"app": "shop", "service": "db", "remarks": ["a remark"]}))
    about = advice.of_service("shop", ServiceSpec("web", InstanceSpec("shop/web")), "own", 0.0)
    said = advice.text(advice.advise(other, about))
    assert "of another service, db of shop" in said
    assert "a remark" in said
    assert "Your application" not in said


def test_advice_takes_the_last_run_of_the_service() -> None:
    told = {"app": "shop", "service": "web", "remarks": []}
    paths = []
    for number, service in enumerate((told, {}, {**told, "service": "api"})):
        with Journal.create(replace(comparison.run(), id=f"run-{number}", service=service)) as made:
            paths.append(made.path)
    for number, path in enumerate(paths):
        os.utime(path, (number, number))
    assert journal.last("shop", "web") == paths[0]
    assert journal.last("shop", "db") == journal.last() == paths[2]


def test_open_figures_are_no_advice() -> None:
    found = advice.advise(comparison.results(n=2), posture("own", 600.0))
    assert found.hull == ""
    assert "not decided" in found.reasons[0]
