"""What a service contributes to the ruleset, the resolvers and conntrack."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twinhull.network import rules, service
from twinhull.network.conntrack import Stale
from twinhull.network.listing import present
from twinhull.network.rules import Chain, Element
from twinhull.spec.instance import PortMapping
from twinhull.spec.service import ServiceRecord, ServiceSide

ONE, TWO, VIP = "10.88.1.2", "10.88.1.3", "10.88.1.254"


def record(*endpoints: tuple[str, int], dnsrr: bool = False, address: str = VIP) -> ServiceRecord:
    side = ServiceSide("n1", address, ("web", "web.shop.internal"), endpoints, (("tasks.web", ONE), ("tasks.web", TWO)), dnsrr)
    return ServiceRecord("shop.web", (side,))


def chains(found: frozenset[rules.Part]) -> dict[str, tuple[str, ...]]:
    return {part.name: part.rules for part in found if isinstance(part, Chain)}


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ((), ("meta l4proto tcp reject with tcp reset", "reject with icmpx type port-unreachable")),
        (((ONE, 7),), (f"dnat ip to {ONE}",)),
        (((ONE, 1), (TWO, 1)), (f"numgen inc mod 2 0 dnat ip to {ONE}", f"dnat ip to {TWO}")),
        (
            ((ONE, 20), (TWO, 10)),
            (f"numgen inc mod 3 0 dnat ip to {ONE}", f"numgen inc mod 2 0 dnat ip to {TWO}", f"dnat ip to {ONE}"),
        ),
    ],
)
def test_a_virtual_address_has_a_chain_of_its_own(endpoints: tuple[tuple[str, int], ...], expected: tuple[str, ...]) -> None:
    found = service.parts(record(*endpoints), ())
    assert chains(found) == {f"vip-{VIP}": expected}
    assert found - {Chain(f"vip-{VIP}", expected)} == {Element("services", VIP, f"goto vip-{VIP}")}


def test_a_published_port_has_one_too() -> None:
    ports = (PortMapping(80, 8080), PortMapping(53, 5353, "192.0.2.1", "udp"))
    found = service.parts(record((ONE, 1), (TWO, 1)), ports)

    def by_turns(protocol: str, port: int) -> tuple[str, ...]:
        to = f"meta l4proto {protocol}"
        return (f"{to} numgen inc mod 2 0 dnat ip to {ONE}:{port}", f"{to} dnat ip to {TWO}:{port}")

    assert chains(found)["port-tcp-8080"] == by_turns("tcp", 80)
    assert chains(found)["port-192.0.2.1-udp-5353"] == by_turns("udp", 53)
    assert {part for part in found if isinstance(part, Element)} == {
        Element("services", VIP, f"goto vip-{VIP}"),
        Element("served", "tcp . 8080", "goto port-tcp-8080"),
        Element("served_at", "192.0.2.1 . udp . 5353", "goto port-192.0.2.1-udp-5353"),
        *(Element("targets", f"{address} . {end}") for address in (ONE, TWO) for end in ("tcp . 80", "udp . 53")),
    }
    assert chains(service.parts(record((ONE, 1)), ports))["port-tcp-8080"] == (f"meta l4proto tcp dnat ip to {ONE}:80",)


def test_without_endpoints_connections_go_to_the_activator_and_all_else_is_refused() -> None:
    ports = (PortMapping(80, 8080),)
    refused = ("meta l4proto tcp reject with tcp reset", "reject with icmpx type port-unreachable")
    redirected = ("meta nfproto ipv4 meta l4proto tcp redirect to :4711", *refused)
    asleep = service.parts(replace(record(), activator=4711), ports)
    assert chains(asleep) == {f"vip-{VIP}": redirected, "port-tcp-8080": redirected}
    awake = service.parts(replace(record((ONE, 1)), activator=4711), ports)
    assert chains(awake) == chains(service.parts(record((ONE, 1)), ports))
    assert Element("activators", "4711") in asleep & awake, "what was led there just before still arrives"


def test_names_lead_to_the_virtual_address_or_to_each_endpoint() -> None:
    assert service.names(record((ONE, 1)), {"n1": 4}) == {
        (4, VIP): ["web", "web.shop.internal"],
        (4, ONE): ["tasks.web"],
        (4, TWO): ["tasks.web"],
    }
    assert service.names(record((ONE, 1), dnsrr=True, address=""), {"n1": 4}) == {
        (4, ONE): ["web", "web.shop.internal", "tasks.web"],
        (4, TWO): ["tasks.web"],
    }
    assert service.parts(record((ONE, 1), dnsrr=True, address=""), ()) == frozenset()


def test_stale_is_what_nobody_would_be_sent_to_now() -> None:
    assert service.stale(record((ONE, 1)), (PortMapping(80, 8080),)) == (Stale(VIP, frozenset(), frozenset({ONE})),)
    found = service.stale(service.emptied(record((ONE, 1))), (PortMapping(53, 5353, protocol="udp"),))
    assert found == (Stale(VIP), Stale(ports=frozenset({5353})))


def test_a_chain_is_rewritten_in_place_and_removed_after_what_leads_to_it() -> None:
    one, two = Chain("c", ("accept",)), Chain("c", ("drop", "accept"))
    way = Element("served", "tcp . 80", "goto c")
    assert rules.change("t", [one], [two]).splitlines() == [
        "add chain inet t c",
        "flush chain inet t c",
        "add rule inet t c drop",
        "add rule inet t c accept",
    ]
    assert rules.change("t", [one, way], []).splitlines() == [
        "delete element inet t served { tcp . 80 }",
        "flush chain inet t c",
        "delete chain inet t c",
    ]
    assert rules.change("t", [], [one, way]).splitlines()[-1] == "add element inet t served { tcp . 80 : goto c }"


def test_the_whole_changes_only_what_differs() -> None:
    stays, goes, comes = (Element("same", f"10.0.{number}.0/24 . 10.0.{number}.0/24") for number in range(3))
    way = Element("services", "1.2.3.4", "goto vip-1.2.3.4")
    lines = rules.whole("t", "thx", [stays, comes], {"guard", "vip-1.2.3.4"}, [stays, goes, way]).splitlines()
    assert not [line for line in lines if line.startswith(("flush set", "flush map"))]
    assert [line for line in lines if " same { 10" in line] == [
        f"delete element inet t same {{ {goes.key} }}",
        f"add element inet t same {{ {comes.key} }}",
    ]
    assert lines.index("delete element inet t services { 1.2.3.4 }") < lines.index("delete chain inet t vip-1.2.3.4")
    assert "delete chain inet t guard" not in lines


def test_what_is_present_is_read_as_it_was_written() -> None:
    subnet = {"prefix": {"addr": "10.1.0.0", "len": 24}}
    sets = {
        "gateways": [{"concat": [subnet, "10.1.0.1"]}],
        "egress": [subnet],
        "endpoints": [{"concat": ["thxv0", "10.1.0.2"]}],
        "targets": [{"concat": ["10.1.0.2", "tcp", 80]}],
        "published": [[{"concat": ["tcp", 80]}, {"concat": ["10.1.0.2", 8080]}]],
        "services": [["10.1.0.9", {"goto": {"target": "vip-10.1.0.9"}}]],
    }
    objects = [{"metainfo": {}}, {"chain": {"name": "guard"}}, {"set": {"name": "same"}}, {"rule": {"chain": "guard"}}]
    found = present([*objects, *({"map": {"name": name, "elem": elements}} for name, elements in sets.items())])
    assert found.chains == {"guard"}
    assert found.elements == {
        Element("gateways", "10.1.0.0/24 . 10.1.0.1"),
        Element("egress", "10.1.0.0/24"),
        Element("endpoints", '"thxv0" . 10.1.0.2'),
        Element("targets", "10.1.0.2 . tcp . 80"),
        Element("published", "tcp . 80", "10.1.0.2 . 8080"),
        Element("services", "10.1.0.9", "goto vip-10.1.0.9"),
    }


def test_endpoints_that_left_are_those_of_before_only() -> None:
    assert service.left(record((ONE, 1), (TWO, 1)), record((TWO, 5))) == {ONE}
    assert service.left(record((ONE, 1)), record((ONE, 1), (TWO, 1))) == frozenset()
    assert service.left(None, record((ONE, 1))) == frozenset()
    assert service.left(record((ONE, 1)), service.emptied(record())) == {ONE}
