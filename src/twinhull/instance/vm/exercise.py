"""What a guest does once before it is parked: it mounts, starts, serves and sends, so that QEMU has translated the code for that.

Under emulation the first run of anything is dominated by its translation, which is QEMU's own and not in a template. Nothing of the
exercise is left afterwards (the agent's RESET), and no identity is in it. Called by `parking.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import tempfile
import uuid
from pathlib import Path

from twinhull import home as homes
from twinhull.home import Home
from twinhull.image import erofs
from twinhull.instance import capabilities, seccomp
from twinhull.instance.base import InjectedFile, Interface, Process
from twinhull.instance.vm import shape
from twinhull.instance.vm.agent import AGENT
from twinhull.instance.vm.assets import Assets
from twinhull.instance.vm.filter import compile_profile
from twinhull.instance.vm.guest import GuestConfig
from twinhull.spec.instance import Resources, Security

PACKETS = 30
"""Pings on each interface; a guest under emulation has translated its receiving path after some twenty."""
_HOST, _GUEST = "169.254.77.1", "169.254.77.2"
"""Link-local addresses (RFC 3927), known on one tap that leads nowhere."""
_FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var")
_SHM = 64 << 20
_RECIPE = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_ETH_P_IP = 0x0800


def image(home: Home, guest: Assets) -> Path:
    """An erofs root with nothing but the agent in it, made on first need."""
    path = home.cache / "vm" / f"exercise-{_RECIPE}-{guest.key[:16]}.erofs"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exercise-", dir=path.parent) as name:
        root = Path(name) / "root"
        for folder in _FOLDERS:
            (root / folder).mkdir(parents=True)
        program = root / "bin" / "agent"
        program.write_bytes((homes.assets() / "agent").read_bytes())
        program.chmod(0o755)
        with open(Path(name) / "image", "w+b") as file:
            folder_of = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                erofs.write(folder_of, file.fileno(), uuid.UUID(int=0), 0)
            finally:
                os.close(folder_of)
            file.truncate(shape.PLACEHOLDER)  # QEMU measures a disk once, and this one is to be exchanged for larger ones
        os.rename(Path(name) / "image", path)
    return path


def config(nics: int) -> GuestConfig:
    """A guest like most others, that runs the agent's `exercise`."""
    names = capabilities.effective(Security())
    return GuestConfig(
        process=Process((AGENT, "exercise", _GUEST if nics else "127.0.0.1", _HOST), env=("PATH=/bin",)),
        init=False,
        hostname="exercise",
        read_only=False,
        unmasked=False,
        no_new_privileges=True,
        caps=capabilities.mask(names),
        seccomp=compile_profile(seccomp.for_security(Security(), names)),
        resources=Resources(memory=64 << 20),
        rlimits=(),
        sysctls=(("net.ipv4.ping_group_range", "0 2147483647"), ("net.ipv4.ip_unprivileged_port_start", "0")),
        mounts=(),
        volumes={},
        files=tuple(InjectedFile(f"/etc/{name}", b"exercise\n") for name in ("hosts", "resolv.conf", "hostname", "machine-id")),
        interfaces=tuple(_interface(number) for number in range(nics)),
        shm_size=_SHM,
    )


def knock(interface: str) -> None:
    """Send pings to the guest behind a tap. Blocks for milliseconds; raises OSError."""
    set_up(interface, up=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, _ETH_P_IP))
        for number in range(PACKETS):
            with contextlib.suppress(BlockingIOError):
                sender.send(_ping(number))


def set_up(interface: str, *, up: bool) -> None:
    """An interface of this network namespace. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        name = interface.encode()
        raw = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH14x", name, 0))
        flags = struct.unpack_from("16sH", raw)[1] & ~_IFF_UP | (_IFF_UP if up else 0)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", name, flags))


def _interface(number: int) -> Interface:
    address = _GUEST if number == 0 else f"169.254.{77 + number}.2"
    return Interface(f"eth{number}", shape.mac(number), address, _HOST, 1500, default=number == 0)


def _ping(number: int) -> bytes:
    """An Ethernet frame with an echo request (RFC 792) for the first interface."""
    ethernet = bytes.fromhex(shape.mac(0).replace(":", "")) + bytes.fromhex("025448ffffff") + struct.pack(">H", _ETH_P_IP)
    echo = struct.pack(">BBHHH", 8, 0, 0, 1, number) + b"twinhull"
    echo = echo[:2] + struct.pack(">H", _sum(echo)) + echo[4:]
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(echo), number, 0, 64, 1, 0, socket.inet_aton(_HOST), socket.inet_aton(_GUEST))
    return ethernet + head[:10] + struct.pack(">H", _sum(head)) + head[12:] + echo


def _sum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
