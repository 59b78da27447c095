"""Subnets, addresses, MACs and numbers: what is refused and how it is said."""

from __future__ import annotations

import pytest

from twinhull.errors import ConflictError, UserError
from twinhull.network import addresses


def test_the_first_free_subnet_skips_what_overlaps() -> None:
    assert addresses.choose_subnet([]) == "10.186.0.0/24"
    assert addresses.choose_subnet(["10.186.0.0/23", "0.0.0.0/0"]) == "10.186.2.0/24"
    assert addresses.choose_subnet(["10.186.0.7/32"]) == "10.186.1.0/24"
    assert addresses.choose_subnet(["10.186.0.0/16"]) == "10.188.0.0/24"


def test_used_up_pools_are_said() -> None:
    with pytest.raises(ConflictError, match="no free subnet"):
        addresses.choose_subnet(["0.0.0.0/1", "128.0.0.0/1"])


_UNUSABLE = ["", "10.1.0.0", "10.1.0.1/24", "10.1.0.0/30", "10.0.0.0/7", "127.0.0.0/8", "224.0.0.0/8", "169.254.0.0/16", "fd00::/64"]
_BAD_MACS = [
    "",
    "02:42:ac:11:00",
    "02:42:ac:11:00:02:03",
    "01:00:5e:00:00:01",
    "ff:ff:ff:ff:ff:ff",
    "00:00:00:00:00:00",
    "2:42:ac:11:0:2",
    "xx:42:ac:11:00:02",
]


@pytest.mark.parametrize("text", _UNUSABLE)
def test_unusable_subnets_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        addresses.parse_subnet(text)


def test_addresses_come_in_order_without_the_reserved_ones() -> None:
    used: list[str] = []
    for expected in ("10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"):
        used.append(addresses.choose_address("10.1.0.0/29", "10.1.0.1", used))
        assert used[-1] == expected
    with pytest.raises(ConflictError, match=r"no free address is left in 10\.1\.0\.0/29"):
        addresses.choose_address("10.1.0.0/29", "10.1.0.1", used)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.1.0.0", "network's or the broadcast"),
        ("10.1.0.255", "network's or the broadcast"),
        ("10.1.0.1", "is the gateway"),
        ("10.1.0.9", "already in use"),
        ("10.2.0.2", "is not in"),
        ("10.1.0.02", "address"),
        ("web", "address"),
    ],
)
def test_unusable_addresses_are_refused(address: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        addresses.check_address(address, "10.1.0.0/24", "10.1.0.1", {"10.1.0.9"})


def test_macs() -> None:
    assert addresses.mac_of("10.88.0.2") == "02:74:0a:58:00:02"
    assert addresses.check_mac("02-42-AC-11-00-02") == "02:42:ac:11:00:02"
    for bad in _BAD_MACS:
        with pytest.raises(UserError):
            addresses.check_mac(bad)


def test_reverse_zones() -> None:
    assert addresses.reverse_zones("10.88.3.0/24") == ("3.88.10.in-addr.arpa",)
    assert addresses.reverse_zones("10.88.3.128/25") == ("3.88.10.in-addr.arpa",)
    assert addresses.reverse_zones("10.88.0.0/16") == ("88.10.in-addr.arpa",)
    assert addresses.reverse_zones("10.88.4.0/23") == ("4.88.10.in-addr.arpa", "5.88.10.in-addr.arpa")
    assert addresses.reverse_zones("172.16.0.0/15") == ("16.172.in-addr.arpa", "17.172.in-addr.arpa")
