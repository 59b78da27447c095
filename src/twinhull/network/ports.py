"""Bridges, veths and taps: what is made in the kernel for networks and their ports. Blocking; called on the network's worker threads.

Ports are routed, not bridged. Each is a link of its own between the host and one instance: the gateway's address on the host's
end, a /32 route to the instance, permanent neighbour entries. So everything an instance sends passes the host's forward chain, and
what it says about MACs concerns nobody else. The gateway has the same MAC on all ports of a network, for ever: what a VM's snapshot
remembers about it stays true. (Bridged and isolated ports were tried first: with br_netfilter, which Docker and
Kubernetes load, a published port called from its own network is bridged after the translation, and the isolation drops it.)

The bridge of a network has no ports. It holds the gateway's address and the route of the subnet while nothing is attached, and gives
the resolver something to listen on.
"""

from __future__ import annotations

import array
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

_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_SIOCETHTOOL, _ETHTOOL_GLINK = 0x8946, 0x0A
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_FIRST_INDEX = 2
"""Index of the first interface inside a new namespace; 1 is lo."""
_SETTINGS = {
    links.FORWARDING: 1,
    links.RP_FILTER: 1,
    links.ROUTE_LOCALNET: 1,  # 127.0.0.1 on this machine reaches published ports; `guard` refuses it to anybody else
    links.ARP_IGNORE: 1,  # answer for the gateway only, not for the machine's other addresses
    links.SEND_REDIRECTS: 0,
    links.ACCEPT_REDIRECTS: 0,
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

    def close(self) -> None:
        """Close the socket."""
        self._link.close()

    def bridge_name(self, record: NetworkRecord) -> str:
        """The bridge of a network."""
        return self._home.ifname("b", record.number)

    # networks

    def occupied(self, own: Collection[str] = ()) -> dict[str, str]:
        """What is routed or assigned in this network namespace: CIDR → interface; without our ports, and the interfaces named in `own`."""
        ports = tuple(self._home.ifname(kind, 0)[:-1] for kind in ("v", "t"))
        names = {link.index: link.name for link in links.all_links(self._link)}
        found = {route.destination: names.get(route.index, "?") for route in links.all_routes(self._link)}
        return {destination: name for destination, name in found.items() if name not in own and not name.startswith(ports)}

    def ensure_bridge(self, record: NetworkRecord) -> None:
        """Make the network's bridge, or put it right. Raises ConflictError if the subnet is somebody else's."""
        name = self.bridge_name(record)
        self._refuse_overlap(record, name)
        fresh = self._create_bridge(record, name)
        try:
            index = socket.if_nametoindex(name)
            _disable_ipv6(name)
            _answer_soon(name)
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
            name = self._home.ifname("v", port.number)
            self._equip(port, name)
            _settle(self._link, name)
            _settle(inner, port.interface.ifname)

    def _create_veth(self, port: Port, descriptor: int, index: int) -> None:
        name = self._home.ifname("v", port.number)
        inside = links.Inside(port.interface.ifname, port.interface.mac, descriptor, index)
        message = links.veth(name, addresses.mac_of(port.interface.gateway), port.interface.mtu, inside)
        try:
            self._link.request(message)
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise _wrapped(f"make the veth {name}", error) from error
            self.remove_named(name)  # left by a namespace that is on its way out
            self._link.request(message)

    # ports of VMs

    def attach_taps(self, ports: Sequence[Port], ready: Sequence[int] = ()) -> tuple[int, ...]:
        """One tap for each port, all or none. `ready`: descriptors of taps to take for them, in their order."""
        descriptors: list[int] = []
        try:
            for position, port in enumerate(ports):
                descriptors.append(self._adopt_tap(port, ready[position]) if ready else self._attach_tap(port))
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        return tuple(descriptors)

    def _attach_tap(self, port: Port) -> int:
        """A tap that lives as long as the returned descriptor (and copies of it), routed and up."""
        name = self._home.ifname("t", port.number)
        descriptor = _open_tap(name)
        try:
            self._equip(port, name)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _adopt_tap(self, port: Port, tap: int) -> int:
        """The same for a tap that is there, of this network namespace and down: it gets the port's name."""
        name = self._home.ifname("t", port.number)
        descriptor = os.dup(tap)
        try:
            old = fcntl.ioctl(tap, _TUNGETIFF, bytes(40))[:16].split(b"\0")[0].decode()
            self._link.request(links.rename(socket.if_nametoindex(old), name))
            self._equip(port, name)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    # both

    def _equip(self, port: Port, name: str) -> None:
        """The host's end: settings, address, route, neighbour, up. Also puts an existing one right."""
        index = socket.if_nametoindex(name)
        interface = port.interface
        _disable_ipv6(name)
        self._link.request(
            links.settings(index, _SETTINGS),
            links.hardware(index, addresses.mac_of(interface.gateway), interface.mtu),
            links.up(index),
            links.address(index, interface.gateway, 32),
            links.route(index, interface.address, 32, source=interface.gateway),
            links.neighbour(index, interface.address, interface.mac),
        )

    def remove(self, ports: Iterable[Port]) -> None:
        """Remove the host's ends; nothing happens where nothing is. Takes about 40 ms for a veth."""
        for port in ports:
            for kind in ("v", "t"):
                self.remove_named(self._home.ifname(kind, port.number))

    def remove_named(self, name: str) -> None:
        """Remove an interface by name; nothing happens without it."""
        with contextlib.suppress(OSError):
            self._link.request(links.delete_link(socket.if_nametoindex(name)))

    def restore(self, port: Port) -> bool:
        """Put a port that exists right. False if there is none (its namespace or VM is gone)."""
        for kind in ("v", "t"):
            with contextlib.suppress(OSError):
                self._equip(port, self._home.ifname(kind, port.number))
                return True
        return False

    def leftovers(self, records: Collection[NetworkRecord], ports: Collection[Port]) -> list[Leftover]:
        """This home's interfaces that belong to none of these."""
        expected = {self.bridge_name(record) for record in records}
        expected |= {self._home.ifname(kind, port.number) for port in ports for kind in ("v", "t")}
        prefix = f"th{self._home.tag}"
        found = links.all_links(self._link)
        return [Leftover(link.index, link.name) for link in found if link.name.startswith(prefix) and link.name not in expected]

    def delete(self, leftover: Leftover) -> None:
        """Remove one; nothing happens if it went by itself."""
        with contextlib.suppress(NetlinkError):
            self._link.request(links.delete_link(leftover.index))


def enable_forwarding() -> None:
    """Let this network namespace route, if it doesn't yet (writing would reset the settings of single interfaces)."""
    try:
        with open("/proc/sys/net/ipv4/ip_forward", encoding="ascii") as file:
            if file.read().strip() == "1":
                return
        netns.write_sysctl("net.ipv4.ip_forward", "1")
    except OSError as error:
        raise _wrapped("set net.ipv4.ip_forward to 1", error) from error


def _inside(ports: Sequence[Port], first: int) -> list[links.Message]:
    messages = [links.up(1)]
    for index, port in enumerate(ports, first):
        interface = port.interface
        messages += [links.up(index), links.address(index, interface.address, 32), links.route(index, interface.gateway, 32)]
        messages.append(links.neighbour(index, interface.gateway, addresses.mac_of(interface.gateway)))
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


def _settle(link: Netlink, name: str) -> None:
    """Have the kernel act on a carrier that has just come, now instead of soon: until then it would drop what is sent.

    Asking for the link's state (ETHTOOL_GLINK) does that; see ethtool_op_get_link in the kernel.
    """
    value = array.array("I", [_ETHTOOL_GLINK, 0])
    fcntl.ioctl(link.fileno(), _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), value.buffer_info()[0]))


def _disable_ipv6(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        netns.write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")


def _answer_soon(bridge: str) -> None:
    """Nobody is behind the bridge itself: this machine's programs are told so after one try of ARP (10 ms), not after three seconds."""
    for key, value in (("mcast_solicit", "1"), ("retrans_time_ms", "10")):
        netns.write_sysctl(f"net/ipv4/neigh/{bridge}/{key}", value)


def _wrapped(what: str, error: OSError) -> PermanentError:
    return PermanentError(f"{what}: {error.strerror}")
