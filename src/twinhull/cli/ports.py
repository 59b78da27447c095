"""-p and --network → PortMapping and NetworkAttachment as JSON objects. Pure; ValueError says what would be right."""

from __future__ import annotations

import re
from typing import Any

from twinhull.cli import values

_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_FORM = "use [[IP:]HOST:]PORT[/udp], such as 8080:80 or 127.0.0.1:8000-8010:8000-8010"
MODES = ("none", "host")
DEFAULT = "default"
"""The network's name that "bridge" (Docker's word) and nothing at all mean."""
_ATTACHMENT = {"alias": "aliases", "ip": "address", "ip6": "", "mac": "mac", "mac-address": "mac", "mac_address": "mac", "name": "network"}


def publish(text: str) -> list[dict[str, Any]]:
    """One -p. `80` publishes 80 on a free port, as in Docker; two ranges must be of one length."""
    rest, protocol = _protocol(text)
    address, rest = _address(rest)
    host, _, container = rest.rpartition(":")
    inside = _range(container)
    outside = _range(host) if host else [0] * len(inside)
    if len(inside) != len(outside):
        raise ValueError(f"{host} and {container} differ in length")
    return [_mapping(address, *ports, protocol) for ports in zip(outside, inside, strict=True)]


def _protocol(text: str) -> tuple[str, str]:
    rest, slash, protocol = text.partition("/")
    if slash and protocol.lower() not in ("tcp", "udp"):
        raise ValueError(f"protocol {protocol!r}: use tcp or udp")
    return rest, protocol.lower() or "tcp"


def _address(text: str) -> tuple[str, str]:
    """The address in front ("" if there is none), and HOST:PORT."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]:")
        if not bracket:
            raise ValueError(_FORM)
        return _checked(address), rest
    if text.count(":") < 2:
        return "", text
    address, host, container = text.rsplit(":", 2)
    return _checked(address) if address else "", f"{host}:{container}"


def _checked(address: str) -> str:
    import socket

    try:
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError:
        raise ValueError(f"{address!r} is no address: {_FORM}") from None
    return address


def _range(text: str) -> list[int]:
    match = _RANGE.fullmatch(text)
    if not match:
        raise ValueError(_FORM)
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"port {text}: use 1 to 65535, the smaller one first")
    return list(range(first, last + 1))


def _mapping(address: str, host: int, container: int, protocol: str) -> dict[str, Any]:
    found: dict[str, Any] = {"container_port": container}
    if host:
        found["host_port"] = host
    if address:
        found["host_ip"] = address
    if protocol != "tcp":
        found["protocol"] = protocol
    return found


def attachment(text: str) -> dict[str, Any]:
    """One --network: NAME, NAME:alias=a,ip=… (Podman), or name=NAME,alias=a,ip=… (Docker)."""
    name, _, options = text.partition(":") if "=" not in text.partition(":")[0] else ("", "", text)
    found: dict[str, Any] = {"network": DEFAULT if name == "bridge" else name, "aliases": []}
    for key, value in values.keyed(options) if options else ():
        field = _ATTACHMENT.get(key, "")
        if not field:
            raise ValueError(f"unknown key {key!r}: use alias, ip or mac")
        if field == "aliases":
            found["aliases"].append(value)
        else:
            found[field] = value
    if not found["network"]:
        raise ValueError("use NAME or NAME:alias=…,ip=…")
    return found if found["aliases"] else {key: value for key, value in found.items() if key != "aliases"}


def networks(texts: list[str], extra: dict[str, Any]) -> dict[str, Any]:
    """`network_mode` and `networks` of the spec. `extra` (aliases, address, mac) goes to the first network."""
    modes = [text for text in texts if text in MODES]
    if modes and (len(texts) > 1 or extra):
        raise ValueError(f"{modes[0]} can't be combined with other networks, names or addresses")
    if modes:
        return {"network_mode": modes[0]}
    if any(text.startswith("container:") for text in texts):
        raise ValueError("sharing another instance's network isn't supported")
    found = [attachment(text) for text in texts]
    if extra:
        first = found[0] if found else {"network": DEFAULT}
        aliases = [*first.get("aliases", []), *extra.get("aliases", [])]
        found[:1] = [first | extra | ({"aliases": aliases} if aliases else {})]
    only_default = len(found) == 1 and found[0] == {"network": DEFAULT} and texts == ["bridge"]
    return {"networks": found} if found and not only_default else {}
