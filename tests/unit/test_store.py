"""store/db.py: what was written is read back, conflicts are told, old files migrate and broken ones are refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from twinhull.errors import ConflictError, PermanentError
from twinhull.plan.lifecycle import State
from twinhull.spec.instance import HealthCheck, InstanceSpec, MountSpec, MountType, NetworkAttachment, Runtime
from twinhull.store import db as store
from twinhull.store.db import Database, EndpointRecord, EventRow, InstanceRecord, NetworkRow

SPEC = InstanceSpec(
    "img",
    runtime=Runtime.VM,
    command=("a", "é\n"),
    labels={"k": "v"},
    networks=(NetworkAttachment("n", ("alias",)),),
    mounts=(MountSpec(MountType.TMPFS, "/t"),),
    health=HealthCheck(("CMD", "x"), interval=0.5),
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "s" / "db")
    made.add_network(NetworkRow("n1", "net", 1, "{}"))
    yield made
    made.close()


def _record(number: int = 1, **changes: object) -> InstanceRecord:
    record = InstanceRecord(f"id{number}", f"name{number}", SPEC, "sha", {"Cmd": ["x"]}, number, 10.5 + number, "running", State.CREATED)
    return replace(record, **changes)  # type: ignore[arg-type]


def _endpoint(number: int = 1, address: str = "10.0.0.2") -> EndpointRecord:
    return EndpointRecord(f"id{number}", "n1", 0, number, address, "02:00:00:00:00:01", ("a", "b"))


def test_round_trip_survives_reopening(tmp_path: Path, database: Database) -> None:
    database.add_instance(_record(), [_endpoint()])
    changed = _record(state=State.EXITED, exit_code=137, oom_killed=True, exit_reason="oom", restart_count=3)
    database.save_instance(changed)
    again = Database(tmp_path / "s" / "db")
    assert again.instances() == [changed]
    assert again.endpoints() == [_endpoint()]
    assert again.networks() == [NetworkRow("n1", "net", 1, "{}")]
    again.close()


@pytest.mark.parametrize("changes", [{"name": "name1"}, {"id_slot": 1}])
def test_names_and_slots_are_unique(database: Database, changes: dict[str, object]) -> None:
    database.add_instance(_record(), [])
    with pytest.raises(ConflictError, match="already taken"):
        database.add_instance(_record(2, **changes), [])
    assert len(database.instances()) == 1


def test_a_taken_address_leaves_no_half_instance(database: Database) -> None:
    database.add_instance(_record(), [_endpoint()])
    with pytest.raises(ConflictError):
        database.add_instance(_record(2), [_endpoint(2)])
    assert [record.id for record in database.instances()] == ["id1"]


def test_removing_an_instance_frees_its_endpoints_and_then_the_network(database: Database) -> None:
    database.add_instance(_record(), [_endpoint()])
    with pytest.raises(ConflictError, match="uses it"):
        database.remove_network("n1")
    database.remove_instance("id1")
    assert database.endpoints() == []
    database.remove_network("n1")
    assert database.networks() == []


def test_events_are_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "EVENTS_KEPT", 3)
    for number in range(6):
        database.add_event(EventRow(float(number), "instance", "start", "i", "n", {"k": str(number)}))
    assert [event.at for event in database.events(0)] == [3.0, 4.0, 5.0]
    assert database.events(5)[0].attributes == {"k": "5"}


def test_a_newer_or_broken_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(PermanentError, match="999"):
        Database(newer)
    broken = tmp_path / "broken"
    broken.write_bytes(b"not a database at all" * 100)
    with pytest.raises(PermanentError, match="open database"):
        Database(broken)
    assert broken.read_bytes().startswith(b"not a database")
