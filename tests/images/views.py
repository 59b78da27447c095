"""Both views of an image, walked and compared; a program, because it mounts in a mount namespace of its own.

    python tests/images/views.py EROFS LAYER…     (topmost first)

Prints one JSON object: the number of entries and the differences. Left out is what differs by nature: inode and device numbers,
sizes and link counts of folders, access and change times, and the root folder's time, which containers/storage doesn't keep.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

Entries = dict[bytes, dict[str, Any]]


def walk(root: bytes) -> Entries:
    """Every entry below a folder by its path; files of one inode share "links"."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    entries: Entries = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}
    _walk(top, b"", entries, inodes)
    entries[b"."] = _entry(top, os.fstat(top), f"/proc/self/fd/{top}".encode(), True) | {"mtime": 0}
    for paths in inodes.values():
        for path in paths:
            entries[path]["links"] = sorted(other.hex() for other in paths)
    return entries


def compare(one: Entries, two: Entries) -> list[str]:
    """Differences, one line each."""
    found = [f"only in one: {path!r}" for path in sorted(one.keys() - two.keys())]
    found += [f"only in two: {path!r}" for path in sorted(two.keys() - one.keys())]
    for path in sorted(one.keys() & two.keys()):
        found += [
            f"{path!r} {key}: {one[path][key]!r} != {two[path].get(key)!r}" for key in one[path] if one[path][key] != two[path].get(key)
        ]
    return found


def _walk(folder: int, prefix: bytes, entries: Entries, inodes: dict[tuple[int, int], list[bytes]]) -> None:
    for name in sorted(os.fsencode(name) for name in os.listdir(folder)):
        path = prefix + name
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        entries[path] = _entry(folder, status, b"/proc/self/fd/%d/%s" % (folder, name), False)
        if stat.S_ISDIR(status.st_mode):
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            _walk(below, path + b"/", entries, inodes)
            os.close(below)
        else:
            inodes.setdefault((status.st_dev, status.st_ino), []).append(path)


def _entry(folder: int, status: os.stat_result, path: bytes, follow: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "mode": oct(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": status.st_mtime_ns,
        "xattrs": {name: os.getxattr(path, name, follow_symlinks=follow).hex() for name in os.listxattr(path, follow_symlinks=follow)},
    }
    if stat.S_ISREG(status.st_mode):
        entry |= {"size": status.st_size, "data": hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()}
    elif stat.S_ISLNK(status.st_mode):
        entry |= {"size": status.st_size, "target": os.readlink(path).hex()}
    elif stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
        entry["device"] = status.st_rdev
    return entry


def main(erofs: str, layers: list[str]) -> dict[str, Any]:
    from twinhull.sys import mounts, namespaces

    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    image = os.open(erofs, os.O_RDONLY)
    lowers = [os.open(layer, os.O_PATH) for layer in layers]
    mounts.mount("tmpfs", "/mnt", "tmpfs")
    for name in ("overlay", "erofs", "empty"):
        os.mkdir(f"/mnt/{name}")
    lowers.append(os.open("/mnt/empty", os.O_PATH))
    mounts.overlay(Path("/mnt/overlay"), lowers, None, None)
    command = ["mount", "-n", "-t", "erofs", "-o", "loop,ro", f"/proc/self/fd/{image}", "/mnt/erofs"]
    subprocess.run(command, check=True, pass_fds=[image])
    one, two = walk(b"/mnt/overlay"), walk(b"/mnt/erofs")
    return {"entries": len(one), "differences": compare(one, two), "names": [path.hex() for path in one]}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:])))
