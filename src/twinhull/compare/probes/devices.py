"""Device nodes: made, and opened."""

from __future__ import annotations

import glob
import os
import stat

from .table import Denied, Owner, Place, attempt, call, first, folder, mount, node, opened, unmount

_BLOCK, _CHARACTER = stat.S_IFBLK, stat.S_IFCHR


def _numbers(text: str) -> tuple[int, int]:
    major, _, minor = text.strip().partition(":")
    return int(major), int(minor)


def _read_byte(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return f"read {os.read(descriptor, 1)!r} from {path}"
    finally:
        os.close(descriptor)


def _disks(place: Place) -> list[str]:
    """The host's disk by its number, and all that /sys names."""
    found = []
    for path in sorted(glob.glob("/sys/class/block/*/dev")):
        with open(path, encoding="ascii") as file:
            found.append(file.read().strip())
    return [place.disk, *found]


@attempt("devices", Owner.KERNEL, "make nodes for all disks, in /tmp, /dev and /dev/shm, and read one byte", "a byte")
def disk_nodes(place: Place) -> str:
    def read(where_and_numbers: str) -> str:
        where, _, numbers = where_and_numbers.partition("=")
        with node(_BLOCK, *_numbers(numbers), where=where) as path:
            return f"{numbers}: {_read_byte(path)}"

    return first([f"{where}={numbers}" for where in ("/tmp", "/dev", "/dev/shm") for numbers in _disks(place)], read)


@attempt("devices", Owner.KERNEL, "mount a node of the host's disk, read-only", "the mount is there")
def disk_mount(place: Place) -> str:
    def try_kind(kind: str) -> str:
        with folder("disk") as target, node(_BLOCK, *_numbers(place.disk)) as path:
            done = mount(path, target, kind, 1)
            unmount(target)
            return done

    return first(["ext4", "xfs", "btrfs", "erofs"], try_kind)


_NODES = {"mem": "1:1", "port": "1:4", "kmsg": "1:11", "terminal": "4:1", "serial": "4:64", "console": "5:1", "userfaultfd": "10:126"}
_NODES |= {"tun": "10:200", "hpet": "10:228", "fuse": "10:229", "snapshot": "10:231", "kvm": "10:232", "loop-control": "10:237"}


@attempt("devices", Owner.KERNEL, f"make and open nodes of {', '.join(_NODES)}", "a descriptor")
def character_nodes(place: Place) -> str:
    def open_node(word: str) -> str:
        name, _, numbers = word.partition("=")
        with node(_CHARACTER, *_numbers(numbers)) as path:
            opened(path, os.O_RDONLY)
            return f"opened {name} ({numbers})"

    return first([f"{name}={numbers}" for name, numbers in _NODES.items()], open_node)


@attempt("devices", Owner.KERNEL, "open the virtio port that leads to the host", "a descriptor")
def agent_port(place: Place) -> str:
    def port(path: str) -> str:
        with open(path, encoding="ascii") as file, node(_CHARACTER, *_numbers(file.read())) as own:
            return opened(own, os.O_RDWR)

    ports = glob.glob("/sys/class/virtio-ports/*/dev") + glob.glob("/sys/class/tty/hvc*/dev") + glob.glob("/sys/class/tty/ttyS0/dev")
    return first([*ports], port)


@attempt("devices", Owner.KERNEL, "open the host's device files by their usual names", "a descriptor")
def usual_names(place: Place) -> str:
    names = [
        "sda",
        "vda",
        "nvme0n1",
        "mem",
        "kmsg",
        "kvm",
        "ttyS0",
        "hvc0",
        "vport0p1",
        "fuse",
        "net/tun",
        "loop-control",
        "vsock",
        "uinput",
    ]
    return first([f"/dev/{name}" for name in names], lambda path: opened(path, os.O_RDONLY))


@attempt(
    "devices",
    Owner.HOST,
    "be the owner of the host's /dev/null and the like (crun before 1.9 gave stdin away): set their own mode",
    "chmod is taken",
)
def devices_mode(place: Place) -> str:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        if "4294967295" in file.read():
            raise Denied("they are its own kernel's")

    def set_mode(path: str) -> str:
        os.chmod(path, os.stat(path).st_mode & 0o7777)
        return f"chmod {path}"

    return first([f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")], set_mode)


@attempt("devices", Owner.KERNEL, "ask for I/O ports", "iopl or ioperm is granted")
def io_ports(place: Place) -> str:
    try:
        return f"iopl gave {call(172, 3)}"
    except OSError:
        return f"ioperm gave {call(173, 0x80, 1, 1)}"


@attempt("devices", Owner.KERNEL, "mount devtmpfs", "more devices than one's own")
def devtmpfs(place: Place) -> str:
    with folder("devices") as path:
        mount("x", path, "devtmpfs")
        names = os.listdir(path)
        unmount(path)
    if not names:
        raise Denied("empty")
    return f"{len(names)} devices"
