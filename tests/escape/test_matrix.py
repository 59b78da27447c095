"""The matrix of escape attempts: every row in every hull at three levels, with the host looked at before and after.

`pytest -s` prints it; it is left in build/escape-HULL.txt too. What a row tries is in `probes/`, what may succeed in `verdict.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.instance import Instance
from tests.escape.conftest import attempts
from tests.escape.host import Host, Witness

from twinhull.compare.escape_verdict import ALL, DEFAULT, USER, Row, table
from twinhull.compare.probes import run  # noqa: F401  fills the table
from twinhull.compare.probes.table import ATTEMPTS

REPORT = Path(__file__).resolve().parents[2] / "build"
Changes = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def ran(runtime: str, box: Instance, strong: Instance, host: Host) -> Iterator[tuple[dict[tuple[str, str], Row], dict[str, Changes]]]:
    """Row by (level, attempt), and what the host looked like after each level."""
    rows: list[Row] = []
    changes: dict[str, Changes] = {}
    for level, instance, user in ((DEFAULT, box, ""), (USER, box, "1000"), (ALL, strong, "")):
        witness = Witness(host)
        rows += [Row(ATTEMPTS[name], runtime, level, outcome, text) for name, outcome, text in attempts(instance, host, user)]
        changes[level] = witness.changes()
    text = table(rows)
    print(f"\n{text}")
    REPORT.mkdir(exist_ok=True)
    (REPORT / f"escape-{runtime}.txt").write_text(text + "\n")
    yield {(row.level, row.attempt.name): row for row in rows}, changes


@pytest.mark.parametrize("level", [DEFAULT, USER, ALL])
@pytest.mark.parametrize("name", sorted(ATTEMPTS))
def test_an_attempt_stays_inside(ran: tuple[dict[tuple[str, str], Row], dict[str, Changes]], name: str, level: str) -> None:
    row = ran[0][level, name]
    assert row.verdict in ("denied", "contained"), f"tried: {row.attempt.tries}; shown by: {row.attempt.shows}; got: {row.text}"


@pytest.mark.parametrize("level", [DEFAULT, USER, ALL])
def test_the_host_is_as_it_was(ran: tuple[dict[tuple[str, str], Row], dict[str, Changes]], level: str, host: Host) -> None:
    assert ran[1][level] == {}
    assert host.answers()


def test_the_probes_do_find_a_way_where_there_is_one(ran: tuple[dict[tuple[str, str], Row], dict[str, Changes]], runtime: str) -> None:
    """A matrix in which nothing can succeed would prove nothing."""
    rows, _ = ran
    assert sum(row.verdict == "contained" for row in rows.values()) >= 5
    for name in ("mount-tmpfs", "remount-proc-sys", "bind-over-etc") if runtime != "sandbox" else ():
        assert rows[ALL, name].verdict == "contained"
    if runtime == "vm":
        assert rows[ALL, "core-pattern-after-remount"].verdict == "contained"
