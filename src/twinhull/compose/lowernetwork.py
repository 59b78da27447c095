"""Networks and ports: of the application, and of a service. Pure."""

from __future__ import annotations

import ipaddress

from twinhull.compose import fields
from twinhull.compose.shortforms import exposed, scalar
from twinhull.compose.tree import ComposeError, Map
from twinhull.spec.app import AppNetwork
from twinhull.spec.instance import NetworkAttachment, NetworkMode, PortMapping

DEFAULT = "default"
_MODES = {"": NetworkMode.BRIDGE, "bridge": NetworkMode.BRIDGE, "none": NetworkMode.NONE, "host": NetworkMode.HOST}


def network(name: str, config: Map) -> AppNetwork:
    """One network by the engine's name; the first IPv4 subnet counts."""
    if fields.flag(config, "external"):
        return AppNetwork(name, external=True)
    subnet = ""
    for entry in config.sub("ipam").seq("config"):
        text = fields.text(entry, "subnet")
        if not text:
            continue
        try:
            parsed = ipaddress.ip_network(text)
        except ValueError:
            raise ComposeError(entry.at("subnet"), f"subnet {text!r}: use an address and a length, such as 10.5.0.0/24") from None
        subnet = subnet or (str(parsed) if parsed.version == 4 else "")
    return AppNetwork(name, internal=fields.flag(config, "internal"), subnet=subnet, labels=fields.given(config, "labels"))


def mode(service: Map) -> NetworkMode:
    """`network_mode`; those that share another instance's are in the table of what isn't honoured."""
    word = fields.text(service, "network_mode")
    if word and service.get("networks"):
        raise ComposeError(service.at("network_mode"), "network_mode and networks exclude each other")
    if word.startswith(("service:", "container:")):
        return NetworkMode.BRIDGE
    if word not in _MODES:
        raise ComposeError(
            service.at("network_mode"), f"network_mode can't be {word!r}: use bridge, none or host, or list it under networks"
        )
    return _MODES[word]


def settle(model: Map) -> None:
    """Services that name no network are in the default one, in place."""
    networks, wanted = model.sub("networks"), False
    for service in model.sub("services").values():
        if not fields.text(service, "network_mode") and not service.sub("networks"):
            only = Map(service.mark)
            only.put(DEFAULT, None, service.mark)
            service.put("networks", only, service.mark)
        wanted = wanted or DEFAULT in service.sub("networks")
    if wanted and DEFAULT not in networks:
        networks.put(DEFAULT, Map(model.mark), model.mark)
        model.put("networks", networks, networks.mark)


def joined(service: Map) -> list[str]:
    """The keys of the service's networks, the one with the highest priority first."""
    networks = service.sub("networks")
    return sorted(networks, key=lambda key: -_priority(networks.sub(key)))


def _priority(config: Map) -> float:
    return float(config.get("gw_priority", config.get("priority", 0)))


def attachments(service: Map, names: dict[str, str], count: int, aliases: dict[str, list[str]]) -> tuple[NetworkAttachment, ...]:
    """`names`: the engine's by key. `aliases`: further ones by key, from other services' links. Raises ComposeError."""
    if fields.text(service, "network_mode") == "bridge":
        return (NetworkAttachment(DEFAULT),)
    networks, found = service.sub("networks"), []
    for index, key in enumerate(joined(service)):
        if key not in names:
            fields.known(networks, key, key, names, "network")
        config = networks.sub(key)
        address = fields.text(config, "ipv4_address")
        if address and count > 1:
            raise ComposeError(config.at("ipv4_address"), f"one address can't be given to {count} instances")
        if address and not _is_ipv4(address):
            raise ComposeError(config.at("ipv4_address"), f"{address!r} is no IPv4 address")
        mac = fields.text(config, "mac_address") or (fields.text(service, "mac_address") if index == 0 else "")
        known = (*fields.words(config, "aliases"), *aliases.get(key, ()))
        found.append(NetworkAttachment(names[key], tuple(dict.fromkeys(known)), address, mac))
    return tuple(found)


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def ports(service: Map) -> tuple[PortMapping, ...]:
    """Published ports, each once; of a range for one target the first."""
    found = [_port(entry) for entry in service.seq("ports") if entry["protocol"] in ("tcp", "udp")]
    return tuple(dict.fromkeys(found))


def _port(entry: Map) -> PortMapping:
    published = scalar(entry.get("published")).partition("-")[0]
    return PortMapping(int(entry["target"]), int(published or 0), fields.text(entry, "host_ip"), str(entry["protocol"]))


def tcp_ports(service: Map) -> tuple[int, ...]:
    """What `ports` and `expose` say is listened on, in the file's order."""
    found = [int(entry["target"]) for entry in service.seq("ports") if entry["protocol"] == "tcp"]
    found += [port for text in service.seq("expose") for port in exposed(str(text))]
    return tuple(dict.fromkeys(found))
