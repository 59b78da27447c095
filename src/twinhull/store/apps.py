"""Applications in the database; the same laws as in `db`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from pydantic import TypeAdapter

from twinhull.spec.app import AppSpec
from twinhull.spec.instance import PortMapping
from twinhull.store.db import Database, ports_adapter

REVISIONS_KEPT = 50


@dataclass(frozen=True, slots=True)
class AppRow:
    """One row of `apps`; `wanted` and `memory` are their owners' JSON."""

    name: str
    created_at: float
    revision: int
    wanted: str
    memory: str


@dataclass(frozen=True, slots=True)
class Revision:
    """One row of `app_revisions`. images: service → image id."""

    app: str
    number: int
    at: float
    cause: str
    spec: AppSpec
    images: dict[str, str]


@dataclass(frozen=True, slots=True)
class Member:
    """One row of `app_members`: an instance as a part of a service."""

    instance_id: str
    app: str
    service: str
    slot: int
    fingerprint: str
    weight: int = 0
    serving_since: float = 0.0
    draining_since: float = 0.0
    hooks: tuple[str, ...] = ()


class AppTable:
    """Reads at start, writes at every change."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apps(self) -> list[AppRow]:
        """All."""
        return [AppRow(*row) for row in self._database.read("SELECT name, created_at, revision, wanted, memory FROM apps")]

    def save(self, row: AppRow, revision: Revision | None = None) -> None:
        """Insert or update, with a new revision if there is one; revisions beyond the last REVISIONS_KEPT are forgotten."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO apps VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET revision = excluded.revision,"
                " wanted = excluded.wanted, memory = excluded.memory",
                (row.name, row.created_at, row.revision, row.wanted, row.memory),
            )
            if revision is not None:
                spec = app_adapter().dump_json(revision.spec, exclude={"secret_values"}).decode()
                values = (revision.app, revision.number, revision.at, revision.cause, spec, json.dumps(revision.images))
                connection.execute("INSERT INTO app_revisions VALUES (?, ?, ?, ?, ?, ?)", values)
                connection.execute(
                    "DELETE FROM app_revisions WHERE app = ? AND number <= ?", (revision.app, revision.number - REVISIONS_KEPT)
                )

    def remove(self, name: str) -> None:
        """With its revisions, addresses and ports."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM app_members WHERE app = ?", (name,))
            connection.execute("DELETE FROM apps WHERE name = ?", (name,))

    def revisions(self, app: str) -> list[Revision]:
        """All that are kept, oldest first."""
        rows = self._database.read("SELECT app, number, at, cause, spec, images FROM app_revisions WHERE app = ? ORDER BY number", app)
        return [
            Revision(name, number, at, cause, app_adapter().validate_json(spec), json.loads(images))
            for name, number, at, cause, spec, images in rows
        ]

    def members(self) -> list[Member]:
        """All."""
        rows = self._database.read(
            "SELECT instance_id, app, service, slot, fingerprint, weight, serving_since, draining_since, hooks FROM app_members"
        )
        return [Member(**dict(zip(Member.__slots__, (*row[:-1], tuple(json.loads(row[-1]))), strict=True))) for row in rows]

    def save_member(self, member: Member) -> None:
        """Insert or update."""
        values = (
            *(getattr(member, name) for name in Member.__slots__ if name != "hooks"),
            json.dumps(member.hooks),
        )
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO app_members VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (instance_id) DO UPDATE SET"
                " weight = excluded.weight, serving_since = excluded.serving_since,"
                " draining_since = excluded.draining_since, hooks = excluded.hooks",
                values,
            )

    def addresses(self) -> dict[tuple[str, str, str], str]:
        """(app, service, network id) → virtual address."""
        rows = self._database.read("SELECT app, service, network_id, address FROM app_addresses")
        return {(app, service, network): address for app, service, network, address in rows}

    def save_address(self, app: str, service: str, network_id: str, address: str) -> None:
        """Insert."""
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO app_addresses VALUES (?, ?, ?, ?)", (app, service, network_id, address))

    def remove_address(self, app: str, service: str, network_id: str) -> None:
        """Give it back."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM app_addresses WHERE app = ? AND service = ? AND network_id = ?", (app, service, network_id))

    def ports(self) -> dict[tuple[str, str], tuple[PortMapping, ...]]:
        """(app, service) → published ports as chosen."""
        rows = self._database.read("SELECT app, service, ports FROM app_ports")
        return {(app, service): ports_adapter().validate_json(ports) for app, service, ports in rows}

    def save_ports(self, app: str, service: str, ports: tuple[PortMapping, ...]) -> None:
        """Insert or update; empty: forget."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM app_ports WHERE app = ? AND service = ?", (app, service))
            if ports:
                connection.execute("INSERT INTO app_ports VALUES (?, ?, ?)", (app, service, ports_adapter().dump_json(ports).decode()))


@cache
def app_adapter() -> TypeAdapter[AppSpec]:
    """Reads and writes AppSpec as JSON."""
    return TypeAdapter(AppSpec)
