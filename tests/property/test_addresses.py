"""Laws of addresses that hold for every input."""

from __future__ import annotations

import ipaddress

from hypothesis import assume, given
from hypothesis import strategies as st

from twinhull.errors import ConflictError
from twinhull.network import addresses

networks = st.builds(
    lambda address, prefix: str(ipaddress.IPv4Network((address, prefix), strict=False)), st.integers(0, 2**32 - 1), st.integers(1, 32)
)
near = st.builds(
    lambda third, prefix: str(ipaddress.IPv4Network((f"10.88.{third}.0", prefix), strict=False)), st.integers(0, 255), st.integers(14, 32)
)
usable = st.builds(
    lambda address, prefix: str(ipaddress.IPv4Network((address, prefix), strict=False)), st.integers(2**24, 2**31), st.integers(20, 29)
)


@given(st.lists(st.one_of(near, networks), max_size=40))
def test_a_chosen_subnet_overlaps_nothing_and_is_the_lowest_of_its_pool(occupied: list[str]) -> None:
    try:
        chosen = ipaddress.IPv4Network(addresses.choose_subnet(occupied))
    except ConflictError:
        pools = [ipaddress.IPv4Network(pool) for pool in addresses.POOLS]
        assert all(any(ipaddress.IPv4Network(text).overlaps(pool) for text in occupied) for pool in pools)
        return
    taken = [ipaddress.IPv4Network(text) for text in occupied]
    assert not any(chosen.overlaps(other) for other in taken)
    assert addresses.overlapping(str(chosen), occupied) is None
    for pool in map(ipaddress.IPv4Network, addresses.POOLS):
        lower = [each for each in pool.subnets(new_prefix=24) if not chosen.subnet_of(pool) or each < chosen]
        assert all(any(each.overlaps(other) for other in taken) for each in lower)
        if chosen.subnet_of(pool):
            break


@given(usable, st.data())
def test_a_chosen_address_is_free_usable_and_accepted_when_asked_for(subnet: str, data: st.DataObject) -> None:
    network = ipaddress.IPv4Network(subnet)
    gateway = addresses.gateway_of(subnet)
    offsets = st.integers(1, network.num_addresses - 2)
    used = {str(network[offset]) for offset in data.draw(st.sets(offsets, max_size=30))} - {gateway}
    try:
        chosen = addresses.choose_address(subnet, gateway, used)
    except ConflictError:
        assert len(used) == network.num_addresses - 3
        return
    assert addresses.check_address(chosen, subnet, gateway, used) == chosen
    assert addresses.choose_address(subnet, gateway, used) == chosen


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_macs_are_unicast_local_and_as_different_as_addresses(first: ipaddress.IPv4Address, second: ipaddress.IPv4Address) -> None:
    mac = addresses.mac_of(str(first))
    assert int(mac[:2], 16) & 0b11 == 0b10
    assert addresses.check_mac(mac.upper()) == mac
    assert (mac == addresses.mac_of(str(second))) == (first == second)


@given(st.sets(st.integers(0, 300)))
def test_the_free_number_is_the_lowest(used: set[int]) -> None:
    number = addresses.free_number(used)
    assert number not in used
    assert set(range(number)) <= used


@given(usable, st.data())
def test_reverse_zones_cover_every_address(subnet: str, data: st.DataObject) -> None:
    network = ipaddress.IPv4Network(subnet)
    address = network[data.draw(st.integers(0, network.num_addresses - 1))]
    assume(network.prefixlen >= 8)
    assert any(address.reverse_pointer.endswith("." + zone) for zone in addresses.reverse_zones(subnet))
