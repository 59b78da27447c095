"""When hosts get their certificates by ACME: what is missing at once, what is old in time, what fails ever later again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from twinhull.errors import TwinhullError
from twinhull.gateway.acme import Issuer
from twinhull.gateway.certificates import Certificate, Store
from twinhull.gateway.settings import Settings

_log = logging.getLogger("twinhull.gateway")
_PAUSE = 3600.0
_RETRY_LEAST, _RETRY_MOST = 60.0, 6 * 3600.0
_PROVIDE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Doer:
    """What the gateway does for it. hosts: who wants a certificate now; answer: path → text on the clear port; install: serve with it."""

    hosts: Callable[[], Iterable[str]]
    answer: Callable[[Mapping[str, str]], Awaitable[None]]
    install: Callable[[Certificate], Awaitable[None]]


class Renewals:
    """One at a time; `run` is the gateway's task."""

    def __init__(self, settings: Settings, store: Store, doer: Doer) -> None:
        self._settings = settings
        self._store = store
        self._doer = doer
        self._changed = asyncio.Event()

    def look(self) -> None:
        """Hosts may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """For ever."""
        waits: dict[str, tuple[float, float]] = {}
        while True:
            self._changed.clear()
            for host in await self.due(time.time()):
                moment, pause = waits.get(host, (0.0, _RETRY_LEAST))
                if time.monotonic() < moment:
                    continue
                try:
                    await self.renew(host)
                    waits.pop(host, None)
                except (TwinhullError, OSError) as error:
                    _log.warning("%s; trying again in %.0f s", error, pause)
                    waits[host] = (time.monotonic() + pause, min(2 * pause, _RETRY_MOST))
            rest = min([_PAUSE, *(max(1.0, moment - time.monotonic()) for moment, _ in waits.values())])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._changed.wait()

    async def due(self, now: float) -> list[str]:
        """Hosts whose certificate is missing or old. now: seconds since the epoch."""
        found = {host: await asyncio.to_thread(self._store.acme, host) for host in self._doer.hosts()}
        return [host for host, certificate in found.items() if certificate is None or certificate.due(now)]

    async def renew(self, host: str) -> None:
        """Get a certificate for a host and serve with it. Raises TemporaryError with what the authority said."""
        loop = asyncio.get_running_loop()
        answers: dict[str, str] = {}

        def provide(path: str, text: str) -> None:
            answers[path] = text
            asyncio.run_coroutine_threadsafe(_called(self._doer.answer, dict(answers)), loop).result(_PROVIDE_SECONDS)

        self._store.prepare()
        pem = await asyncio.to_thread(Issuer(self._settings, self._store.account, provide).issue, host)
        await self._doer.install(self._store.keep(host, pem))
        _log.info("got a certificate for %s", host)


async def _called(function: Callable[[Mapping[str, str]], Awaitable[None]], answers: Mapping[str, str]) -> None:
    await function(answers)
