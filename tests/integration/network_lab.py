"""A laboratory for network tests: a network namespace of the test's own, programs inside namespaces, a tiny DNS client.

The test's main thread steps into a new namespace without any route, so nothing that a test does reaches the machine's own network.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import os
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twinhull import home
from twinhull.network import links, netns
from twinhull.network.dns import strays
from twinhull.network.host import NetworkHost, interface
from twinhull.network.ports import Port
from twinhull.spec.network import NetworkRecord
from twinhull.sys.libnftables import Nft
from twinhull.sys.netlink import Netlink, attribute

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_NEWNET = 0x40000000
TIMEOUT = 3.0
"""Seconds after which a packet that must arrive is given up."""
REFUSED = 0.4
"""Seconds to wait for what must not arrive."""


@contextlib.contextmanager
def own_namespace() -> Iterator[None]:
    """The calling thread is in a new network namespace with loopback up."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert _libc.unshare(_NEWNET) == 0
    try:
        with Netlink() as link:
            link.request(links.up(1))
        yield
    finally:
        assert _libc.setns(before, _NEWNET) == 0
        os.close(before)


def inside(space: netns.Netns | None, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call in a thread that is in the namespace (None: where the caller is)."""
    if space is None:
        return function(*arguments, **options)
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def body() -> None:
        try:
            assert _libc.setns(space.descriptor, _NEWNET) == 0
            result.set_result(function(*arguments, **options))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=body, daemon=True).start()
    return result.result(60)


def record(number: int, **changes: Any) -> NetworkRecord:
    """A network 10.186.<number>.0/24."""
    subnet = f"10.186.{number}"
    values: dict[str, Any] = {"internal": False} | changes
    return NetworkRecord(id=f"net{number}", name=f"n{number}", number=number, subnet=f"{subnet}.0/24", gateway=f"{subnet}.1", **values)


def port(network: NetworkRecord, host: int, number: int, **changes: Any) -> Port:
    """A port with the address .<host>."""
    address = network.gateway.rsplit(".", 1)[0] + f".{host}"
    return Port(network, number, interface(network, address, **changes))


class Server:
    """Answers every TCP connection with the peer's address, and every UDP packet with the sender's; after its own name, if it has one."""

    def __init__(
        self,
        space: netns.Netns | None,
        number: int,
        kind: int = socket.SOCK_STREAM,
        *,
        family: int = socket.AF_INET,
        host: str = "",
        name: str = "",
    ) -> None:
        self._name = f"{name} " if name else ""
        self.socket = inside(space, socket.socket, family, kind)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((host, number))
        self._kind = kind
        if kind == socket.SOCK_STREAM:
            self.socket.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                if self._kind == socket.SOCK_STREAM:
                    peer, address = self.socket.accept()
                    with peer:
                        peer.sendall((self._name + address[0]).encode())
                else:
                    _data, address = self.socket.recvfrom(2048)
                    if address is None:  # shut down
                        return
                    self.socket.sendto((self._name + address[0]).encode(), address)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Stage:
    """A NetworkHost and the namespaces attached to it."""

    def __init__(self, host: NetworkHost) -> None:
        self.host = host
        self.spaces: list[netns.Netns] = []
        self.servers: list[Server] = []

    async def instance(self, *ports: Port, dns: tuple[str, ...] = ()) -> netns.Netns:
        self.spaces.append(await self.host.attach_netns(ports, dns=dns))
        return self.spaces[-1]

    def serve(self, space: netns.Netns | None, number: int, kind: int = socket.SOCK_STREAM, **options: object) -> Server:
        self.servers.append(Server(space, number, kind, **options))
        return self.servers[-1]


@contextlib.asynccontextmanager
async def staged(where: home.Home, networks: Sequence[NetworkRecord]) -> AsyncIterator[Stage]:
    """A NetworkHost with these networks, which leaves nothing behind."""
    where.run.mkdir()
    host = NetworkHost(where)
    await host.open()
    await host.sync(networks, ())
    made = Stage(host)
    try:
        yield made
    finally:
        for server in made.servers:
            server.close()
        for held in made.spaces:
            held.close()
        await host.close(remove=True)
    assert leftovers(where) == []


def ask_tcp(address: str, number: int, timeout: float = TIMEOUT) -> str:
    """The client's address as the server saw it; "refused", "unreachable" or "silence" otherwise."""
    try:
        with socket.create_connection((address, number), timeout=timeout) as peer:
            return peer.recv(100).decode()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"
    except OSError:
        return "unreachable"


def ask_udp(address: str, number: int, timeout: float = TIMEOUT, source_port: int = 0) -> str:
    """The same over UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("", source_port))
        peer.settimeout(timeout)
        try:
            peer.connect((address, number))
            peer.send(b"?")
            return peer.recv(100).decode()
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silence"
        except OSError:
            return "unreachable"


def ping(address: str, timeout: float = TIMEOUT) -> bool:
    """One echo request."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as peer:
        peer.settimeout(timeout)
        try:
            peer.connect((address, 0))
            peer.send(struct.pack(">BBHHH", 8, 0, 0, 0, 1) + b"twinhull")
            peer.recv(100)
        except OSError:
            return False
        return True


A, PTR, AAAA = 1, 12, 28


def resolve(server: str, name: str, kind: int = A, *, timeout: float = TIMEOUT, tcp: bool = False) -> tuple[int, list[str]]:
    """(response code, answers); (-1, []) without an answer."""
    number = random.randrange(65536)
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0" + struct.pack(">HH", kind, 1)
    query = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + question
    try:
        data = _exchange(server, query, timeout, tcp)
    except OSError:
        return -1, []
    identifier, flags, _questions, count = struct.unpack_from(">HHHH", data)
    assert identifier == number
    return flags & 0xF, _answers(data, 12 + len(question), count)


def _exchange(server: str, query: bytes, timeout: float, tcp: bool) -> bytes:
    if tcp:
        with socket.create_connection((server, 53), timeout=timeout) as peer:
            peer.sendall(struct.pack(">H", len(query)) + query)
            return peer.recv(4096)[2:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(timeout)
        peer.connect((server, 53))
        peer.send(query)
        return peer.recv(4096)


def _answers(data: bytes, offset: int, count: int) -> list[str]:
    found = []
    for _ in range(count):
        offset = _skip_name(data, offset)
        kind, _class, _ttl, size = struct.unpack_from(">HHIH", data, offset)
        offset += 10
        if kind == A:
            found.append(socket.inet_ntoa(data[offset : offset + 4]))
        elif kind == PTR:
            found.append(_read_name(data, offset))
        offset += size
    return sorted(found)


def _skip_name(data: bytes, offset: int) -> int:
    while data[offset]:
        if data[offset] >= 0xC0:
            return offset + 2
        offset += data[offset] + 1
    return offset + 1


def _read_name(data: bytes, offset: int) -> str:
    labels = []
    while data[offset]:
        if data[offset] >= 0xC0:
            offset = struct.unpack_from(">H", data, offset)[0] & 0x3FFF
            continue
        labels.append(data[offset + 1 : offset + 1 + data[offset]].decode())
        offset += data[offset] + 1
    return ".".join(labels)


@contextlib.contextmanager
def outside(subnet: str = "192.0.2") -> Iterator[netns.Netns]:
    """Another machine: a namespace joined by a veth; we are .1, it is .2, and it has no route but to us."""
    space, inner = netns.create({"net.ipv4.ping_group_range": "0 2147483647"})
    with inner, Netlink() as link:
        link.request(links.veth("uplink0", "02:00:00:00:00:01", 1500, links.Inside("eth0", "02:00:00:00:00:02", space.descriptor, 2)))
        index = socket.if_nametoindex("uplink0")
        inner.request(links.up(1), links.up(2), links.address(2, f"{subnet}.2", 24))
        link.request(links.up(index), links.address(index, f"{subnet}.1", 24))
        try:
            yield space
        finally:
            link.request(links.delete_link(index))
            space.close()


def leftovers(where: home.Home) -> list[str]:
    """What a home left in this network namespace, and its processes."""
    with Netlink() as link:
        found = [entry.name for entry in links.all_links(link) if entry.name.startswith(f"th{where.tag}")]
    nft = Nft()
    tables = [entry["table"]["name"] for entry in nft.query("list tables") if "table" in entry]
    nft.close()
    found += [name for name in tables if name == where.nft_table]
    found += [f"dnsmasq {pid}" for pid in strays(where.run / "dns", ())]
    found += [str(path) for path in (where.run / "dns", where.run / "names", Path(f"/run/twinhull-names-{where.tag}")) if path.exists()]
    return found


def attribute_mac(mac: str) -> bytes:
    """IFLA_ADDRESS, to change an interface's MAC."""
    return attribute(1, links.packed_mac(mac))
