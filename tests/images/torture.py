"""An image with everything that root file systems tend to lose on their way: three layers, every folder named in its tar.

`layers()` gives their tars, base first. What must be seen in the merged view is told by EXPECTED (presence) and by the tests.
"""

from __future__ import annotations

import struct

from tests.images.archive import Layer, layer

SPARSE_SIZE = 24 << 20
LONG_NAME = "n" * 255
LONG_TARGET = "t/" * 2047 + "t"
"""4095 bytes, the longest there is."""
DEEP = "/".join(["deep", *["d" * 60] * 60])
ODD_NAMES = (
    b"new\nline",
    b"\xff\xfe not utf-8",
    b"-rf",
    b" spaces ",
    b"tab\there",
    b"quote'\"",
    b"star*?[",
    b"back\\slash",
    b"\x01\x7f",
    b"...",
    b"!",
)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""cap_net_raw+ep, revision 2."""
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 0xFFFFFFFF), (2, 4, 33), (4, 4, 0xFFFFFFFF), (0x10, 4, 0xFFFFFFFF), (0x20, 4, 0xFFFFFFFF))
)
GONE = ("etc/removed", "hard/whited", "opaque/below", "opaque/sub", "was-folder/inside")
THERE = ("etc/kept", "opaque/above", "was-file/inside", "was-folder", "hard/b", "again/new", DEEP + "/leaf")


def layers() -> list[bytes]:
    """Base first."""
    return [layer(_base), layer(_middle), layer(_top)]


def xattrs(**values: bytes) -> dict[str, str]:
    """PAX records; dots are written as double underscores."""
    return {f"SCHILY.xattr.{name.replace('__', '.')}": value.decode("utf-8", "surrogateescape") for name, value in values.items()}


def _base(new: Layer) -> None:
    for name in ("", "etc", "opaque", "opaque/sub", "was-folder", "hard", "hard/other", "dev", "odd", "empty", "modes", "again", "many"):
        new.directory(f"./{name}")
    new.directory("./empty/er", 0o700, uid=4_000_000_000, gid=4_294_967_294)
    for name in ("etc/removed", "etc/kept", "opaque/below", "opaque/sub/x", "was-folder/inside", "was-file", "again/old"):
        new.add(f"./{name}", name.encode())
    new.add("./hard/a", b"first")
    for name in ("hard/b", "hard/other/c", "hard/whited"):
        new.link(f"./{name}", "./hard/a")
    _devices(new)
    _modes(new)
    _odd(new)
    _xattrs(new)
    path = "."
    for part in DEEP.split("/"):
        path = f"{path}/{part}"
        new.directory(path)
    new.add(f"{path}/leaf", b"deep")
    for number in range(1500):
        new.add(f"./many/file-{number:05}-{'x' * (number % 60)}", b"y" * (number % 97))


def _devices(new: Layer) -> None:
    import tarfile

    new.add("./dev/null", mode=0o666, type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    new.add("./dev/wide", mode=0o600, type=tarfile.BLKTYPE, devmajor=259, devminor=70_000)
    new.add("./dev/fifo", mode=0o640, type=tarfile.FIFOTYPE, uid=33)
    new.symlink("./dev/fd", "/proc/self/fd")


def _modes(new: Layer) -> None:
    new.add("./modes/setuid", b"#!/bin/sh\n", mode=0o4755)
    new.add("./modes/setgid", b"#!/bin/sh\n", mode=0o2755, gid=42)
    new.add("./modes/none", b"secret", mode=0o000, uid=65534)
    new.directory("./modes/sticky", 0o1777)
    new.directory("./modes/setgid-folder", 0o2775, gid=50)
    new.add("./modes/nano", b"", pax_headers={"mtime": "981173106.123456789"})
    new.add("./modes/late", b"", pax_headers={"mtime": "5000000000.5"})
    new.add("./modes/uid", b"", uid=4_000_000_000, gid=3_000_000_000)


def _odd(new: Layer) -> None:
    for name in ODD_NAMES:
        new.add("./odd/" + name.decode("utf-8", "surrogateescape"), name)
    new.add(f"./odd/{LONG_NAME}", b"255")
    new.symlink("./odd/long", LONG_TARGET)
    new.symlink("./odd/dangling", "/nowhere/at/all")
    new.symlink("./odd/outside", "../../../../etc/passwd")
    for size in (1, 2047, 2048, 2049, 4032, 4095, 4096, 4097, 12_288):
        new.add(f"./odd/size-{size}", bytes(number % 251 for number in range(size)))
    new.add("./odd/sparse", b"begin" + bytes(SPARSE_SIZE - 8) + b"end")


def _xattrs(new: Layer) -> None:
    new.add("./modes/ping", b"\x7fELF", mode=0o755, pax_headers=xattrs(security__capability=CAPABILITY))
    new.add("./modes/user", b"", pax_headers=xattrs(user__test=b"value", user__binary=b"\0\xff\n"))
    new.add("./modes/big-xattr", b"z" * 100, pax_headers=xattrs(user__big=b"v" * 3000))
    new.add("./modes/trusted", b"", pax_headers=xattrs(trusted__test=b"t"))
    new.add("./modes/acl", b"", pax_headers=xattrs(system__posix_acl_access=ACL))
    new.directory("./modes/xattr-folder", pax_headers=xattrs(user__folder=b"f"))


def _middle(new: Layer) -> None:
    for name in ("", "etc", "opaque", "was-file", "hard"):
        new.directory(f"./{name}")
    new.add("./etc/.wh.removed")
    new.add("./opaque/.wh..wh..opq")
    new.add("./opaque/above", b"above")
    new.add("./was-file/inside", b"now a folder")
    new.add("./was-folder", b"now a file")
    new.add("./hard/a", b"replaced")
    new.add("./hard/.wh.whited")
    new.add("./.wh.again")


def _top(new: Layer) -> None:
    new.directory("./")
    new.directory("./again", 0o711, uid=7)
    new.add("./again/new", b"made again")
    new.directory("./modes", 0o751)
    new.add("./modes/top", b"one")
    new.link("./modes/top-link", "./modes/top")
