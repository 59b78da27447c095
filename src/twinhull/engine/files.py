"""Files of an instance: `cp`, `diff`, `export`, `commit`.

The agent's own tools (agent/README.md) read and write inside the hull, the same code in a container and in a VM. An
instance that doesn't run is started for it with a process that only waits; a VM's disk is never mounted on the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from twinhull.engine.base import Change, PathStat
from twinhull.engine.instances import Instances
from twinhull.engine.live import Live
from twinhull.errors import NotFoundError, PermanentError, UserError
from twinhull.instance.base import STDERR, Instance, RootKind, Session
from twinhull.instance.factory import traits

_MESSAGE_LIMIT = 4096


@dataclass(frozen=True)
class Files:
    """File operations for one engine."""

    instances: Instances

    async def stat(self, live: Live, path: str) -> PathStat:
        """Raises NotFoundError."""
        raw = b"".join([chunk async for chunk in self._read(live, "stat", path)])
        found, mode, size, mtime, target, *_ = raw.decode("utf-8", "surrogateescape").split("\0")
        return PathStat(found, int(mode, 8), int(size), float(mtime), target)

    def archive(self, live: Live, path: str) -> AsyncIterator[bytes]:
        """A tar stream."""
        return self._read(live, "tar-out", path)

    def export(self, live: Live) -> AsyncIterator[bytes]:
        """The root as a tar stream, without what is mounted in it."""
        return self._read(live, "tar-out", "-x", "/")

    async def unpack(self, live: Live, path: str, data: AsyncIterator[bytes]) -> None:
        """Raises NotFoundError if the folder isn't there, UserError for an archive that is refused."""
        async with self._tool(live, "tar-in", path) as session:
            message = bytearray()
            async for chunk in data:
                await session.send(chunk)
            await session.close_stdin()
            async for stream, out in session.output():
                if stream == STDERR:
                    message += out[: _MESSAGE_LIMIT - len(message)]
            _check(await session.wait(), message)

    async def diff(self, live: Live) -> tuple[Change, ...]:
        """What the writable layer changes against the image."""
        raw = b"".join([chunk async for chunk in self._read(live, "diff")])
        entries = [entry.decode("utf-8", "surrogateescape") for entry in raw.split(b"\0") if entry]
        return tuple(Change(entry[0], entry[2:]) for entry in entries if len(entry) > 2)

    def layer(self, live: Live) -> AsyncIterator[bytes]:
        """The writable layer as an OCI layer's tar."""
        return self._read(live, "layer")

    async def _read(self, live: Live, *argv: str) -> AsyncIterator[bytes]:
        async with self._tool(live, *argv) as session:
            await session.close_stdin()
            message = bytearray()
            async with contextlib.aclosing(session.output()) as output:  # type: ignore[type-var]
                async for stream, data in output:
                    if stream == STDERR:
                        message += data[: _MESSAGE_LIMIT - len(message)]
                    else:
                        yield data
            _check(await session.wait(), message)

    @asynccontextmanager
    async def _tool(self, live: Live, *argv: str) -> AsyncIterator[Session]:
        async with self._hull(live, *argv) as instance:
            session = await instance.tool(*argv)
            try:
                yield session
            finally:
                await session.close()

    @asynccontextmanager
    async def _hull(self, live: Live, *argv: str) -> AsyncIterator[Instance]:
        if live.up and live.instance is not None:
            yield live.running() if live.record.state != "paused" or not _on_host(live, argv[0]) else live.instance
            return
        async with live.lock, self._resting(live, argv[0]) as instance:
            yield instance

    @asynccontextmanager
    async def _resting(self, live: Live, tool: str) -> AsyncIterator[Instance]:
        """A hull for an instance that doesn't run; the lock is held."""
        launcher = self.instances.launcher
        paths = launcher.paths(live.id)
        paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _on_host(live, tool):
            yield launcher.hull(live, await launcher.known(live))
            return
        paths.run.mkdir(parents=True, exist_ok=True, mode=0o711)
        instance = launcher.hull(live, await launcher.maintenance(live))
        try:
            await instance.create()
            await instance.start()
            yield instance
        finally:
            await instance.delete()


def _on_host(live: Live, tool: str) -> bool:
    """Whether the tool reads the upper folder on the host and needs no running hull."""
    return tool in ("diff", "layer") and traits(live.record.spec.runtime).root is RootKind.LAYERS


def _check(code: int, message: bytes | bytearray) -> None:
    if code == 0:
        return
    text = message.decode("utf-8", "replace").strip() or f"exit status {code}"
    if "No such file" in text:
        raise NotFoundError(text)
    if code == 1:
        raise UserError(text)
    raise PermanentError(text)
