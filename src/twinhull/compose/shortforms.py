"""The short syntaxes of ports, volumes, networks, mounts of secrets and the like, as the mappings they stand for. Pure.

Each function takes what the file says and its place, and gives the long form; ComposeError where it can't be read.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from typing import Any

from twinhull.compose.tree import ComposeError, Map, Mark, Seq

_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_PORT_FORM = "use [[IP:]PUBLISHED:]TARGET[/udp], such as 8080:80 or 127.0.0.1:8000-8010:8000-8010"
_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_IGNORED_OPTIONS = ("cached", "consistent", "delegated")
"""Of Docker Desktop for macOS: no meaning on Linux."""


def scalar(value: Any) -> str:
    """A scalar as the text that compose makes of it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return "" if value is None else str(value)


def strings(value: Any, mark: Mark) -> Seq:
    """One value or a list of them, as a list of strings."""
    found = Seq(mark)
    if isinstance(value, Seq):
        for item, place in value.items():
            found.add(scalar(item), place)
    elif value is not None:
        found.add(scalar(value), mark)
    return found


def mapping(value: Any, mark: Mark) -> Map:
    """ "KEY=value" lines or a mapping, as a mapping of strings; None where there is no value (the environment gives it)."""
    found = Map(mark)
    if isinstance(value, Map):
        found.tagged_as(value)
        for key, item in value.items():
            found.put(key, None if item is None else scalar(item), value.at(key))
    elif isinstance(value, Seq):
        for item, place in value.items():
            key, equals, text = scalar(item).partition("=")
            if not key:
                raise ComposeError(place, f"{scalar(item)!r} has no name in front of the =")
            found.put(key, text if equals else None, place)
    return found


def nulls(value: Any, mark: Mark) -> Map:
    """A list of names as a mapping of them to nothing; a mapping stays."""
    if isinstance(value, Map):
        return value
    found = Map(mark)
    for item, place in value.items() if isinstance(value, Seq) else ():
        found.put(scalar(item), None, place)
    return found


def keyed(value: Any, mark: Mark, key: str) -> Map:
    """A word as the mapping {key: word}; a mapping stays."""
    if isinstance(value, Map):
        return value
    found = Map(mark)
    found.put(key, scalar(value), mark)
    return found


def each_keyed(value: Seq, key: str) -> Seq:
    """`keyed` for every element."""
    found = Seq(value.mark)
    for item, mark in value.items():
        found.add(keyed(item, mark, key), mark)
    return found


def words(value: Any, mark: Mark) -> Any:
    """A command as a list of words; a string is split as a shell would. None stays."""
    if not isinstance(value, str):
        return value
    found = Seq(mark)
    try:
        split = shlex.split(value)
    except ValueError as error:
        raise ComposeError(mark, f"{value!r}: {str(error).lower()}", "quote as in a shell, or write a list of words") from None
    for word in split:
        found.add(word, mark)
    return found


def depends_on(value: Any, mark: Mark) -> Map:
    """Names as mappings with condition and required; a mapping stays."""
    if isinstance(value, Map):
        return value
    found = Map(mark)
    for name, place in value.items() if isinstance(value, Seq) else ():
        entry = Map(place)
        entry.put("condition", "service_started", place)
        entry.put("required", True, place)
        found.put(name, entry, place)
    return found


def extra_hosts(value: Any, mark: Mark) -> Seq:
    """ "host=address" each, from host:address, host=address or a mapping of one or several."""
    found = Seq(mark)
    pairs: list[tuple[str, str, Mark]] = []
    if isinstance(value, Map):
        for host, item in value.items():
            pairs += [(host, scalar(address), value.at(host)) for address in (item if isinstance(item, Seq) else [item])]
    elif isinstance(value, Seq):
        for item, place in value.items():
            host, sign, address = item.partition("=") if "=" in item else item.partition(":")
            if not sign:
                raise ComposeError(place, f"{item!r}: use host=address")
            pairs.append((host, address, place))
    for host, address, place in pairs:
        clean = address.removeprefix("[").removesuffix("]")
        if not host or not (clean == "host-gateway" or _is_address(clean)):
            raise ComposeError(place, f"{host}={address}: use host=address, the address in numbers or host-gateway")
        found.add(f"{host}={clean}", place)
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def ports(value: Seq) -> Seq:
    """Every port as a mapping with `target` (a number), `published` ("8000", "8000-8010" or nothing), `host_ip`, `protocol`."""
    found = Seq(value.mark)
    for item, mark in value.items():
        if isinstance(item, Map):
            found.add(_long_port(item, mark), mark)
            continue
        for entry in _short_ports(scalar(item), mark):
            found.add(entry, mark)
    return found


def _long_port(item: Map, mark: Mark) -> Map:
    if "target" not in item:
        raise ComposeError(mark, "the port needs the key 'target'")
    first, last = _range(scalar(item["target"]), item.at("target"))
    if first != last:
        raise ComposeError(item.at("target"), "a long port has one target; for ranges use the short form")
    item.put("target", first, item.at("target"))
    published = item.get("published")
    if published in ("", None):
        item.pop("published", None)
    else:
        low, high = _range(scalar(published), item.at("published"))
        item.put("published", str(low) if low == high else f"{low}-{high}", item.at("published"))
    if item.get("host_ip") and not _is_address(str(item["host_ip"])):
        raise ComposeError(item.at("host_ip"), f"{item['host_ip']!r} is no IP address")
    item.put("protocol", _protocol(scalar(item.get("protocol") or "tcp"), item.at("protocol")), item.at("protocol"))
    return item


def _protocol(text: str, mark: Mark) -> str:
    if text.lower() not in ("tcp", "udp", "sctp"):
        raise ComposeError(mark, f"unknown protocol {text!r}: use tcp or udp")
    return text.lower()


def _short_ports(text: str, mark: Mark) -> list[Map]:
    rest, slash, protocol = text.partition("/")
    protocol = _protocol(protocol, mark) if slash else "tcp"
    address, rest = _split_address(rest, mark)
    published, _, target = rest.rpartition(":")
    first, last = _range(target, mark)
    low, high = _range(published, mark) if published else (0, 0)
    spread = published and last - first == high - low
    if published and not spread and first != last:
        raise ComposeError(mark, f"port {text!r}: the two ranges differ in length")
    found = []
    for offset in range(last - first + 1):
        entry = Map(mark)
        entry.put("target", first + offset, mark)
        if spread:
            entry.put("published", str(low + offset), mark)
        elif published:
            entry.put("published", f"{low}-{high}", mark)
        if address:
            entry.put("host_ip", address, mark)
        entry.put("protocol", protocol, mark)
        found.append(entry)
    return found


def _split_address(text: str, mark: Mark) -> tuple[str, str]:
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]:")
        if not bracket or not _is_address(address):
            raise ComposeError(mark, f"port {text!r}: {_PORT_FORM}")
        return address, rest
    if text.count(":") < 2:
        return "", text
    address, published, target = text.rsplit(":", 2)
    if address and not _is_address(address):
        raise ComposeError(mark, f"port {text!r}: {address!r} is no IP address", _PORT_FORM)
    return address, f"{published}:{target}"


def _range(text: str, mark: Mark) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    if not match:
        raise ComposeError(mark, f"port {text!r}: {_PORT_FORM}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise ComposeError(mark, f"port {text!r}: use 1 to 65535, the smaller one first")
    return first, last


def expose(value: Seq) -> Seq:
    """Port numbers or ranges with an optional protocol, as strings."""
    found = Seq(value.mark)
    for item, mark in value.items():
        text = scalar(item)
        number, slash, protocol = text.partition("/")
        _range(number, mark)
        if slash:
            _protocol(protocol, mark)
        found.add(text, mark)
    return found


def exposed(text: str) -> range:
    """The TCP ports of one checked entry of `expose`."""
    number, _, protocol = text.partition("/")
    first, _, last = number.partition("-")
    return range(0) if protocol not in ("", "tcp") else range(int(first), int(last or first) + 1)


def volume(text: str, mark: Mark) -> Map:
    """`[SOURCE:]TARGET[:OPTIONS]`: a source that begins with /, . or ~ is a path, else a volume's name."""
    parts = text.split(":")
    if len(parts) > 3 or "" in parts[:2]:
        raise ComposeError(mark, f"volume {text!r}: use [SOURCE:]TARGET[:ro]")
    source, target = (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])
    found = Map(mark)
    bind = source[:1] in ("/", ".", "~")
    found.put("type", "bind" if bind else "volume", mark)
    if source:
        found.put("source", source, mark)
    found.put("target", target, mark)
    options = Map(mark)
    for option in parts[2].split(",") if len(parts) > 2 else ():
        _volume_option(found, options, option, mark)
    if bind:
        options.put("create_host_path", True, mark)
    if options:
        found.put(str(found["type"]), options, mark)
    return found


def _volume_option(found: Map, options: Map, option: str, mark: Mark) -> None:
    if option in ("ro", "rw"):
        found.put("read_only", option == "ro", mark)
    elif option == "nocopy" and found["type"] == "volume":
        options.put("nocopy", True, mark)
    elif option in _PROPAGATION and found["type"] == "bind":
        options.put("propagation", option, mark)
    elif option in ("z", "Z"):
        if found["type"] == "bind":
            options.put("selinux", option, mark)
    elif option not in _IGNORED_OPTIONS:
        raise ComposeError(mark, f"volume option {option!r}: use ro, rw, nocopy, z or Z")
