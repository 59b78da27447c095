"""Applications in the database; the same laws as in `db`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from pydantic import TypeAdapter

from twinhull.plan.resize import Size
from twinhull.spec.app import AppSpec
from twinhull.spec.instance import PortMapping
from twinhull.store.db import Database, ports_adapter

REVISIONS_KEPT = 50


@dataclass(frozen=True, slots=True)
class Pin:
    """What a service of a revision was resolved to: the image's id, and the fingerprint of its instances."""

    image_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What people asked of an app beyond its file. Times: seconds since the epoch, by service.

    active: services that were asked for; an app brought up as a whole has them all.
    """

    active: tuple[str, ...] = ()
    scale: Mapping[str, int] = field(default_factory=dict)
    stopped: tuple[str, ...] = ()
    asked_at: Mapping[str, float] = field(default_factory=dict)
    restart_at: Mapping[str, float] = field(default_factory=dict)
    salts: Mapping[str, str] = field(default_factory=dict)
    """Goes into a service's fingerprint, so that its instances are replaced though nothing changed."""
    remove_orphans: bool = False
    dropped: tuple[str, ...] = ()
    """Services that a rollback took away: to be removed."""
    removed: bool = False
    remove_volumes: bool = False
    autoscaled: Mapping[str, int] = field(default_factory=dict)
    """What the autoscaler wants, of services that have one; `scale` is about the others."""
    sizes: Mapping[str, Size] = field(default_factory=dict)
    """What one instance is to have, of services with `auto_resources` once that differs from the file."""
    snapshots: Mapping[str, str] = field(default_factory=dict)
    """Keys of the snapshots that the services' guests go on from, so that they can wait for a service that sleeps."""


@dataclass(frozen=True, slots=True)
class AppRow:
    """One row of `apps`. memory: plan/memory.py's JSON; scaling: plan/scale.py's."""

    name: str
    created_at: float
    revision: int
    wanted: Wanted
    memory: str = "{}"
    scaling: str = "{}"


@dataclass(frozen=True, slots=True)
class Revision:
    """One row of `app_revisions`. pins: by service."""

    app: str
    number: int
    at: float
    cause: str
    spec: AppSpec
    pins: Mapping[str, Pin]


@dataclass(frozen=True, slots=True)
class MemberState:
    """What the engine has to remember of an instance as a part of its service; the terms of plan.observed.Seen."""

    serving: bool = False
    weight: int = 0
    serving_since: float = 0.0
    draining_since: float = 0.0
    stopped: bool = False
    held: bool = False
    post_start: str = "none"
    post_start_of: float = 0.0
    """started_at of the start that `post_start` is about."""
    pre_stop: str = "none"


@dataclass(frozen=True, slots=True)
class Member:
    """One row of `app_members`: an instance as a part of a service."""

    instance_id: str
    app: str
    service: str
    slot: int
    fingerprint: str
    state: MemberState = MemberState()


class AppTable:
    """Reads at start, writes at every change."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apps(self) -> list[AppRow]:
        """All."""
        rows = self._database.read("SELECT name, created_at, revision, wanted, memory, scaling FROM apps")
        return [
            AppRow(name, created_at, revision, _wanted().validate_json(wanted), memory, scaling)
            for name, created_at, revision, wanted, memory, scaling in rows
        ]

    def save(self, row: AppRow, revision: Revision | None = None) -> None:
        """Insert or update, with a new revision if there is one; revisions beyond the last REVISIONS_KEPT are forgotten."""
        wanted = _wanted().dump_json(row.wanted).decode()
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO apps VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET revision = excluded.revision,"
                " wanted = excluded.wanted, memory = excluded.memory, scaling = excluded.scaling",
                (row.name, row.created_at, row.revision, wanted, row.memory, row.scaling),
            )
            if revision is not None:
                spec = app_adapter().dump_json(revision.spec, exclude={"secret_values"}).decode()
                pins = _pins().dump_json(dict(revision.pins)).decode()
                values = (revision.app, revision.number, revision.at, revision.cause, spec, pins)
                connection.execute("INSERT INTO app_revisions VALUES (?, ?, ?, ?, ?, ?)", values)
                oldest = revision.number - REVISIONS_KEPT
                connection.execute("DELETE FROM app_revisions WHERE app = ? AND number <= ?", (revision.app, oldest))

    def remove(self, name: str) -> None:
        """With its revisions, members, addresses and ports."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM app_members WHERE app = ?", (name,))
            connection.execute("DELETE FROM apps WHERE name = ?", (name,))

    def revisions(self, app: str) -> list[Revision]:
        """All that are kept, oldest first."""
        rows = self._database.read("SELECT app, number, at, cause, spec, pins FROM app_revisions WHERE app = ? ORDER BY number", app)
        return [
            Revision(name, number, at, cause, app_adapter().validate_json(spec), _pins().validate_json(pins))
            for name, number, at, cause, spec, pins in rows
        ]

    def members(self) -> list[Member]:
        """All."""
        rows = self._database.read("SELECT instance_id, app, service, slot, fingerprint, state FROM app_members")
        return [
            Member(instance_id, app, service, slot, fingerprint, _state().validate_json(state))
            for instance_id, app, service, slot, fingerprint, state in rows
        ]

    def save_member(self, member: Member) -> None:
        """Insert or update."""
        values = (
            member.instance_id, member.app, member.service, member.slot, member.fingerprint, _state().dump_json(member.state).decode()
        )  # fmt: skip
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO app_members VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (instance_id) DO UPDATE SET state = excluded.state", values
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


@cache
def _wanted() -> TypeAdapter[Wanted]:
    return TypeAdapter(Wanted)


@cache
def _pins() -> TypeAdapter[dict[str, Pin]]:
    return TypeAdapter(dict[str, Pin])


@cache
def _state() -> TypeAdapter[MemberState]:
    return TypeAdapter(MemberState)
