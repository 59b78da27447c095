"""Reports: the same facts in every format, medians that their own samples give again, and honest words."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jsonschema_rs
import pytest
from tests.fakes import comparison

from twinhull.compare import report, verdicts
from twinhull.compare.measures import image, isolation
from twinhull.compare.model import Bound, Fact, Missing
from twinhull.compare.report import csv as as_csv
from twinhull.compare.report import facts, html, md, plots
from twinhull.compare.report import json as as_json
from twinhull.compare.report.text import value
from twinhull.errors import UserError


@pytest.fixture(scope="module")
def built() -> facts.Report:
    return facts.build(comparison.results())


def test_json_keeps_its_schema_and_its_samples_give_its_medians(built: facts.Report) -> None:
    schema = json.loads(resources.files("twinhull.compare.report").joinpath("schema.json").read_text())
    plain = json.loads(json.dumps(as_json.plain(built)))
    jsonschema_rs.validator_for(schema).validate(plain)
    measured = [cell for metric in plain["metrics"] for cell in metric["subjects"] if cell["n"]]
    assert len(measured) > 50
    for cell in measured:
        assert cell["median"] == pytest.approx(statistics.median(cell["samples"]))
        assert cell["n"] == len(cell["samples"])


def test_the_same_journal_gives_the_same_report(built: facts.Report) -> None:
    assert facts.build(comparison.results()) == built


def test_csv_has_every_sample_and_every_reason(built: facts.Report) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv.text(built))))
    assert sum(bool(row["value"]) for row in rows) == len(comparison.results().samples)
    assert {row["reason"] for row in rows if not row["value"]} == {"<not> offered | here"}


def test_markdown_keeps_its_tables_whole(built: facts.Report) -> None:
    text = md.text(built)
    assert "<not> offered \\| here" in text
    assert "twinhull compare shop/web --only start" in text
    for line in text.splitlines():
        if line.startswith("| Start, warm"):
            assert line.replace("\\|", "").count("|") == 6


def test_emulation_is_said_beside_every_verdict_that_the_cpu_bounds(built: facts.Report) -> None:
    about_cpu = [row for row in built.rows if row.metric.bound is Bound.CPU and row.verdicts]
    assert len(about_cpu) > 10
    assert all(row.remark == verdicts.EMULATION for row in about_cpu)
    assert verdicts.EMULATION in next(row.limits for row in built.claims if row.claim.topic == "Start")
    fast = facts.build(comparison.results(accelerator="kvm"))
    assert not any(row.remark for row in fast.rows)
    assert not fast.emulated


def test_each_claim_has_a_row_with_measurement_verdict_and_limits(built: facts.Report) -> None:
    words = {row.claim.topic: row.word for row in built.claims}
    assert words["Start"] == "supported here"
    assert words["Isolation and security"] == "columns beside each other"
    assert all(row.limits for row in built.claims)


def test_all_claims_are_summed_up_in_a_sentence_and_who_is_absent_is_named(built: facts.Report) -> None:
    assert built.short.startswith("Of 7 claims, ")
    assert "supported here (start, footprint" in built.short
    assert as_json.plain(built)["headlines"][0] == built.short
    found = comparison.results("container", "vm", "docker")
    why = tuple(Missing(sample.metric, "docker", 1, "docker isn't here") for sample in found.samples if sample.subject == "docker")
    here = tuple(sample for sample in found.samples if sample.subject != "docker")
    facts_here = tuple(fact for fact in found.facts if fact.subject != "docker")
    report = facts.build(replace(found, samples=here, facts=facts_here, missing=why))
    assert "docker couldn't be measured here: docker isn't here." in report.remarks
    assert facts.build(comparison.results(n=0)).short == ""


def test_columns_are_told_in_one_order_whatever_was_seen_first() -> None:
    found = comparison.results("vm", "container")
    columns = (image.SIZE, isolation.DEVICES, isolation.KERNEL)
    seen = tuple(Fact(column, subject, "x", "y") for column in columns for subject in ("container", "vm"))
    told = facts.build(replace(found, facts=seen)).isolation
    assert (list(told), list(told[isolation.KERNEL])) == ([isolation.KERNEL, isolation.DEVICES, image.SIZE], ["vm", "container"])


def test_claims_are_about_a_vm_against_a_container_whatever_the_baseline() -> None:
    turned = facts.build(comparison.results("vm", "container"))
    assert next(row.word for row in turned.claims if row.claim.topic == "Start") == "supported here"
    assert str(next(row for row in turned.rows if row.metric.name == "start.ready").verdicts["container"]) == "better"
    alone = facts.build(comparison.results("container", "docker"))
    assert {row.word for row in alone.claims if row.claim.metrics} == {"not measured"}
    assert str(next(row for row in alone.rows if row.metric.name == "start.cli").verdicts["docker"]).startswith("no difference")


def test_html_takes_nothing_from_outside_and_escapes_what_it_is_told() -> None:
    page = html.page(comparison.results())
    assert "<not>" not in page
    assert "&lt;its&gt; own" in page
    assert re.findall(r'<script|<link|@import|\ssrc=|href="(?!#|data:)|url\((?!#)', page) == []


def test_an_unfinished_run_says_so_and_nothing_measured_is_no_crash() -> None:
    empty = comparison.results(n=0)
    page = html.page(replace(empty, complete=False, facts=(), missing=()))
    assert "--resume 20260101-000000-7" in page
    assert "not measured" in page


def test_every_format_is_written_whole(tmp_path: Path) -> None:
    for name in ("r.html", "r.json", "r.csv", "r.md", "r.png"):
        write, path = report.target(tmp_path / name)
        write(comparison.results("container", "vm", "docker"), path)
        assert path.stat().st_size > 1000
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.csv", "r.html", "r.json", "r.md", "r.png"]


@pytest.mark.parametrize("name", ["report.pdf", "report", "nowhere/report.html"])
def test_a_report_that_can_not_be_written_is_refused_before_anything_is_measured(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--output"):
        report.target(tmp_path / name)


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (2.5e-9, "s", "2.50 ns"),
        (3.41e7, "bytes", "34.1 MB"),
        (1.2e9, "B/s", "1.20 GB/s"),
        (5296.2, "1/s", "5,296 /s"),
        (0, "s", "0 ns"),
        (-113000.0, "bytes", "-113 kB"),
    ],
)
def test_numbers_for_people(number: float, unit: str, text: str) -> None:
    assert value(number, unit) == text


def test_labels_of_the_plot_stay_apart(built: facts.Report) -> None:
    labels = [plots._short(row) for row in built.rows if row.metric.group not in ("memory", "cold")]
    assert len(labels) == len(set(labels))
