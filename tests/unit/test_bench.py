"""The arithmetic of `make bench`: quantiles by nearest rank, ratios of medians, and what is held against which target."""

from __future__ import annotations

from pathlib import Path

from bench import model, report
from bench.model import HTTP, OVERHEAD, Samples


def _samples() -> Samples:
    samples = Samples()
    for number in range(1, 31):
        samples.add(HTTP, model.DOCKER, 100.0 * number)
        samples.add(HTTP, model.CONTAINER, 10.0 * number)
        samples.add(OVERHEAD, model.VM, 40.0 + number)
    return samples


def test_quantiles_are_values_that_were_measured() -> None:
    assert model.quantile([3, 1, 2], 0.99) == 3
    assert model.quantile(range(1, 101), 0.99) == 99
    assert model.quantile([7], 0.01) == 7


def test_targets_without_their_subjects_are_silent() -> None:
    (verdict,) = model.verdicts(HTTP, _samples().of(HTTP))
    assert (verdict.target.subject, verdict.target.base, verdict.met) == (model.CONTAINER, model.DOCKER, True)
    assert abs(verdict.found - 0.1) < 1e-9
    (alone,) = model.verdicts(OVERHEAD, _samples().of(OVERHEAD))
    assert not alone.met


def test_every_row_has_events_and_its_targets_have_names() -> None:
    subjects = {
        model.DOCKER,
        model.PODMAN,
        model.CRUN,
        model.CONTAINER,
        model.VM,
        model.PARKED,
        model.SNAPSHOT,
        model.PARKED_SNAPSHOT,
        "daemon",
    }
    for row in model.ROWS:
        assert row.start and row.end
        assert {target.subject for target in row.targets} | {target.base for target in row.targets} <= subjects | {""}


def test_the_report_has_a_table_raw_values_and_a_picture(tmp_path: Path) -> None:
    report.report(_samples(), tmp_path)
    lines = (tmp_path / "samples.csv").read_text().splitlines()
    assert len(lines) == 1 + 90
    assert lines[0] == "row,start,end,subject,number,value,unit"
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
