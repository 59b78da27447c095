"""Puts the parts of an engine's applications together."""

from __future__ import annotations

from pathlib import Path

from twinhull.activator.base import Activator
from twinhull.engine.apps.allowance import Allowance
from twinhull.engine.apps.balance import Balance
from twinhull.engine.apps.hands import Hands
from twinhull.engine.apps.local import LocalApps
from twinhull.engine.apps.meters import Meters
from twinhull.engine.apps.resolve import Resolver
from twinhull.engine.apps.scaling import Scaler
from twinhull.engine.apps.sizing import Sizing
from twinhull.engine.apps.state import App
from twinhull.engine.instances import Instances
from twinhull.engine.networks import Networks
from twinhull.engine.secrets import SecretStore
from twinhull.errors import NotFoundError
from twinhull.gateway.base import Gateway
from twinhull.metrics import sources
from twinhull.plan.budget import Room
from twinhull.spec.app import ScaleTarget
from twinhull.store.apps import AppTable


def assemble(instances: Instances, networks: Networks, gateway: Gateway, secrets: SecretStore, activator: Activator) -> LocalApps:
    """The applications of an engine; nothing is begun yet."""
    apps: dict[str, App] = {}
    settings = instances.launcher.settings
    table = AppTable(networks.database)
    lives = instances.lives
    balance = Balance(table, networks.host, gateway, networks.records, lives, apps, activator)
    instances.reserved = networks.reserved = balance.reserved
    hands = Hands(table, instances, balance, networks.create, networks.remove)
    meters = Meters(gateway, networks.host, activator, _Sources(balance), use_window=settings.use_window)
    allowance = Allowance(Room(settings.scale_cpus, settings.scale_memory), apps, lives)
    sizing = Sizing(instances, settings.use_window)
    scaler = Scaler(apps, lives, meters, activator, allowance, sizing, instances.events, instances.tasks)
    _, _, port = settings.gateway.http.rpartition(":")
    return LocalApps(
        table,
        instances,
        balance,
        hands,
        Resolver(instances, balance, lambda: {record.name for record in networks.records.values()}, secrets),
        apps,
        scaler,
        "" if port in ("", "80") else f":{port}",
    )


class _Sources:
    """Reads queues and queries of an application: its services by their names, with its secrets."""

    def __init__(self, balance: Balance) -> None:
        self._balance = balance

    async def __call__(self, app: App, target: ScaleTarget) -> float:
        return await sources.read(target, lambda host: self._balance.reached_at(app, host) or host, lambda name: _secret(app, name))


def _secret(app: App, name: str) -> str:
    """Raises NotFoundError. One of the files that the services are given; small, and on this machine."""
    for service in app.spec.services.values():
        for file in service.template.files:
            if file.secret and file.source and Path(file.target).name == name:
                return Path(file.source).read_text()
    raise NotFoundError(f"no service of application {app.name} is given a secret {name}")
