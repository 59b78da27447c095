"""What a service contributes to the ruleset. Pure.

Each of its virtual addresses, and each of its published ports, has a chain of its own whose rules hand the next connection to
the next endpoint: exact turns, whoever asks. A change of endpoints rewrites them in one transaction; connections that
exist aren't looked at again. Without endpoints the chain refuses at once, or leads TCP to the activator. On its way to an
endpoint a packet passes the same forward chain as if it had been sent there, with its sender's address.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from twinhull.errors import UserError
from twinhull.network.conntrack import Stale
from twinhull.network.files import check_name
from twinhull.network.names import Place
from twinhull.network.rules import Chain, Element, Part
from twinhull.spec.instance import PortMapping
from twinhull.spec.network import NetworkRecord
from twinhull.spec.service import ServiceRecord, ServiceSide

TURNS = 256
"""Weights are kept exactly as long as a round has at most this many turns, or one per endpoint."""

Endpoints = Sequence[tuple[str, int]]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.[A-Za-z0-9._-]+")
_NO_ENDPOINTS = ("meta l4proto tcp reject with tcp reset", "reject with icmpx type port-unreachable")


def turns(endpoints: Endpoints) -> tuple[str, ...]:
    """One round: each address as often as it weighs, its turns spread evenly."""
    weights = [weight for _, weight in endpoints]
    divisor = math.gcd(*weights)
    total = sum(weights) // max(divisor, 1)
    limit = max(TURNS, len(endpoints))
    shares = [weight // divisor if total <= limit else max(1, weight * limit // sum(weights)) for weight in weights]
    places = sorted(((2 * turn + 1) / share, index) for index, share in enumerate(shares) for turn in range(share))
    return tuple(endpoints[index][0] for _, index in places)


def parts(record: ServiceRecord, ports: Iterable[PortMapping]) -> frozenset[Part]:
    """All that the service contributes; `ports` with their host ports chosen."""
    found: set[Part] = set()
    for side in record.sides:
        found |= _side(side, record.activator) if side.virtual_address else set()
    endpoints = record.sides[0].endpoints if record.sides else ()
    for mapping in ports:
        found |= _published(mapping, endpoints, record.activator)
    return frozenset(found)


def stale(record: ServiceRecord, ports: Collection[PortMapping]) -> tuple[Stale, ...]:
    """UDP flows that lead to somebody who isn't an endpoint (any more)."""
    found = [Stale(address=side.virtual_address, keep=_addresses(side.endpoints)) for side in record.sides if side.virtual_address]
    udp = frozenset(mapping.host_port for mapping in ports if mapping.protocol == "udp")
    if udp:
        found.append(Stale(ports=udp, keep=_addresses(record.sides[0].endpoints) if record.sides else frozenset()))
    return tuple(found)


def left(before: ServiceRecord | None, now: ServiceRecord) -> frozenset[str]:
    """Endpoints that it has no more. A service that wasn't known had none."""
    return _endpoints(before) - _endpoints(now) if before else frozenset()


def emptied(record: ServiceRecord) -> ServiceRecord:
    """Without endpoints."""
    return replace(record, sides=tuple(replace(side, endpoints=()) for side in record.sides))


def names(record: ServiceRecord, numbers: Mapping[str, int]) -> dict[Place, list[str]]:
    """The names of each address. `numbers`: network id → number."""
    found: dict[Place, list[str]] = {}
    for side in record.sides:
        number = numbers[side.network_id]
        for address in [endpoint for endpoint, _ in side.endpoints] if side.dnsrr else [side.virtual_address]:
            found.setdefault((number, address), []).extend(side.names)
        for name, address in side.instance_names:
            found.setdefault((number, address), []).append(name)
    return found


def check(record: ServiceRecord, networks: Mapping[str, NetworkRecord]) -> None:
    """Raises UserError unless ids, addresses and weights are such that rules and files can be made of them."""
    if not _ID.fullmatch(record.id):
        raise UserError(f"service id {record.id!r}: must be like APP.SERVICE")
    if not 0 <= record.activator < 65536:
        raise UserError(f"service {record.id}: {record.activator} is not a port")
    for side in record.sides:
        network = networks.get(side.network_id)
        if network is None:
            raise UserError(f"service {record.id}: network {side.network_id} isn't there")
        if side.virtual_address or not side.dnsrr:
            _check_address(record.id, side.virtual_address, network)
        for name in (*side.names, *(name for name, _ in side.instance_names)):
            check_name(name)
        for address in (*_addresses(side.endpoints), *(held for _, held in side.instance_names)):
            _check_address(record.id, address, network)
        if any(weight < 1 for _, weight in side.endpoints):
            raise UserError(f"service {record.id}: an endpoint's weight is below 1")


def _check_address(service: str, text: str, network: NetworkRecord) -> None:
    try:
        inside = str(ipaddress.IPv4Address(text)) == text and ipaddress.IPv4Address(text) in ipaddress.IPv4Network(network.subnet)
    except ValueError:
        inside = False
    if not inside or text == network.gateway:
        raise UserError(f"service {service}: {text!r} is not an address of network {network.name} ({network.subnet})")


def _side(side: ServiceSide, activator: int) -> set[Part]:
    chain = f"vip-{side.virtual_address}"
    rules = _balance(side.endpoints) or _stand_in(activator)
    return {Chain(chain, rules), Element("services", side.virtual_address, f"goto {chain}"), *_let_in(activator)}


def _published(mapping: PortMapping, endpoints: Endpoints, activator: int) -> set[Part]:
    port = f"{mapping.protocol} . {mapping.host_port}"
    chain = "-".join(filter(None, ("port", mapping.host_ip, mapping.protocol, str(mapping.host_port))))
    way = (
        Element("served_at", f"{mapping.host_ip} . {port}", f"goto {chain}")
        if mapping.host_ip
        else Element("served", port, f"goto {chain}")
    )
    found: set[Part] = {Chain(chain, _balance(endpoints, mapping) or _stand_in(activator)), way, *_let_in(activator)}
    return found | {Element("targets", f"{address} . {mapping.protocol} . {mapping.container_port}") for address, _ in endpoints}


def _balance(endpoints: Endpoints, mapping: PortMapping | None = None) -> tuple[str, ...]:
    """Rules of a chain: to the endpoints by turns, on the same port or the one that is mapped. None without endpoints."""
    round_ = turns(endpoints)
    if not round_:
        return ()
    before, after = (f"meta l4proto {mapping.protocol} ", f":{mapping.container_port}") if mapping else ("", "")
    # Each rule takes its part of what those before it left: every Nth, every (N-1)th of the rest, and so on. One rule with a map would be
    # shorter; but while it is replaced, a packet that is still on its way through it finds the map emptied.
    places = zip(range(len(round_), 0, -1), round_, strict=True)
    return tuple(f"{before}{f'numgen inc mod {left} 0 ' if left > 1 else ''}dnat ip to {address}{after}" for left, address in places)


def _stand_in(activator: int) -> tuple[str, ...]:
    """Rules of a chain without endpoints."""
    return (*((f"meta nfproto ipv4 meta l4proto tcp redirect to :{activator}",) if activator else ()), *_NO_ENDPOINTS)


def _let_in(activator: int) -> set[Part]:
    """Always, so that a connection that was led there just before an endpoint came still arrives."""
    return {Element("activators", str(activator))} if activator else set()


def _endpoints(record: ServiceRecord) -> frozenset[str]:
    return frozenset[str]().union(*(_addresses(side.endpoints) for side in record.sides))


def _addresses(endpoints: Endpoints) -> frozenset[str]:
    return frozenset(address for address, _ in endpoints)
