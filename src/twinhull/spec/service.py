"""A service on the networks: its virtual addresses, its names, and the ports of this machine that lead to it."""

from __future__ import annotations

from dataclasses import dataclass

from twinhull.spec.instance import PortMapping


@dataclass(frozen=True, slots=True)
class ServiceSide:
    """The service on one network. endpoints: addresses of the instances that take new connections, with weights ≥ 1.

    names lead to `virtual_address` (or, with dnsrr, to each endpoint); instance_names: (name, address), of every instance there is.
    """

    network_id: str
    virtual_address: str
    names: tuple[str, ...]
    endpoints: tuple[tuple[str, int], ...] = ()
    instance_names: tuple[tuple[str, str], ...] = ()
    dnsrr: bool = False


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """id: "APP.SERVICE". ports: published on this machine, balanced over the endpoints of the first side; host ports chosen.

    activator: a TCP port of the daemon's network namespace that takes connections where there are no endpoints; 0: they are refused.
    """

    id: str
    sides: tuple[ServiceSide, ...]
    ports: tuple[PortMapping, ...] = ()
    activator: int = 0
