"""Which subnet a network gets, which address, MAC and number a port gets. Pure: the same question has the same answer.

Texts in and out (CIDR, dotted quads, colon-separated MACs), because that is what the database and the specifications hold.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator

from twinhull.errors import ConflictError, UserError
from twinhull.spec.network import NetworkRecord

POOLS = ("10.186.0.0/16", "10.188.0.0/16", "10.214.0.0/16")
"""Where subnets are taken from, in this order: none is podman's own (10.88.0.0/16) or among Docker's (172.17–31, 192.168.0.0/16)."""
PREFIX = 24
"""Length of a subnet that nobody asked for in particular."""
_SHORTEST, _LONGEST = 8, 29
_NUMBER_LIMIT = 1 << 24


def parse_subnet(text: str) -> ipaddress.IPv4Network:
    """A subnet that somebody asked for. Raises UserError unless it is an IPv4 network from /8 to /29 that hosts may use."""
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise UserError(f"subnet {text!r}: {error}", "write it like 10.89.1.0/24") from error
    if not _SHORTEST <= subnet.prefixlen <= _LONGEST:
        raise UserError(f"subnet {text}: the prefix must be between /{_SHORTEST} and /{_LONGEST}")
    if subnet.is_multicast or subnet.is_loopback or subnet.is_link_local or subnet.is_unspecified or subnet.is_reserved:
        raise UserError(f"subnet {text}: not usable by hosts")
    return subnet


def overlapping(subnet: str, occupied: Iterable[str]) -> str | None:
    """The first of `occupied` (CIDR; default routes don't count) that shares an address with `subnet`."""
    wanted = ipaddress.IPv4Network(subnet)
    return next((text for text, other in _networks(occupied) if wanted.overlaps(other)), None)


def choose_subnet(occupied: Collection[str], pools: Iterable[str] = POOLS, prefix: int = PREFIX) -> str:
    """The lowest subnet that overlaps nothing in `occupied`. Raises ConflictError when the pools are used up."""
    taken = [other for _text, other in _networks(occupied)]
    for pool in pools:
        for subnet in ipaddress.IPv4Network(pool).subnets(new_prefix=prefix):
            if not any(subnet.overlaps(other) for other in taken):
                return str(subnet)
    raise ConflictError("no free subnet is left in " + ", ".join(pools), "name one: network create --subnet 10.200.0.0/24 …")


def gateway_of(subnet: str) -> str:
    """The first host address."""
    return str(ipaddress.IPv4Network(subnet)[1])


def choose_address(subnet: str, gateway: str, used: Collection[str]) -> str:
    """The lowest host address that isn't used. Raises ConflictError when there is none."""
    network = ipaddress.IPv4Network(subnet)
    taken = {int(ipaddress.IPv4Address(address)) for address in used} | {int(ipaddress.IPv4Address(gateway))}
    first, last = int(network.network_address) + 1, int(network.broadcast_address)
    free = next((number for number in range(first, last) if number not in taken), None)
    if free is None:
        raise ConflictError(f"no free address is left in {subnet}")
    return str(ipaddress.IPv4Address(free))


def free_address(network: NetworkRecord, used: Collection[str]) -> str:
    """The lowest free one, for an instance. Raises ConflictError when there is none."""
    return choose_address(network.subnet, network.gateway, used)


def free_virtual_address(network: NetworkRecord, used: Collection[str]) -> str:
    """The highest free one, for a service: out of the way of addresses that people ask for. Raises ConflictError."""
    subnet = ipaddress.IPv4Network(network.subnet)
    taken = {int(ipaddress.IPv4Address(address)) for address in (*used, network.gateway)}
    last, first = int(subnet.broadcast_address) - 1, int(subnet.network_address) + 1
    free = next((number for number in range(last, first - 1, -1) if number not in taken), None)
    if free is None:
        raise ConflictError(f"no free address is left in {network.subnet}")
    return str(ipaddress.IPv4Address(free))


def check_address(address: str, subnet: str, gateway: str, used: Collection[str]) -> str:
    """An address that somebody asked for, in its usual form. Raises UserError or ConflictError."""
    try:
        wanted = ipaddress.IPv4Address(address)
    except ValueError as error:
        raise UserError(f"address {address!r}: {error}") from error
    network = ipaddress.IPv4Network(subnet)
    if wanted not in network:
        raise UserError(f"address {wanted} is not in {subnet}")
    if wanted in (network.network_address, network.broadcast_address):
        raise UserError(f"address {wanted} is the network's or the broadcast address of {subnet}")
    if wanted == ipaddress.IPv4Address(gateway):
        raise ConflictError(f"address {wanted} is the gateway of {subnet}")
    if str(wanted) in used:
        raise ConflictError(f"address {wanted} is already in use")
    return str(wanted)


def mac_of(address: str) -> str:
    """A locally administered unicast MAC that only depends on the address, so that a new instance there needs no new neighbour entry."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x74" + ipaddress.IPv4Address(address).packed)


def check_mac(text: str) -> str:
    """A MAC that somebody asked for, in lower case. Raises UserError unless it is six bytes, unicast and not zero."""
    parts = text.replace("-", ":").lower().split(":")
    try:
        values = bytes(int(part, 16) for part in parts if len(part) == 2)
    except ValueError:
        values = b""
    if len(parts) != 6 or len(values) != 6 or values[0] & 1 or not any(values):
        raise UserError(f"MAC address {text!r}: must be six bytes like 02:42:ac:11:00:02, and not multicast")
    return ":".join(f"{value:02x}" for value in values)


def free_number(used: Collection[int]) -> int:
    """The lowest number for an interface's or a bridge's name that isn't used."""
    taken = set(used)
    return next(number for number in range(_NUMBER_LIMIT) if number not in taken)


def reverse_zones(subnet: str) -> tuple[str, ...]:
    """The in-addr.arpa zones that hold the subnet's addresses; longer than /24 the enclosing /24 stands for it."""
    network = ipaddress.IPv4Network(subnet)
    octets = min((network.prefixlen + 7) // 8, 3)
    parts = network.subnets(new_prefix=octets * 8) if network.prefixlen <= octets * 8 else iter([network])
    return tuple(".".join(reversed(str(part.network_address).split(".")[:octets])) + ".in-addr.arpa" for part in parts)


def _networks(texts: Iterable[str]) -> Iterator[tuple[str, ipaddress.IPv4Network]]:
    for text in texts:
        network = ipaddress.IPv4Network(text, strict=False)
        if network.prefixlen:
            yield text, network
