"""A network as the database keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """One network. `number` names its bridge and never changes; subnets are CIDR texts, times seconds since the epoch.

    `subnet6` and `gateway6` are kept for later; for now networks are IPv4 only and IPv6 is blocked on them.
    """

    id: str
    name: str
    number: int
    subnet: str
    gateway: str
    internal: bool = False
    """No way out: no NAT, no forwarding but within the network, no DNS but its own names."""
    mtu: int = 1500
    labels: dict[str, str] = field(default_factory=dict)
    created_at: float = 0.0
    subnet6: str = ""
    gateway6: str = ""
    host_access: bool = False
    """Whether instances may reach the machine's own services (what "host-gateway" points at)."""
