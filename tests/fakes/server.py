"""The real API server over a FakeEngine, in a thread with a loop of its own: for tests of clients and the CLI.

    with serving(home) as server:
        Client(str(home.socket)) …
        server.engine …            # look at it; `server.run(coroutine)` acts in the server's loop

The end is a check too: the server must stop within its time and leave no task.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import FastAPI
from tests.fakes.engine import FakeEngine

from twinhull.daemon.api import create_app
from twinhull.daemon.config import Config
from twinhull.daemon.serve import STOP_SECONDS, serve
from twinhull.home import Home

T = TypeVar("T")


class Server:
    """A running server; `stops` are the arguments that `stop` was called with."""

    def __init__(self, home: Home, config: Config) -> None:
        self.home = home
        self.config = config
        self.stops: list[bool] = []
        self.leaked: list[str] = []
        self.engine: FakeEngine
        self.app: FastAPI
        self.error: BaseException | None = None
        self.stop_took = 0.0
        self._cancelled = time.monotonic()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="server")

    def start(self) -> None:
        """Return once it answers, or raise what hindered it."""
        self._thread.start()
        self._ready.wait()
        if self.error is not None:
            self._thread.join()
            raise self.error

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def wait_until(self, true: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait for a condition on the engine."""

        async def poll() -> None:
            async with asyncio.timeout(seconds):
                while not true():  # noqa: ASYNC110 (there is no event for whatever a test looks at)
                    await asyncio.sleep(0.005)

        self.run(poll())

    def stop(self) -> None:
        """Cancel `serve` and wait."""
        if self._thread.is_alive():
            self._cancelled = time.monotonic()
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(30)
            assert not self._thread.is_alive(), "the server doesn't stop"

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.engine = FakeEngine()
        self.app = create_app(self.engine, self.config, self.stops.append)
        self._task = asyncio.create_task(serve(self.app, self.home, self.config, self._ready.set))
        self._task.add_done_callback(self._ended)
        try:
            await asyncio.wait({self._task})
            self.stop_took = time.monotonic() - self._cancelled
        finally:
            await self.engine.aclose()
            self.leaked = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self.error = task.exception()
        self._ready.set()


@contextmanager
def serving(home: Home, config: Config | None = None) -> Iterator[Server]:
    """A server for one test."""
    server = Server(home, config or Config())
    server.start()
    try:
        yield server
    finally:
        server.stop()
    assert not server.leaked, server.leaked
    assert server.error is None, server.error
    assert server.stop_took <= STOP_SECONDS
