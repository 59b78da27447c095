"""One erofs file per image, for VMs: made once, by whoever comes first, and never half.

Invariant: a file at `path` is complete and never changes; makers in this and other processes wait for each other by a lock file,
which the kernel frees when its holder dies.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from twinhull.errors import PermanentError
from twinhull.home import Home
from twinhull.image import scratch
from twinhull.sys import proc


def folder(home: Home) -> Path:
    """Where the files lie."""
    return home.cache / "erofs"


def path(home: Home, image_id: str) -> Path:
    """Where an image's file is, or would be."""
    return folder(home) / f"{image_id}.erofs"


async def ensure(home: Home, image_id: str, layers: Sequence[Path], created: float) -> Path:
    """The image's file, made if it isn't there. `layers`: topmost first; `created`: the image's time, seconds since 1970."""
    target = path(home, image_id)
    if target.exists():
        return target
    folder(home).mkdir(parents=True, exist_ok=True)
    async with scratch.locked(folder(home) / f".{image_id}.lock"):
        if not target.exists():
            await _make(home, image_id, layers, int(created))
    return target


def collect(home: Home, keep: set[str]) -> tuple[str, ...]:
    """Remove the files of all images but these; the ids removed."""
    gone = [file for file in folder(home).glob("*.erofs") if file.stem not in keep]
    locks = [file for file in folder(home).glob(".*.lock") if file.stem[1:] not in keep]  # of makers that were killed
    for file in (*gone, *locks):
        file.unlink(missing_ok=True)
    return tuple(file.stem for file in gone)


def size(home: Home) -> int:
    """Bytes on the disk."""
    return sum(file.stat().st_blocks * 512 for file in folder(home).glob("*.erofs"))


async def _make(home: Home, image_id: str, layers: Sequence[Path], created: int) -> None:
    with scratch.scratch(home) as work:
        part = work / "root.erofs"
        argv = [sys.executable, "-m", "twinhull.image.erofs", str(part), image_id[:32], str(created), *map(str, layers)]
        result = await proc.run(argv, check=False)
        if result.status == os.EX_TEMPFAIL:
            raise scratch.disk_full(folder(home))
        if result.status != 0:
            tail = result.stderr.decode("utf-8", "replace").strip()[-1000:]
            raise PermanentError(f"make the VM root of image {image_id[:12]}: {tail or f'exit status {result.status}'}")
        os.chmod(part, 0o400)  # it holds files that the image keeps from its users; VMs get a descriptor
        os.rename(part, path(home, image_id))
