"""What nftables' listings say (libnftables-json(5)). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from twinhull.network.rules import REACHED, Element


@dataclass(frozen=True, slots=True)
class Present:
    """What a table has now: the names of its chains, and the elements of its sets and maps."""

    chains: frozenset[str] = frozenset()
    elements: frozenset[Element] = frozenset()


def present(objects: Iterable[Mapping[str, Any]]) -> Present:
    """From `list table`. What isn't ours comes out as something that nft will refuse to delete."""
    kinds = [(kind, value) for entry in objects for kind, value in entry.items()]
    return Present(
        frozenset(value["name"] for kind, value in kinds if kind == "chain"),
        frozenset(
            _element(value["name"], each)
            for kind, value in kinds
            if kind in ("set", "map") and value["name"] not in REACHED.values()
            for each in value.get("elem", ())
        ),
    )


def addresses(objects: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """From `list set` of one whose elements are addresses."""
    return frozenset(str(each) for entry in objects for each in entry.get("set", {}).get("elem", ()))


def foreign_policies(objects: Iterable[Mapping[str, Any]], table: str) -> tuple[str, ...]:
    """From `list chains`: base chains of others that drop what is forwarded, or comes in, unless they know it."""
    chains = (entry["chain"] for entry in objects if "chain" in entry)
    return tuple(
        f"{chain['family']} {chain['table']} {chain['name']} (hook {chain['hook']}, policy drop)"
        for chain in chains
        if chain.get("hook") in ("forward", "input") and chain.get("policy") == "drop" and chain["table"] != table
    )


def _element(name: str, value: Any) -> Element:
    match value:
        case [key, target]:
            return Element(name, _text(key), _text(target))
        case {"concat": [str(interface), address]} if name == "endpoints":
            return Element(name, f'"{interface}" . {_text(address)}')
        case key:
            return Element(name, _text(key))


def _text(value: Any) -> str:
    """As we write it."""
    match value:
        case {"concat": [*parts]}:
            return " . ".join(map(_text, parts))
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return f"{address}/{length}"
        case {"goto": {"target": str(chain)}}:
            return f"goto {chain}"
        case _:
            return str(value)
