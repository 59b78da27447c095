"""A small file system that only the test sees, to fill it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from twinhull.sys import mounts, namespaces


def run(folder: Path, size: int, body: Callable[[], Awaitable[None]]) -> None:
    """Run the coroutine with a tmpfs of `size` bytes on `folder`, in a thread and mount namespace that end with it."""
    failure: list[BaseException] = []

    def work() -> None:
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
            mounts.mount("tmpfs", folder, "tmpfs", 0, f"size={size}")

            async def whole() -> None:
                await body()

            asyncio.run(whole())
        except BaseException as error:
            failure.append(error)

    folder.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
