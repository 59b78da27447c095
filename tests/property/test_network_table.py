"""Whatever owners contribute, in whatever order: each transaction is one that nftables accepts, and the table is the union."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from twinhull.network import rules, service, table
from twinhull.network.rules import Chain, Element, Part
from twinhull.spec.instance import PortMapping
from twinhull.spec.service import ServiceRecord, ServiceSide
from twinhull.sys.libnftables import NftError

_LINE = re.compile(
    r"(?P<verb>add|delete|flush) (?P<kind>table|chain|set|map|rule|element) inet t ?(?P<name>[\w.-]*) ?(?P<rest>.*)",
)


class Model:
    """nftables' strictness about what we use: keys are unique, what is deleted is there, a chain that is led to isn't deleted."""

    def __init__(self) -> None:
        self.chains: dict[str, list[str]] = {}
        self.elements: dict[tuple[str, str], str] = {}
        self.refusals = 0

    def run(self, text: str) -> str:
        if text.startswith("list "):
            self._need(bool(self.chains))
            return ""
        before = {name: list(found) for name, found in self.chains.items()}, dict(self.elements)
        try:
            for line in filter(None, text.splitlines()):
                match = _LINE.fullmatch(line)
                assert match, line
                self._apply(*match.group("verb", "kind", "name", "rest"))
        except NftError:
            self.chains, self.elements = before
            self.refusals += 1
            raise
        return ""

    def _apply(self, verb: str, kind: str, name: str, rest: str) -> None:
        key, _, value = rest.strip("{ }").partition(" : ")
        match verb, kind:
            case "add", "chain":
                self.chains.setdefault(name, [])
            case "flush", "chain":
                self._need(name in self.chains)
                self.chains[name].clear()
            case "delete", "chain":
                self._need(self.chains.get(name) == [] and f"goto {name}" not in self.elements.values())
                del self.chains[name]
            case "add", "rule":
                self._need(name in self.chains)
                self.chains[name].append(rest)
            case "flush", "set" | "map":
                self.elements = {place: found for place, found in self.elements.items() if place[0] != name}
            case "delete", "element":
                self._need((name, key) in self.elements)
                del self.elements[name, key]
            case "add", "element":
                self._need(self.elements.get((name, key), value) == value and (not value.startswith("goto ") or value[5:] in self.chains))
                self.elements[name, key] = value
            case "add", "table" | "set" | "map":
                pass
            case _:
                raise AssertionError((verb, kind))

    @staticmethod
    def _need(condition: bool) -> None:
        if not condition:
            raise NftError("refused")

    def query(self, command: str) -> list[dict[str, Any]]:
        if command.startswith("list set"):
            name = command.rsplit(maxsplit=1)[-1]
            return [{"set": {"name": name, "elem": [key for place, key in self.elements if place == name]}}]
        chains = [{"chain": {"name": name}} for name in self.chains]
        elements = [{"set": {"name": name, "elem": [[key, value] if value else key]}} for (name, key), value in self.elements.items()]
        return chains + elements

    def holds(self, parts: set[Part]) -> bool:
        wanted = {part.name: list(part.rules) for part in parts if isinstance(part, Chain)}
        own = {name: found for name, found in self.chains.items() if name not in rules._CHAINS}
        return own == wanted and self.elements == {(part.set, part.key): part.value for part in parts if isinstance(part, Element)}


def contribution(owner: int, endpoints: Sequence[int], ports: Sequence[int]) -> frozenset[Part]:
    """Owners share endpoints and a network, and nothing else, as in life."""
    side = ServiceSide("n", f"10.0.1.{owner}", (), tuple((f"10.0.0.{each}", 1) for each in endpoints))
    mappings = [PortMapping(80, 1000 * owner + port) for port in ports]
    network = {Element("same", "10.0.0.0/16 . 10.0.0.0/16"), Element("egress", f"10.{owner}.0.0/16")}
    return service.parts(ServiceRecord("a.b", (side,)), mappings) | network


wanted = st.tuples(st.lists(st.integers(2, 6), unique=True, max_size=4), st.lists(st.integers(1, 3), unique=True, max_size=2))
steps = st.one_of(
    st.dictionaries(st.integers(1, 3), st.one_of(st.none(), wanted), min_size=1),
    st.just("reset"),
    st.just("flushed"),
)


@settings(deadline=None)
@given(st.lists(steps, max_size=12))
def test_the_table_is_the_union_of_what_owners_contribute(done: list[Any]) -> None:
    model = Model()
    with mock.patch.object(table, "Nft", lambda: model):
        live = table.Table("t", "thx")
    live.open()
    owned: dict[str, frozenset[Part]] = {}
    for step in done:
        match step:
            case "reset":
                live.reset(owned)
            case "flushed":
                model.chains, model.elements = {}, {}
                live.reset(owned)
            case changes:
                parts = {f"s{owner}": contribution(owner, *found) if found else frozenset() for owner, found in changes.items()}
                live.replace(parts)
                owned |= parts
        assert model.holds(set().union(*owned.values()))
    assert not model.refusals


@settings(deadline=None)
@given(wanted, wanted)
def test_a_successor_finds_what_is_there_and_makes_it_what_should_be(before: Any, after: Any) -> None:
    model = Model()
    with mock.patch.object(table, "Nft", lambda: model):
        first, second = table.Table("t", "thx"), table.Table("t", "thx")
    first.open()
    first.replace({"s1": contribution(1, *before), "s2": contribution(2, *before)})
    second.open()
    model.elements[rules.REACHED["tcp"], "10.0.0.9"] = ""
    assert second.reached("tcp") == {"10.0.0.9"}
    assert second.reached("udp") == frozenset()
    del model.elements[rules.REACHED["tcp"], "10.0.0.9"]
    assert model.holds(set(contribution(1, *before) | contribution(2, *before)))
    model.elements[rules.REACHED["udp"], "10.0.0.8"] = ""
    second.reset({"s1": contribution(1, *after)})
    assert model.holds(set(contribution(1, *after)))
    assert not model.refusals
