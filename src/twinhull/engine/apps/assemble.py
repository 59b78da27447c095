"""Puts the parts of an engine's applications together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinhull.engine.apps.balance import Balance
from twinhull.engine.apps.hands import Hands
from twinhull.engine.apps.local import LocalApps
from twinhull.engine.apps.state import App
from twinhull.engine.instances import Instances
from twinhull.gateway.base import Gateway
from twinhull.network.host import NetworkHost
from twinhull.store.apps import AppTable
from twinhull.store.db import Database

if TYPE_CHECKING:
    from twinhull.engine.local import LocalEngine


def assemble(engine: LocalEngine, database: Database, instances: Instances, network: NetworkHost, gateway: Gateway) -> LocalApps:
    """The applications of an engine; nothing is begun yet."""
    apps: dict[str, App] = {}
    table = AppTable(database)
    networks = instances.launcher.networks
    balance = Balance(table, network, gateway, networks, instances.lives, apps)
    instances.reserved = balance.reserved
    hands = Hands(table, instances, balance, engine.network_create, engine.network_remove)
    _, _, port = engine.settings.gateway.http.rpartition(":")
    return LocalApps(
        table,
        instances,
        balance,
        hands,
        lambda: {record.name for record in networks.values()},
        engine.secret_store,
        apps,
        "" if port in ("", "80") else f":{port}",
    )
