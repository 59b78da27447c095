"""The nftables ruleset of one daemon. Pure: texts in nft's language, compared as a whole in the tests.

One table (family inet) holds chains that never change and sets whose elements say everything; a service adds a chain for each of
its virtual addresses and published ports (service.py), to which an element of a map leads:

    guard     prerouting, raw   what comes from an instance must have the address that its port was given, and be IPv4
    publish   prerouting, dnat  DNS to the network's resolver; virtual addresses and published ports to their instances
    local     output, dnat      the same for programs on this machine
    forward   forward           within a network: yes. From outside: published ports only. Between networks: no
    input     input             from an instance to this machine: DNS and ping of its own gateway, services that sleep, nothing else
    leave     postrouting       which instances flows reach is noted; NAT for what leaves, for 127.0.0.1, and for an instance that calls
                                its own service or published port

Packets of other interfaces pass untouched. The priorities are five before the usual ones, so that this table translates and
refuses first; it can't, however, overrule a refusal elsewhere: nftables evaluates every table, and one "drop" is final. A
firewall whose forward or input chain drops by default must therefore let our interfaces through; listing.py finds such
chains for `twinhull doctor`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from twinhull.spec.network import NetworkRecord

DNS_PORT = 53

_SUBNETS = "type ipv4_addr ; flags interval"
_SETS = {
    "endpoints": "type ifname . ipv4_addr",
    "same": "type ipv4_addr . ipv4_addr ; flags interval",
    "gateways": "type ipv4_addr . ipv4_addr ; flags interval",
    "gateway_addresses": "type ipv4_addr",
    "internal": _SUBNETS,
    "egress": _SUBNETS,
    "host_access": _SUBNETS,
    "targets": "type ipv4_addr . inet_proto . inet_service",
    "hairpin": "type ipv4_addr . ipv4_addr",
    "activators": "type inet_service",
}
REACHED = {"tcp": "reached_tcp", "udp": "reached_udp"}
"""Sets that packets fill: instances that somebody was led to, or (TCP) another instance went to."""
REACHED_MOST = 65535
_MAPS = {
    "resolvers": "type ipv4_addr : ipv4_addr . inet_service",
    "network_resolvers": "type ipv4_addr : ipv4_addr . inet_service",
    "published_at": "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    "published": "type inet_proto . inet_service : ipv4_addr . inet_service",
    "services": "type ipv4_addr : verdict",
    "served_at": "type ipv4_addr . inet_proto . inet_service : verdict",
    "served": "type inet_proto . inet_service : verdict",
}
_CHAINS = {
    "guard": "type filter hook prerouting priority -305",
    "publish": "type nat hook prerouting priority -105",
    "local": "type nat hook output priority -105",
    "forward": "type filter hook forward priority -5",
    "input": "type filter hook input priority -5",
    "leave": "type nat hook postrouting priority 95",
    "to_host": "",
}
_PUBLISH = (
    "meta l4proto { tcp, udp } fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @published_at",
    "meta l4proto { tcp, udp } fib daddr type local dnat ip to meta l4proto . th dport map @published",
    "meta l4proto { tcp, udp } fib daddr type local ip daddr . meta l4proto . th dport vmap @served_at",
    "meta l4proto { tcp, udp } fib daddr type local meta l4proto . th dport vmap @served",
)
_DNS = f"ip saddr . ip daddr @gateways meta l4proto {{ tcp, udp }} th dport {DNS_PORT} dnat ip to"
_SERVICES = "ip daddr vmap @services"
_REFUSE = ("meta l4proto tcp reject with tcp reset", "reject with icmpx type admin-prohibited")
_ASLEEP = "ct status dnat tcp dport @activators"
"""What a chain of a service without endpoints has redirected."""
_METADATA = "ct original ip daddr 169.254.0.0/16 reject with icmpx type admin-prohibited"


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set, or of a map if it has a value."""

    set: str
    key: str
    value: str = ""

    @property
    def text(self) -> str:
        """As nft writes it."""
        return f"{self.key} : {self.value}" if self.value else self.key


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain beside those that are always there, with all its rules; elements of verdict maps lead to it."""

    name: str
    rules: tuple[str, ...]


Part = Element | Chain


def _rules(prefix: str) -> dict[str, tuple[str, ...]]:
    """Rules by chain. `prefix`: how our interfaces' names begin. Behind `guard`, a source address says where a packet is from."""
    ours, bridges = f'"{prefix}*"', f'"{prefix}b*"'
    return {
        "guard": (
            f"iifname != {ours} return",
            "meta nfproto != ipv4 drop",
            "ip daddr 127.0.0.0/8 drop",  # the ports route loopback for `local`; nobody else may use that
            "iifname . ip saddr @endpoints return",
            "drop",
        ),
        "publish": (
            f"iifname {ours} {_DNS} ip saddr map @resolvers",
            f"iifname {ours} {_DNS} ip daddr map @network_resolvers",
            f"iifname {ours} ip saddr . ip daddr @same {_SERVICES}",  # from the service's own networks only
            *_PUBLISH,
        ),
        "local": (_SERVICES, *_PUBLISH),
        "forward": (
            f"iifname {ours} {_METADATA}",
            f"iifname {ours} ct state invalid drop",  # would pass NAT and leave with its inner address
            f"iifname {ours} oifname {bridges} ct state established meta l4proto tcp reject with tcp reset",  # its peer is gone
            f"iifname {ours} ct state established,related accept",
            f"oifname {ours} ct state established,related accept",
            f"iifname {ours} oifname {bridges} ip saddr . ip daddr @same reject with icmpx type host-unreachable",  # nobody is there
            f"iifname {ours} oifname {ours} ip saddr . ip daddr @same accept",
            *(f"iifname {ours} ip saddr @internal {refuse}" for refuse in _REFUSE),
            f"oifname {ours} ct status dnat ip daddr . meta l4proto . th dport @targets accept",
            *(f"iifname {ours} oifname {ours} {refuse}" for refuse in _REFUSE),
            f"oifname {ours} drop",
        ),
        "input": (
            f"iifname {ours} jump to_host",
            'iifname != "lo" ip daddr @gateway_addresses drop',
            f"{_ASLEEP} accept",  # a published port of a service that sleeps
            'iifname != "lo" tcp dport @activators reject with tcp reset',
        ),
        "to_host": (
            _METADATA,
            "ct state established,related accept",
            # To a service that sleeps: as to its instances, by a virtual address of one's own network, or by a published port.
            f"{_ASLEEP} ct original ip daddr != @gateway_addresses ip saddr . ct original ip daddr @same accept",
            f"{_ASLEEP} ip saddr != @internal accept",
            "tcp dport @activators reject with tcp reset",
            "ip saddr @host_access accept",
            "ct status dnat ip saddr . ct original ip daddr @gateways meta l4proto { tcp, udp } accept",  # `publish` sent it to a resolver
            "ip saddr . ip daddr @gateways icmp type echo-request accept",
            *_REFUSE,
        ),
        "leave": (
            *(f"oifname {ours} ct status dnat meta l4proto {kind} add @{name} {{ ip daddr }}" for kind, name in REACHED.items()),
            f"iifname {ours} oifname {ours} meta l4proto tcp add @{REACHED['tcp']} {{ ip daddr }}",
            "ip saddr . ip daddr @hairpin masquerade",
            f"oifname {ours} ip saddr 127.0.0.0/8 masquerade",
            f"oifname != {ours} ip saddr @egress masquerade",
        ),
    }


def base(table: str, prefix: str) -> str:
    """Make the table, or put its chains right and leave the elements of its sets. `prefix`: how our interfaces' names begin."""
    name = f"inet {table}"
    lines = [f"add table {name}"]
    lines += [f"add set {name} {key} {{ {kind} ; }}" for key, kind in _SETS.items()]
    lines += [f"add set {name} {key} {{ type ipv4_addr ; size {REACHED_MOST} ; flags dynamic ; }}" for key in REACHED.values()]
    lines += [f"add map {name} {key} {{ {kind} ; }}" for key, kind in _MAPS.items()]
    lines += [
        f"add chain {name} {key} {{ {kind} ; policy accept ; }}" if kind else f"add chain {name} {key}" for key, kind in _CHAINS.items()
    ]
    for chain, rules in _rules(prefix).items():
        lines.append(f"flush chain {name} {chain}")
        lines += [f"add rule {name} {chain} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


def whole(table: str, prefix: str, parts: Collection[Part], chains: Collection[str] = (), elements: Collection[Element] = ()) -> str:
    """The table with exactly these parts. `chains`, `elements`: what it has now.

    Sets get the difference only. One that is emptied and filled again in the same transaction isn't whole for some microseconds
    (a reader of the old generation may meet neither the old element nor the new one): a connection in 10,000 was refused.
    """
    name = f"inet {table}"
    lines = [f"delete element {name} {element.set} {{ {element.key} }}" for element in _elements(set(elements) - set(parts))]
    kept = {part.name for part in parts if isinstance(part, Chain)} | set(_CHAINS)
    lines += [f"{verb} chain {name} {chain}" for chain in sorted(set(chains) - kept) for verb in ("flush", "delete")]
    return base(table, prefix) + "".join(f"{line}\n" for line in lines) + change(table, (), set(parts) - set(elements))


def recreate(table: str, text: str) -> str:
    """`text` after removing the table, whatever it was (another version's sets have other types).

    A connection that begins at this very moment may be refused, so it is the last resort.
    """
    return f"add table inet {table}\ndelete table inet {table}\n{text}"


def change(table: str, removed: Collection[Part], added: Collection[Part]) -> str:
    """Take parts away, then add others; a chain that is on both sides is rewritten in place. In a fixed order."""
    name = f"inet {table}"
    chains = sorted((part for part in added if isinstance(part, Chain)), key=lambda chain: chain.name)
    gone = {part.name for part in removed if isinstance(part, Chain)} - {chain.name for chain in chains}
    lines = [f"delete element {name} {element.set} {{ {element.key} }}" for element in _elements(removed)]
    lines += [f"{verb} chain {name} {chain}" for chain in sorted(gone) for verb in ("flush", "delete")]
    for chain in chains:
        lines += [f"add chain {name} {chain.name}", f"flush chain {name} {chain.name}"]
        lines += [f"add rule {name} {chain.name} {rule}" for rule in chain.rules]
    lines += [f"add element {name} {element.set} {{ {element.text} }}" for element in _elements(added)]
    return "\n".join(lines) + "\n"


def _elements(parts: Iterable[Part]) -> list[Element]:
    return sorted((part for part in parts if isinstance(part, Element)), key=lambda element: (element.set, element.key))


def of_network(record: NetworkRecord, resolver_port: int) -> frozenset[Element]:
    """What a network contributes."""
    elements = {
        Element("same", f"{record.subnet} . {record.subnet}"),
        Element("gateways", f"{record.subnet} . {record.gateway}"),
        Element("gateway_addresses", record.gateway),
        Element("network_resolvers", record.gateway, f"{record.gateway} . {resolver_port}"),
        Element("internal" if record.internal else "egress", record.subnet),
    }
    return frozenset(elements | ({Element("host_access", record.subnet)} if record.host_access else set()))


def of_endpoint(interface: str, address: str) -> frozenset[Element]:
    """What a port contributes: who may send from this interface, and perhaps be sent to itself."""
    return frozenset({Element("endpoints", f'"{interface}" . {address}'), Element("hairpin", f"{address} . {address}")})


def of_resolver(address: str, gateway: str, port: int) -> frozenset[Element]:
    """Whoever has this address is answered by a resolver of its own."""
    return frozenset({Element("resolvers", address, f"{gateway} . {port}")})


def of_publication(address: str, container_port: int, host_ip: str, host_port: int, protocol: str) -> frozenset[Element]:
    """What one published port contributes."""
    target = f"{address} . {container_port}"
    entry = (
        Element("published_at", f"{host_ip} . {protocol} . {host_port}", target)
        if host_ip
        else Element("published", f"{protocol} . {host_port}", target)
    )
    return frozenset({entry, Element("targets", f"{address} . {protocol} . {container_port}")})
