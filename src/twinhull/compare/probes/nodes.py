"""Which device nodes can be opened from here: each once, for reading and writing or else for reading, without any ioctl.

Prints one line of JSON: path → ["block" or "character", "opened" or the word of its refusal]. Terminals (/dev/pts/N) aren't touched.
"""

from __future__ import annotations

import errno
import json
import os
import stat

_ROOT = "/dev"


def main() -> None:
    """All below /dev."""
    print(json.dumps({path: (kind, answer(path)) for path, kind in sorted(_nodes())}))


def _nodes() -> list[tuple[str, str]]:
    found = []
    for folder, folders, names in os.walk(_ROOT):
        folders[:] = [name for name in folders if name != "pts"]
        found += [(path, kind) for name in names if (kind := _kind(path := os.path.join(folder, name)))]
    return found


def _kind(path: str) -> str:
    """Of a node; "" for all else."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return ""
    return "block" if stat.S_ISBLK(mode) else "character" if stat.S_ISCHR(mode) else ""


def answer(path: str) -> str:
    """What opening it comes to."""
    refusal = ""
    for access in (os.O_RDWR, os.O_RDONLY):
        try:
            os.close(os.open(path, access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        except OSError as error:
            refusal = errno.errorcode.get(error.errno or 0, str(error))
        else:
            return "opened"
    return refusal
