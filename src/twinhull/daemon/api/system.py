"""Routes of the whole: ping, info, df, prune, events, stop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, cast

from fastapi import APIRouter, Depends

from twinhull import __version__
from twinhull.daemon.api.answers import Empty, Events, Json
from twinhull.daemon.api.bodies import Route
from twinhull.daemon.api.context import ContextDep, EngineDep, FiltersDep, Flag, Seconds, refuse_unknown_query
from twinhull.engine.base import DiskUsage, Event

router = APIRouter(tags=["system"], route_class=Route, dependencies=[Depends(refuse_unknown_query)])


@router.get("/ping", response_model=None)
async def ping() -> Json[dict[str, str | int]]:
    """Whether the daemon answers."""
    return Json({"version": __version__, "api": "1", "pid": os.getpid()})


@router.get("/info", response_model=None)
async def info(engine: EngineDep) -> Json[dict[str, Any]]:
    """Versions, accelerator, runtimes, counts."""
    return Json(await engine.info())


@router.get("/system/df", response_model=None)
async def disk_usage(engine: EngineDep) -> Json[tuple[DiskUsage, ...]]:
    """Disk usage, one row a kind."""
    return Json(await engine.disk_usage())


@router.post("/system/prune", response_model=None)
async def prune(engine: EngineDep, all: Flag = False, volumes: Flag = False) -> Json[dict[str, tuple[str, ...]]]:
    """Remove what nothing uses."""
    return Json(await engine.prune(all=all, volumes=volumes))


@router.post("/daemon/stop", response_model=None, status_code=202)
async def stop(context: ContextDep, all: Flag = False) -> Empty:
    """End the daemon; with `all` the workloads too. Calls that are under way, as this one, still get their answer."""
    context.stop(all)
    return Empty(202)


@router.get("/events", response_model=None)
async def events(
    context: ContextDep,
    filters: FiltersDep,
    since: Seconds = 0,
    until: Seconds = 0,
    follow: Flag = True,
) -> Events:
    """What happens, as it happens. `until` ends the stream at that time."""
    follow = follow and not 0 < until <= time.time()
    values = context.engine.events(since=since, follow=follow, filters=filters or None)
    return Events(context, _until(cast("AsyncGenerator[Event, None]", values), until) if until else values)


async def _until(values: AsyncGenerator[Event, None], end: float) -> AsyncGenerator[Event, None]:
    """Events up to the time `end`, however long none comes."""
    deadline = asyncio.get_running_loop().time() + end - time.time() if end > time.time() else None
    async with aclosing(values):
        while event := await _next_before(values, deadline):
            if event.at <= end:
                yield event


async def _next_before(values: AsyncGenerator[Event, None], deadline: float | None) -> Event | None:
    with suppress(TimeoutError, StopAsyncIteration):
        async with asyncio.timeout_at(deadline):
            return await anext(values)
    return None
