"""Interfaces inside: found by MAC, named, addressed as /32, routed over the gateway; in a network namespace of the test's own."""

from __future__ import annotations

import pytest
from tests.agent.lab import Lab, config, until_true

from twinhull.errors import PermanentError, UserError
from twinhull.instance.base import Interface

FIRST = Interface("eth0", "02:00:00:00:00:01", "10.88.0.5", "10.88.0.1", 1400, True, routes=("10.99.0.0/16",))
SECOND = Interface("eth1", "02:00:00:00:00:02", "10.89.0.5/32", "10.89.0.1", 1500, False)
LINKS = (
    "ip link add eth1 address 02:00:00:00:00:01 type veth peer name far0;"
    "ip link add eth0 address 02:00:00:00:00:02 type veth peer name far1;"
    "ip link set far0 up; ip link set far1 up"
)
ONE_LINK = "ip link add ens3 address 02:00:00:00:00:01 type veth peer name far0; ip link set far0 up"
SHOW = "ip -o addr; ip route; ip -6 addr; cat /proc/net/dev"


async def show(lab: Lab, *interfaces: Interface) -> str:
    client = await lab.connect()
    await client.configure(config("sh", "-c", SHOW, interfaces=interfaces))
    await client.start()
    assert (await client.wait_exit()).code == 0
    return lab.text().decode()


async def test_two_interfaces_whose_names_are_the_wrong_way_round(idle_lab: Lab) -> None:
    await idle_lab.start(LINKS)
    text = await show(idle_lab, FIRST, SECOND)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert any("eth0 inet 10.88.0.5/32 scope global eth0" in line for line in lines)
    assert any("eth1 inet 10.89.0.5/32 scope global eth1" in line for line in lines)
    assert any("lo inet 127.0.0.1/8" in line for line in lines)
    routes = [line for line in lines if " dev " in line and "inet" not in line]
    assert sorted(routes) == [
        "10.88.0.1 dev eth0 scope link",
        "10.89.0.1 dev eth1 scope link",
        "10.99.0.0/16 via 10.88.0.1 dev eth0",
        "default via 10.88.0.1 dev eth0",
    ]
    assert "fe80" not in text, "no IPv6 unless it's asked for"


async def test_a_templates_interfaces_get_their_macs(idle_lab: Lab) -> None:
    """The kernel's order says nothing: the numbers in the template's MACs do."""
    await idle_lab.start(
        "ip link add eth0 address 02:54:48:00:00:01 type veth peer name far1;"
        "ip link add eth1 address 02:54:48:00:00:00 type veth peer name far0"
    )
    client = await idle_lab.connect()
    script = "cd /sys/class/net; grep . eth0/address eth1/address; cat eth0/ifindex eth1/ifindex"
    await client.configure(config("sh", "-c", script, interfaces=(FIRST, SECOND)))
    await client.start()
    assert (await client.wait_exit()).code == 0
    first, second, *indexes = idle_lab.text().decode().split()
    assert (first, second) == (f"eth0/address:{FIRST.mac}", f"eth1/address:{SECOND.mac}")
    assert int(indexes[0]) > int(indexes[1]), "the kernel's eth1 has become eth0"


async def test_mtu_and_ipv6(idle_lab: Lab) -> None:
    await idle_lab.start(ONE_LINK)
    client = await idle_lab.connect()
    six = Interface("eth0", FIRST.mac, FIRST.address, FIRST.gateway, 1400, True, "fd00:1::5", "fd00:1::1", ("fd00:99::/32",))
    script = "cat /sys/class/net/eth0/mtu; ip -6 -o addr show dev eth0; ip -6 route"
    await client.configure(config("sh", "-c", script, interfaces=(six,)))
    await client.start()
    assert (await client.wait_exit()).code == 0
    lines = [" ".join(line.split()) for line in idle_lab.text().decode().splitlines()]
    assert lines[0] == "1400"
    assert any("inet6 fd00:1::5/128" in line and "tentative" not in line for line in lines)
    assert any(line.startswith("fd00:1::1 dev eth0") for line in lines)
    assert any(line.startswith("fd00:99::/32 via fd00:1::1 dev eth0") for line in lines)
    assert any(line.startswith("default via fd00:1::1 dev eth0") for line in lines)


async def test_traffic_is_counted(idle_lab: Lab) -> None:
    await idle_lab.start(ONE_LINK)
    client = await idle_lab.connect()
    await client.configure(config("sh", "-c", "ping -c 1 -W 1 10.88.0.1; exec sleep 1000", interfaces=(FIRST,)))
    await client.start()

    async def counted() -> bool:
        return (await client.stats()).net_tx > 0

    await until_true(counted)


async def test_a_missing_interface(lab: Lab) -> None:
    client = await lab.connect()
    with pytest.raises(PermanentError, match="no interface with address 02:00:00:00:00:01"):
        await client.configure(config("true", interfaces=(FIRST,)))


@pytest.mark.parametrize(
    ("interface", "message"),
    [
        (Interface("eth0", FIRST.mac, "10.88.0.300", "10.88.0.1", 1500, True), "eth0: address 10.88.0.300: Invalid argument"),
        (Interface("eth0", FIRST.mac, "10.88.0.5", "fd00::1", 1500, True), "eth0: gateway fd00::1"),
        (Interface("eth0", FIRST.mac, "10.88.0.5", "10.88.0.1", 1500, True, routes=("10.0.0.0/40",)), "eth0: route 10.0.0.0/40"),
        (Interface("n" * 40, FIRST.mac, "10.88.0.5", "10.88.0.1", 1500, True), f"rename an interface to {'n' * 40}"),
    ],
)
async def test_wrong_interfaces_are_named(idle_lab: Lab, interface: Interface, message: str) -> None:
    await idle_lab.start(ONE_LINK)
    client = await idle_lab.connect()
    with pytest.raises(UserError) as caught:
        await client.configure(config("true", interfaces=(interface,)))
    assert caught.value.message.startswith(message)
