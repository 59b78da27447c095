"""Puts the parts of an engine's applications together."""

from __future__ import annotations

from twinhull.engine.apps.balance import Balance
from twinhull.engine.apps.hands import Hands
from twinhull.engine.apps.local import LocalApps
from twinhull.engine.apps.state import App
from twinhull.engine.instances import Instances
from twinhull.engine.networks import Networks
from twinhull.engine.secrets import SecretStore
from twinhull.gateway.base import Gateway
from twinhull.store.apps import AppTable


def assemble(instances: Instances, networks: Networks, gateway: Gateway, secrets: SecretStore, http: str) -> LocalApps:
    """The applications of an engine; nothing is begun yet. http: where the gateway listens, "address:port" or ""."""
    apps: dict[str, App] = {}
    table = AppTable(networks.database)
    balance = Balance(table, networks.host, gateway, networks.records, instances.lives, apps)
    instances.reserved = networks.reserved = balance.reserved
    hands = Hands(table, instances, balance, networks.create, networks.remove)
    _, _, port = http.rpartition(":")
    return LocalApps(
        table,
        instances,
        balance,
        hands,
        lambda: {record.name for record in networks.records.values()},
        secrets,
        apps,
        "" if port in ("", "80") else f":{port}",
    )
