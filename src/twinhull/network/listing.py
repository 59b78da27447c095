"""What nftables' listings say (libnftables-json(5)). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from twinhull.network.rules import Element


@dataclass(frozen=True, slots=True)
class Present:
    """What a table has now: all chains, and the elements of its interval sets."""

    chains: frozenset[str] = frozenset()
    elements: frozenset[Element] = frozenset()


def present(chains: Iterable[Mapping[str, Any]], sets: Iterable[Mapping[str, Any]], table: str) -> Present:
    """From `list chains`, and `list set` of each interval set."""
    names = (entry["chain"] for entry in chains if "chain" in entry)
    listed = (entry["set"] for entry in sets if "set" in entry)
    return Present(
        frozenset(chain["name"] for chain in names if (chain["family"], chain["table"]) == ("inet", table)),
        frozenset(Element(found["name"], _key(element)) for found in listed for element in found.get("elem", ())),
    )


def foreign_policies(objects: Iterable[Mapping[str, Any]], table: str) -> tuple[str, ...]:
    """From `list chains`: base chains of others that drop what is forwarded, or comes in, unless they know it."""
    chains = (entry["chain"] for entry in objects if "chain" in entry)
    return tuple(
        f"{chain['family']} {chain['table']} {chain['name']} (hook {chain['hook']}, policy drop)"
        for chain in chains
        if chain.get("hook") in ("forward", "input") and chain.get("policy") == "drop" and chain["table"] != table
    )


def _key(value: Any) -> str:
    """As we write it; anything that isn't ours comes out as something nft will refuse."""
    match value:
        case {"concat": [*parts]}:
            return " . ".join(map(_key, parts))
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return f"{address}/{length}"
        case _:
            return str(value)
