"""A workload's own streams, whose end is only told when the engine has noted it too."""

from __future__ import annotations

from collections.abc import AsyncIterator

from twinhull.engine.live import Live
from twinhull.instance.base import Session
from twinhull.plan.lifecycle import State


class Attached(Session):
    """`wait` returns once the exit is recorded and, with `--rm`, the instance is gone: a command that follows sees it so."""

    def __init__(self, live: Live, session: Session) -> None:
        self._live = live
        self._session = session
        self._exits = live.exits

    async def send(self, data: bytes) -> None:
        await self._session.send(data)

    async def close_stdin(self) -> None:
        await self._session.close_stdin()

    async def resize(self, rows: int, cols: int) -> None:
        await self._session.resize(rows, cols)

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        return self._session.output()

    async def wait(self) -> int:
        code = await self._session.wait()
        await self._live.wait_for(self._noted)
        return code

    async def signal(self, number: int) -> None:
        await self._session.signal(number)

    async def close(self) -> None:
        await self._session.close()

    def _noted(self) -> bool:
        live = self._live
        ended = live.exits > self._exits and not live.record.spec.auto_remove
        return live.removed or ended or live.record.state is State.DEAD
