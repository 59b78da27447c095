"""Bridges, veths and taps: what is made in the kernel for networks and their ports. Blocking; called on the network's worker threads.

Every port is isolated, locked to its MAC and gets nothing flooded; the host knows its neighbours by permanent entries. So
whatever an instance sends, it can neither be somebody else nor reach anybody but through the host's forward chain.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from twinhull.errors import ConflictError, PermanentError, UnsupportedError
from twinhull.home import Home
from twinhull.instance.base import Interface
from twinhull.network import addresses, links, netns
from twinhull.spec.network import NetworkRecord
from twinhull.sys.netlink import Netlink, NetlinkError

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_FIRST_INDEX = 2
"""Index of the first interface inside a new namespace; 1 is lo."""
_BRIDGE_SYSCTLS = {
    "ipv4/conf/{}/route_localnet": "1",  # 127.0.0.1 on this machine reaches published ports; `guard` refuses it to anybody else
    "ipv4/conf/{}/rp_filter": "1",
    "ipv4/conf/{}/arp_ignore": "1",  # answer for the gateway only, not for the machine's other addresses
    "ipv4/conf/{}/send_redirects": "0",
    "ipv4/conf/{}/accept_redirects": "0",
    "ipv6/conf/{}/disable_ipv6": "1",
}


@dataclass(frozen=True, slots=True)
class Port:
    """One interface of an instance on a network. `number` names the host's end and is unique among the ports of a daemon."""

    record: NetworkRecord
    number: int
    interface: Interface


@dataclass(frozen=True, slots=True)
class Leftover:
    """An interface of this home that nothing expects."""

    index: int
    name: str


class Kernel:
    """Makes and removes links through one rtnetlink socket. One thread at a time."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._link = Netlink()
        self._locked = True

    def close(self) -> None:
        """Close the socket."""
        self._link.close()

    def bridge_name(self, record: NetworkRecord) -> str:
        """The bridge of a network."""
        return self._home.ifname("b", record.number)

    # networks

    def occupied(self, own: Collection[str] = ()) -> dict[str, str]:
        """What is routed or assigned in this network namespace: CIDR → interface, without the interfaces named in `own`."""
        names = {link.index: link.name for link in links.all_links(self._link)}
        found = {route.destination: names.get(route.index, "?") for route in links.all_routes(self._link)}
        return {destination: name for destination, name in found.items() if name not in own}

    def ensure_bridge(self, record: NetworkRecord) -> None:
        """Make the network's bridge, or put it right. Raises ConflictError if the subnet is somebody else's."""
        name = self.bridge_name(record)
        self._refuse_overlap(record, name)
        fresh = self._create_bridge(record, name)
        try:
            index = socket.if_nametoindex(name)
            for key, value in _BRIDGE_SYSCTLS.items():
                _sysctl(key.format(name), value)
            prefix = ipaddress.IPv4Network(record.subnet).prefixlen
            self._link.request(links.address(index, record.gateway, prefix), links.up(index))
            self._refuse_overlap(record, name)  # two daemons may have chosen at the same moment
        except BaseException:
            if fresh:
                self.remove_named(name)
            raise

    def _create_bridge(self, record: NetworkRecord, name: str) -> bool:
        try:
            self._link.request(links.bridge(name, addresses.mac_of(record.gateway), record.mtu))
        except NetlinkError as error:
            if error.errno == errno.EEXIST:
                return False
            raise _wrapped(f"make the bridge {name}", error) from error
        return True

    def _refuse_overlap(self, record: NetworkRecord, name: str) -> None:
        others = self.occupied({name})
        other = addresses.overlapping(record.subnet, others)
        if other:
            message = f"network {record.name}: its subnet {record.subnet} overlaps {other} on {others[other]}"
            raise ConflictError(message, "remove the other one, or create the network with another --subnet")

    # ports of containers

    def attach_netns(self, ports: Sequence[Port], sysctls: Mapping[str, str], descriptor: int | None) -> netns.Netns:
        """A namespace (a new one, or the one of `descriptor`) with a veth for each port, addressed, routed and up."""
        held, inner = netns.create(sysctls) if descriptor is None else netns.enter(descriptor, sysctls)
        try:
            with inner:
                self._connect(held, inner, ports)
        except BaseException:
            held.close()
            self.remove(ports)
            raise
        return held

    def _connect(self, held: netns.Netns, inner: Netlink, ports: Sequence[Port]) -> None:
        first = _FIRST_INDEX if not ports else max(link.index for link in links.all_links(inner)) + 1
        first = max(first, _FIRST_INDEX)
        for offset, port in enumerate(ports):
            self._create_veth(port, held.descriptor, first + offset)
        inner.request(*_inside(ports, first))
        for port in ports:
            self.secure(port, socket.if_nametoindex(self._home.ifname("v", port.number)))

    def _create_veth(self, port: Port, descriptor: int, index: int) -> None:
        name = self._home.ifname("v", port.number)
        inside = links.Inside(port.interface.ifname, port.interface.mac, descriptor, index)
        message = links.veth(name, self._master(port), port.interface.mtu, inside)
        try:
            self._link.request(message)
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise _wrapped(f"make the veth {name}", error) from error
            self.remove_named(name)  # left by a namespace that is on its way out
            self._link.request(message)

    # ports of VMs

    def attach_tap(self, port: Port) -> int:
        """A tap that lives as long as the returned descriptor (and copies of it), on the bridge and up."""
        name = self._home.ifname("t", port.number)
        descriptor = _open_tap(name)
        try:
            index = socket.if_nametoindex(name)
            self._link.request(links.enslave(index, self._master(port), port.interface.mtu))
            self.secure(port, index)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    # both

    def secure(self, port: Port, index: int) -> None:
        """Isolate and lock a port, pin its MAC and address, set it up; also good for one that exists."""
        rest = self._pin(port, index)
        if self._locked:
            answers = self._link.attempt(links.isolate(index), *rest)
            if not any(answers):
                return
            self._locked = False  # older than Linux 5.18
        self._link.request(links.isolate(index, locked=False), *rest)

    def _pin(self, port: Port, index: int) -> tuple[links.Message, ...]:
        mac, address = port.interface.mac, port.interface.address
        neighbour = links.neighbour(self._master(port), address, mac)
        return links.forwarding_entry(index, mac), neighbour, links.up(index)

    def remove(self, ports: Iterable[Port]) -> None:
        """Remove the host's ends and the neighbours; nothing happens where nothing is. Takes about 40 ms for a veth."""
        for port in ports:
            for kind in ("v", "t"):
                self.remove_named(self._home.ifname(kind, port.number))
            with contextlib.suppress(NetlinkError, OSError, PermanentError):
                self._link.request(links.delete_neighbour(self._master(port), port.interface.address))

    def remove_named(self, name: str) -> None:
        """Remove an interface by name; nothing happens without it."""
        with contextlib.suppress(OSError):
            self._link.request(links.delete_link(socket.if_nametoindex(name)))

    def restore(self, port: Port) -> bool:
        """Put a port that exists back onto its bridge and secure it. False if there is none (its namespace or VM is gone)."""
        for kind in ("v", "t"):
            with contextlib.suppress(OSError):
                index = socket.if_nametoindex(self._home.ifname(kind, port.number))
                self._link.request(links.enslave(index, self._master(port), port.interface.mtu))
                self.secure(port, index)
                return True
        return False

    def leftovers(self, records: Collection[NetworkRecord], ports: Collection[Port]) -> list[Leftover]:
        """This home's interfaces that belong to none of these."""
        expected = {self.bridge_name(record) for record in records}
        expected |= {self._home.ifname(kind, port.number) for port in ports for kind in ("v", "t")}
        prefix = f"th{self._home.tag}"
        found = links.all_links(self._link)
        return [Leftover(link.index, link.name) for link in found if link.name.startswith(prefix) and link.name not in expected]

    def forget_neighbours(self, record: NetworkRecord, keep: Collection[str]) -> None:
        """Remove the permanent neighbours of a network but these."""
        index = socket.if_nametoindex(self.bridge_name(record))
        for address in links.permanent_neighbours(self._link, index) - set(keep):
            with contextlib.suppress(NetlinkError):
                self._link.request(links.delete_neighbour(index, address))

    def delete(self, leftover: Leftover) -> None:
        """Remove one; nothing happens if it went by itself."""
        with contextlib.suppress(NetlinkError):
            self._link.request(links.delete_link(leftover.index))

    def _master(self, port: Port) -> int:
        name = self.bridge_name(port.record)
        try:
            return socket.if_nametoindex(name)
        except OSError as error:
            raise PermanentError(f"network {port.record.name}: its bridge {name} is gone") from error


def enable_forwarding() -> None:
    """Let this network namespace route, if it doesn't yet (writing would reset the settings of single interfaces)."""
    with open("/proc/sys/net/ipv4/ip_forward", encoding="ascii") as file:
        if file.read().strip() == "1":
            return
    netns.write_sysctl("net.ipv4.ip_forward", "1")


def _inside(ports: Sequence[Port], first: int) -> list[links.Message]:
    messages = [links.up(1)]
    for index, port in enumerate(ports, first):
        interface = port.interface
        messages += [links.up(index), links.address(index, interface.address, 32), links.route(index, interface.gateway, 32)]
        for subnet in interface.routes:
            network = ipaddress.IPv4Network(subnet)
            target, prefix = str(network.network_address), network.prefixlen
            messages.append(links.route(index, target, prefix, via=interface.gateway, source=interface.address))
        if interface.default:
            messages.append(links.route(index, "0.0.0.0", 0, via=interface.gateway, source=interface.address))
    return messages


def _open_tap(name: str) -> int:
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnsupportedError(f"open /dev/net/tun: {error.strerror}", "VMs need the kernel's tun driver: modprobe tun") from error
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    except OSError as error:
        os.close(descriptor)
        raise _wrapped(f"make the tap {name}", error) from error
    return descriptor


def _sysctl(key: str, value: str) -> None:
    try:
        netns.write_sysctl(f"net/{key}", value)
    except FileNotFoundError:
        if not key.startswith("ipv6"):  # a kernel without IPv6 has nothing to disable
            raise
    except OSError as error:
        raise _wrapped(f"set net/{key}", error) from error


def _wrapped(what: str, error: OSError) -> PermanentError:
    return PermanentError(f"{what}: {error.strerror}")
