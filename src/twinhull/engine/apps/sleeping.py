"""Services that may sleep: what the activator stands in for. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from twinhull.activator.base import DEADLINE, Entrance, Sleeper
from twinhull.engine.apps.state import App
from twinhull.spec.app import ServiceSpec
from twinhull.spec.network import NetworkRecord
from twinhull.spec.service import ServiceRecord

_SOONER = 1.0
"""Seconds before the gateway's own patience ends: a refusal of the activator says when to come again."""


def may_sleep(app: App, spec: ServiceSpec) -> bool:
    """Whether somebody has to stand in for the service now and then."""
    return app.wants(spec.name) and spec.scale is not None and not spec.scale.min and not spec.job


def sleeper(app: App, spec: ServiceSpec, record: ServiceRecord, networks: Mapping[str, NetworkRecord]) -> Sleeper:
    """What leads to the service: routes, virtual addresses, published ports. record: with the host ports chosen."""
    assert spec.scale is not None
    asked = {route.port: route.protocol for route in spec.routes}
    inside = tuple(
        Entrance(side.virtual_address, peers=(networks[side.network_id].subnet,)) for side in record.sides if side.network_id in networks
    )
    outside = tuple(
        Entrance(mapping.host_ip if mapping.host_ip != "0.0.0.0" else "", mapping.host_port, mapping.container_port)
        for mapping in record.ports
        if mapping.protocol == "tcp" and mapping.host_port
    )
    patience = min([DEADLINE, *(max(_SOONER, route.timeout - _SOONER) for route in spec.routes)])
    return Sleeper(
        f"{app.name}/{spec.name}",
        http_ports=tuple(port for port, protocol in asked.items() if protocol == "http"),
        raw_ports=tuple(port for port, protocol in asked.items() if protocol != "http"),
        tcp=(*inside, *outside),
        deadline=patience,
        limit=spec.scale.max_concurrency,
    )
