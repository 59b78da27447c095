"""The images of examples/shop, built with the product's own image store, and kept in build/test-cache as one archive.

The archive's name holds a digest of everything that goes into the images: a changed file makes a new archive and removes the old one.
Needs Debian's archive the first time (two minutes). Called by tests and benchmarks; as a script: `python tests/images/shop.py`.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import yaml
from tests.images.base import CACHE

from twinhull import home
from twinhull.image.base import BootstrapSpec, BuildSpec
from twinhull.image.store import ImageStore

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
BASE = BootstrapSpec(packages=("ca-certificates", "curl"), tag="localhost/debian:bookworm")
"""What every Containerfile of the shop begins with."""


def builds() -> dict[str, BuildSpec]:
    """Image name → how it is built, from the compose file."""
    services: dict[str, Any] = yaml.safe_load((SHOP / "compose.yaml").read_text())["services"]
    found = {}
    for service in services.values():
        how = service["build"] if isinstance(service["build"], dict) else {"context": service["build"]}
        found[service["image"]] = BuildSpec(str(SHOP / how["context"]), target=how.get("target", ""), tags=(service["image"],))
    return found


def digest() -> str:
    """Twelve hexadecimal digits of the base, the builds and every file of their contexts."""
    state = hashlib.sha256(repr(BASE).encode())
    for name, spec in builds().items():
        state.update(f"{name} {spec.target}".encode())
    for context in sorted({Path(spec.context) for spec in builds().values()}):
        for file in sorted(path for path in context.rglob("*") if path.is_file()):
            content = file.read_bytes()
            runs = file.stat().st_mode & 0o100  # the rest of a mode is the checkout's umask
            state.update(f"\n{file.relative_to(SHOP)} {runs} {len(content)}\n".encode() + content)
    return state.hexdigest()[:12]


def archive() -> Path:
    """The docker-archive of all of them, made if it isn't there; several processes may ask at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"shop-{digest()}.tar"
    with (CACHE / ".shop.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            asyncio.run(_make(path))
            for old in CACHE.glob("shop-*.tar"):
                if old != path:
                    old.unlink()
    return path


async def _make(path: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix="th-shop-", dir="/tmp"))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        store = ImageStore(home.at(work))
        await _show(store.bootstrap(BASE))
        for spec in builds().values():
            await _show(store.build(spec))
        with temporary.open("wb") as file:
            async for data in store.save(tuple(builds())):
                file.write(data)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(work)


async def _show(lines: AsyncIterator[str]) -> None:
    async for line in lines:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(archive())
