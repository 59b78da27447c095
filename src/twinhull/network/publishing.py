"""Host ports: who has which, reserved by sockets that are bound and never listen.

The traffic itself never reaches those sockets, nftables translates it before. They are here so that another program gets
EADDRINUSE, and so that the kernel chooses the port where none was asked for. Used on the event loop only; nothing blocks.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from twinhull.errors import ConflictError, UserError
from twinhull.spec.instance import PortMapping

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def normal(mapping: PortMapping) -> PortMapping:
    """With "0.0.0.0" as "", and checked. Raises UserError."""
    if mapping.protocol not in _KINDS:
        raise UserError(f"publish {mapping.container_port}/{mapping.protocol}: only tcp and udp can be published")
    if not 0 < mapping.container_port < 65536 or not 0 <= mapping.host_port < 65536:
        raise UserError(f"publish {mapping.host_port}:{mapping.container_port}: ports are 1 to 65535")
    if mapping.host_ip in ("", "0.0.0.0", "*"):
        return replace(mapping, host_ip="")
    try:
        return replace(mapping, host_ip=str(ipaddress.IPv4Address(mapping.host_ip)))
    except ValueError as error:
        raise UserError(f"publish on {mapping.host_ip!r}: only IPv4 addresses of this machine can be published on") from error


@dataclass
class _Held:
    name: str
    sockets: dict[PortMapping, socket.socket] = field(default_factory=dict)


class Reservations:
    """All published ports of one daemon, by instance."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    def mappings(self, instance_id: str) -> tuple[PortMapping, ...]:
        """What is reserved for an instance now."""
        held = self._held.get(instance_id)
        return tuple(held.sockets) if held else ()

    def reserve(self, instance_id: str, name: str, mappings: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """Exactly these, all or nothing; what the instance has already, also for host port 0, stays.

        Returns them in order with the host ports chosen. Raises ConflictError or UserError, and then the instance has what it had.
        """
        held = self._held.get(instance_id, _Held(name))
        free = dict(held.sockets)
        chosen: dict[PortMapping, socket.socket] = {}
        opened: list[socket.socket] = []
        answer = []
        try:
            for wanted in map(normal, mappings):
                if wanted in chosen:  # asked for twice
                    continue
                mapping = _taken_over(wanted, free)
                if mapping is None:
                    holder = self._bind(wanted)
                    opened.append(holder)
                    mapping = replace(wanted, host_port=holder.getsockname()[1])
                    chosen[mapping] = holder
                else:
                    chosen[mapping] = free.pop(mapping)
                answer.append(mapping)
        except BaseException:
            _close(opened)
            raise
        _close(free.values())
        self._held[instance_id] = _Held(name, chosen)
        return tuple(answer)

    def release(self, instance_id: str) -> None:
        """Give up all ports of an instance; nothing happens if it has none."""
        held = self._held.pop(instance_id, None)
        if held:
            _close(held.sockets.values())

    def close(self) -> None:
        """Give up everything."""
        for instance_id in list(self._held):
            self.release(instance_id)

    def _bind(self, mapping: PortMapping) -> socket.socket:
        holder = socket.socket(socket.AF_INET, _KINDS[mapping.protocol] | socket.SOCK_CLOEXEC)
        try:
            holder.bind((mapping.host_ip or "0.0.0.0", mapping.host_port))
        except OSError as error:
            holder.close()
            raise self._refusal(mapping, error) from error
        return holder

    def _refusal(self, mapping: PortMapping, error: OSError) -> Exception:
        port = f"port {mapping.host_port}/{mapping.protocol}"
        if error.errno == errno.EADDRINUSE:
            return ConflictError(f"{port} is already taken by {self._holder(mapping) or 'another program'}")
        if error.errno == errno.EADDRNOTAVAIL:
            return UserError(f"publish {port} on {mapping.host_ip}: not an address of this machine")
        return UserError(f"publish {port}: {error.strerror}")

    def _holder(self, mapping: PortMapping) -> str:
        for held in self._held.values():
            for other in held.sockets:
                same = (other.protocol, other.host_port) == (mapping.protocol, mapping.host_port)
                if same and (not other.host_ip or not mapping.host_ip or other.host_ip == mapping.host_ip):
                    return held.name
        return ""


def _taken_over(wanted: PortMapping, free: Iterable[PortMapping]) -> PortMapping | None:
    return next((mapping for mapping in free if mapping == wanted or replace(mapping, host_port=0) == wanted), None)


def _close(sockets: Iterable[socket.socket]) -> None:
    for holder in sockets:
        holder.close()
