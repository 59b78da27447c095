"""The ruleset as a whole, and what each part contributes to it."""

from __future__ import annotations

from typing import Any

import pytest

from twinhull.network import listing, rules, table
from twinhull.network.rules import Element
from twinhull.spec.network import NetworkRecord
from twinhull.sys.libnftables import NftError

RECORD = NetworkRecord("n1", "front", 1, "10.88.1.0/24", "10.88.1.1")

FORWARD = """\
add rule inet t forward iifname "thx*" ct original ip daddr 169.254.0.0/16 reject with icmpx type admin-prohibited
add rule inet t forward iifname "thx*" ct state invalid drop
add rule inet t forward iifname "thx*" oifname "thxb*" ct state established meta l4proto tcp reject with tcp reset
add rule inet t forward iifname "thx*" ct state established,related accept
add rule inet t forward oifname "thx*" ct state established,related accept
add rule inet t forward iifname "thx*" oifname "thxb*" ip saddr . ip daddr @same reject with icmpx type host-unreachable
add rule inet t forward iifname "thx*" oifname "thx*" ip saddr . ip daddr @same accept
add rule inet t forward iifname "thx*" ip saddr @internal meta l4proto tcp reject with tcp reset
add rule inet t forward iifname "thx*" ip saddr @internal reject with icmpx type admin-prohibited
add rule inet t forward oifname "thx*" ct status dnat ip daddr . meta l4proto . th dport @targets accept
add rule inet t forward iifname "thx*" oifname "thx*" meta l4proto tcp reject with tcp reset
add rule inet t forward iifname "thx*" oifname "thx*" reject with icmpx type admin-prohibited
add rule inet t forward oifname "thx*" drop
"""
GUARD = """\
add rule inet t guard iifname != "thx*" return
add rule inet t guard meta nfproto != ipv4 drop
add rule inet t guard ip daddr 127.0.0.0/8 drop
add rule inet t guard iifname . ip saddr @endpoints return
add rule inet t guard drop
"""
INPUT = """\
add rule inet t input iifname "thx*" jump to_host
add rule inet t input iifname != "lo" ip daddr @gateway_addresses drop
add rule inet t input ct status dnat tcp dport @activators accept
add rule inet t input iifname != "lo" tcp dport @activators reject with tcp reset
"""
TO_HOST = """\
add rule inet t to_host ct original ip daddr 169.254.0.0/16 reject with icmpx type admin-prohibited
add rule inet t to_host ct state established,related accept
add rule inet t to_host ASLEEP ct original ip daddr != @gateway_addresses ip saddr . ct original ip daddr @same accept
add rule inet t to_host ASLEEP ip saddr != @internal accept
add rule inet t to_host tcp dport @activators reject with tcp reset
add rule inet t to_host ip saddr @host_access accept
add rule inet t to_host ct status dnat ip saddr . ct original ip daddr @gateways meta l4proto { tcp, udp } accept
add rule inet t to_host ip saddr . ip daddr @gateways icmp type echo-request accept
add rule inet t to_host meta l4proto tcp reject with tcp reset
add rule inet t to_host reject with icmpx type admin-prohibited
""".replace("ASLEEP", "ct status dnat tcp dport @activators")


@pytest.mark.parametrize("chain", [FORWARD, GUARD, INPUT, TO_HOST])
def test_policy_chains_are_exactly_these(chain: str) -> None:
    name = chain.split()[4]
    lines = [line for line in rules.base("t", "thx").splitlines() if line.startswith(f"add rule inet t {name} ")]
    assert "\n".join(lines) + "\n" == chain


def test_every_chain_is_flushed_before_it_is_filled_and_ends_by_accepting_what_is_not_ours() -> None:
    lines = rules.base("t", "thx").splitlines()
    for chain in ("guard", "publish", "local", "forward", "input", "leave", "to_host"):
        first = next(index for index, line in enumerate(lines) if line.startswith(f"add rule inet t {chain} "))
        assert lines[first - 1] == f"flush chain inet t {chain}"
    assert all("policy accept" in line for line in lines if "hook" in line)


def test_who_is_reached_is_noted_before_the_source_changes() -> None:
    rule = "add rule inet t leave "
    lines = [line.removeprefix(rule) for line in rules.base("t", "thx").splitlines() if line.startswith(rule)]
    assert lines[:3] == [
        'oifname "thx*" ct status dnat meta l4proto tcp add @reached_tcp { ip daddr }',
        'oifname "thx*" ct status dnat meta l4proto udp add @reached_udp { ip daddr }',
        'iifname "thx*" oifname "thx*" meta l4proto tcp add @reached_tcp { ip daddr }',
    ]
    assert all("masquerade" in line for line in lines[3:])


def test_what_packets_fill_is_no_part_of_the_table_that_is_compared() -> None:
    objects = [{"set": {"name": "reached_udp", "elem": ["10.88.1.2", "10.88.1.3"]}}, {"set": {"name": "egress", "elem": ["10.88.1.1"]}}]
    assert listing.present(objects).elements == {Element("egress", "10.88.1.1")}
    assert listing.addresses(objects[:1]) == {"10.88.1.2", "10.88.1.3"}
    assert listing.addresses([{"set": {"name": "reached_udp"}}, {"metainfo": {}}]) == frozenset()


def test_a_network_contributes_its_subnet_and_gateway() -> None:
    assert sorted(f"{element.set} {element.text}" for element in rules.of_network(RECORD, 10053)) == [
        "egress 10.88.1.0/24",
        "gateway_addresses 10.88.1.1",
        "gateways 10.88.1.0/24 . 10.88.1.1",
        "network_resolvers 10.88.1.1 : 10.88.1.1 . 10053",
        "same 10.88.1.0/24 . 10.88.1.0/24",
    ]
    internal = NetworkRecord("n2", "back", 2, "10.88.2.0/24", "10.88.2.1", internal=True, host_access=True)
    sets = {element.set for element in rules.of_network(internal, 10053)}
    assert {"internal", "host_access"} <= sets
    assert "egress" not in sets


def test_a_publication_contributes_translation_and_permission() -> None:
    anywhere = rules.of_publication("10.88.1.2", 80, "", 8080, "tcp")
    assert Element("published", "tcp . 8080", "10.88.1.2 . 80") in anywhere
    assert Element("targets", "10.88.1.2 . tcp . 80") in anywhere
    assert Element("published_at", "192.0.2.1 . udp . 53", "10.88.1.2 . 5353") in rules.of_publication(
        "10.88.1.2", 5353, "192.0.2.1", 53, "udp"
    )


def test_foreign_policies_names_only_others_that_drop() -> None:
    def chain(**changes: Any) -> dict[str, Any]:
        return {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"} | changes}

    objects = [
        chain(),
        chain(policy="accept"),
        chain(table="t"),
        chain(hook="output"),
        chain(family="inet", table="ufw", name="in", hook="input"),
        {"metainfo": {}},
    ]
    assert listing.foreign_policies(objects, "t") == (
        "ip filter FORWARD (hook forward, policy drop)",
        "inet ufw in (hook input, policy drop)",
    )


class FakeNft:
    """Remembers transactions; refuses those that contain `refuse`."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.refuse = "\0"

    def run(self, text: str) -> str:
        if self.refuse in text:
            raise NftError("no")
        self.done.append(text)
        return ""

    def query(self, _command: str) -> list[dict[str, Any]]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[table.Table, FakeNft]:
    fake = FakeNft()
    monkeypatch.setattr(table, "Nft", lambda: fake)
    return table.Table("t", "thx"), fake


SHARED, OWN, OTHER = Element("hairpin", "a . a"), Element("published", "tcp . 80", "a . 80"), Element("published", "tcp . 80", "b . 80")


def test_an_element_lives_as_long_as_an_owner(made: tuple[table.Table, FakeNft]) -> None:
    live, fake = made
    live.replace({"x": {SHARED, OWN}, "y": {SHARED}})
    live.replace({"x": ()})
    live.replace({"y": {SHARED}})
    live.replace({"y": ()})
    live.replace({"y": ()})
    assert fake.done == [
        "add element inet t hairpin { a . a }\nadd element inet t published { tcp . 80 : a . 80 }\n",
        "delete element inet t published { tcp . 80 }\n",
        "delete element inet t hairpin { a . a }\n",
    ]


def test_a_port_changes_hands_in_one_transaction(made: tuple[table.Table, FakeNft]) -> None:
    live, fake = made
    live.replace({"x": {OWN}})
    live.replace({"x": (), "y": {OTHER}})
    assert fake.done[-1] == "delete element inet t published { tcp . 80 }\nadd element inet t published { tcp . 80 : b . 80 }\n"


def test_after_a_refusal_the_whole_is_written_from_memory(made: tuple[table.Table, FakeNft]) -> None:
    live, fake = made
    live.replace({"x": {SHARED}})
    fake.refuse = "add element inet t published"
    with pytest.raises(NftError):
        live.replace({"y": {SHARED, OWN}})
    fake.refuse = "delete element"
    live.replace({"x": {OTHER}})
    assert fake.done[-1] == rules.whole("t", "thx", [OTHER])
    fake.refuse = "\0"
    live.reset({"z": {OWN}})
    assert fake.done[-1] == rules.whole("t", "thx", [OWN])


def test_a_ruleset_that_is_flushed_while_those_who_are_gone_are_forgotten_is_written_anew(
    made: tuple[table.Table, FakeNft], monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/integration/test_network_paths.py does it with the kernel's."""
    live, fake = made
    monkeypatch.setattr(fake, "query", lambda _command: [{"set": {"name": rules.REACHED["tcp"], "elem": ["10.0.0.9"]}}])
    fake.refuse = "delete element inet t reached"
    live.reset({"x": {OWN}})
    assert len(fake.done) > 1
    assert set(fake.done) == {rules.whole("t", "thx", [OWN])}
