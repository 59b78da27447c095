"""SQLite as the daemon's memory: one writer, WAL, plain SQL, numbered migrations.

Invariants: only the daemon that holds the lock writes; every method is one short transaction in which nothing is awaited;
a row that was returned from a method is on disk. The engine keeps the decoded records in memory and reads here only at start.

DO: change a record with `dataclasses.replace` and hand it to `save_instance`. DON'T: keep a connection or a cursor elsewhere.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from twinhull.errors import ConflictError, PermanentError
from twinhull.plan.lifecycle import State
from twinhull.spec.instance import InstanceSpec, PortMapping

EVENTS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One row of `instances`. desired: creating, running, stopped, removed."""

    id: str
    name: str
    spec: InstanceSpec
    image_id: str
    image_config: dict[str, Any]
    id_slot: int
    created_at: float
    desired: str
    state: State
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False
    exit_reason: str = ""
    error: str = ""
    restart_count: int = 0
    published: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """One row of `endpoints`."""

    instance_id: str
    network_id: str
    position: int
    number: int
    address: str
    mac: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """One row of `networks`; `record` is the network layer's own JSON."""

    id: str
    name: str
    number: int
    record: str


@dataclass(frozen=True, slots=True)
class EventRow:
    """One row of `events`."""

    at: float
    kind: str
    action: str
    id: str
    name: str
    attributes: dict[str, str]


class Database:
    """The open database."""

    def __init__(self, path: Path) -> None:
        """Open or create, and migrate. Raises PermanentError for a file from a newer version or a broken one."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise PermanentError(f"open database {path}: {error}", "restore it from a backup, or move it away to begin anew") from error

    def close(self) -> None:
        """Close; the object is of no use afterwards."""
        self._connection.close()

    def instances(self) -> list[InstanceRecord]:
        """All, oldest first."""
        cursor = self._connection.execute("SELECT * FROM instances ORDER BY created_at")
        names = [column[0] for column in cursor.description]
        return [_instance(dict(zip(names, row, strict=True))) for row in cursor]

    def add_instance(self, record: InstanceRecord, endpoints: list[EndpointRecord]) -> None:
        """Insert with its endpoints, all or nothing. Raises ConflictError for a name or address that is taken."""
        columns = _columns(record)
        marks = ", ".join("?" * len(columns))
        try:
            with self.transaction() as connection:
                connection.execute(f"INSERT INTO instances ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values()))
                connection.executemany(
                    "INSERT INTO endpoints VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(e.instance_id, e.network_id, e.position, e.number, e.address, e.mac, json.dumps(e.aliases)) for e in endpoints],
                )
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"create instance {record.name}: {_taken(str(error))}") from error

    def save_instance(self, record: InstanceRecord) -> None:
        """Write every column of an existing row."""
        columns = _columns(record)
        sets = ", ".join(f"{name} = ?" for name in columns)
        try:
            with self.transaction() as connection:
                connection.execute(f"UPDATE instances SET {sets} WHERE id = ?", (*columns.values(), record.id))
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"save instance {record.name}: {_taken(str(error))}") from error

    def remove_instance(self, instance_id: str) -> None:
        """Delete with its endpoints."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM instances WHERE id = ?", (instance_id,))

    def endpoints(self) -> list[EndpointRecord]:
        """All, by instance and position."""
        rows = self._connection.execute("SELECT * FROM endpoints ORDER BY instance_id, position")
        return [
            EndpointRecord(**(dict(zip(EndpointRecord.__slots__, row, strict=True)) | {"aliases": tuple(json.loads(row[6]))}))
            for row in rows
        ]

    def networks(self) -> list[NetworkRow]:
        """All, by number."""
        return [NetworkRow(*row) for row in self._connection.execute("SELECT * FROM networks ORDER BY number")]

    def add_network(self, row: NetworkRow) -> None:
        """Insert. Raises ConflictError for a name that is taken."""
        try:
            with self.transaction() as connection:
                connection.execute("INSERT INTO networks VALUES (?, ?, ?, ?)", (row.id, row.name, row.number, row.record))
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"create network {row.name}: {_taken(str(error))}") from error

    def remove_network(self, network_id: str) -> None:
        """Delete. Raises ConflictError while an endpoint refers to it."""
        try:
            with self.transaction() as connection:
                connection.execute("DELETE FROM networks WHERE id = ?", (network_id,))
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"remove network {network_id[:12]}: an instance uses it") from error

    def add_event(self, event: EventRow) -> None:
        """Append, and forget what is older than the last EVENTS_KEPT."""
        values = (event.at, event.kind, event.action, event.id, event.name, json.dumps(event.attributes))
        with self.transaction() as connection:
            cursor = connection.execute("INSERT INTO events (at, kind, action, id, name, attributes) VALUES (?, ?, ?, ?, ?, ?)", values)
            connection.execute("DELETE FROM events WHERE sequence <= ?", ((cursor.lastrowid or 0) - EVENTS_KEPT,))

    def events(self, since: float) -> list[EventRow]:
        """From `since` (seconds since the epoch) on, oldest first."""
        rows = self._connection.execute(
            "SELECT at, kind, action, id, name, attributes FROM events WHERE at >= ? ORDER BY sequence", (since,)
        )
        return [EventRow(at, kind, action, id, name, json.loads(attributes)) for at, kind, action, id, name, attributes in rows]

    def _prepare(self) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "busy_timeout = 2000"):
            self._connection.execute(f"PRAGMA {pragma}")
        present = self._connection.execute("PRAGMA user_version").fetchone()[0]
        steps = _migrations()
        if present > len(steps):
            raise PermanentError(f"open database: it is of version {present}, this program knows {len(steps)}", "use the newer Twinhull")
        for number, script in enumerate(steps[present:], start=present + 1):
            self._connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a SELECT; for the modules of this package."""
        return self._connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; for the modules of this package."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


@cache
def spec_adapter() -> TypeAdapter[InstanceSpec]:
    """Reads and writes InstanceSpec as JSON."""
    return TypeAdapter(InstanceSpec)


@cache
def ports_adapter() -> TypeAdapter[tuple[PortMapping, ...]]:
    """Reads and writes published ports as JSON."""
    return TypeAdapter(tuple[PortMapping, ...])


def _migrations() -> list[str]:
    folder = files("twinhull.store").joinpath("migrations")
    return [entry.read_text() for entry in sorted(folder.iterdir(), key=lambda entry: entry.name) if entry.name.endswith(".sql")]


def _columns(record: InstanceRecord) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in InstanceRecord.__slots__}
    values["spec"] = spec_adapter().dump_json(record.spec).decode()
    values["image_config"] = json.dumps(record.image_config)
    values["state"] = str(record.state)
    values["oom_killed"] = int(record.oom_killed)
    values["published"] = ports_adapter().dump_json(record.published).decode()
    return values


def _instance(row: dict[str, Any]) -> InstanceRecord:
    decoded = {
        "spec": spec_adapter().validate_json(row["spec"]),
        "image_config": json.loads(row["image_config"]),
        "state": State(row["state"]),
        "oom_killed": bool(row["oom_killed"]),
        "published": ports_adapter().validate_json(row["published"]),
    }
    return InstanceRecord(**(row | decoded))


def _taken(message: str) -> str:
    """SQLite's "UNIQUE constraint failed: instances.name" in people's words."""
    return f"its {message.rpartition('.')[2]} is already taken" if message.startswith("UNIQUE") else message
