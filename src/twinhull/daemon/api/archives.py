"""Routes of instances that stream: logs, statistics, files as tar."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Query, Request

from twinhull.daemon.api.answers import Empty, Events, Json, Tar
from twinhull.daemon.api.bodies import Route, upload
from twinhull.daemon.api.context import ContextDep, EngineDep, Flag, Seconds, inner_path, refuse_unknown_query
from twinhull.engine.base import Engine, LogLine
from twinhull.instance.base import STDERR, STDOUT, Stats

router = APIRouter(prefix="/instances", tags=["instances"], route_class=Route, dependencies=[Depends(refuse_unknown_query)])
STATS_INTERVAL = 1.0
"""Seconds between two samples of a stream of statistics."""
_MAX_TAIL = 2**31
InnerPath = Annotated[str, Depends(inner_path)]


@router.get("/{ref}/logs", response_model=None)
async def logs(
    context: ContextDep,
    ref: str,
    *,
    follow: Flag = False,
    since: Seconds = 0,
    until: Seconds = 0,
    tail: Annotated[int | None, Query(ge=0, le=_MAX_TAIL)] = None,
    stdout: Flag = True,
    stderr: Flag = True,
) -> Events:
    """The log, line by line."""
    await context.engine.inspect(ref)
    lines = context.engine.logs(ref, follow=follow, since=since, until=until, tail=tail)
    wanted = {number for number, chosen in ((STDOUT, stdout), (STDERR, stderr)) if chosen}
    return Events(context, _log_entries(cast("AsyncGenerator[LogLine, None]", lines), wanted))


@router.get("/{ref}/stats", response_model=None)
async def stats(context: ContextDep, ref: str, stream: Flag = False) -> Json[Stats] | Events:
    """Present use; with `stream` every second."""
    if stream:
        return Events(context, _samples(context.engine, ref))
    return Json(await context.engine.stats(ref))


@router.get("/{ref}/archive", response_model=None)
async def archive_out(context: ContextDep, ref: str, path: InnerPath) -> Tar:
    """A path inside as a tar stream."""
    return Tar(context, context.engine.archive_out(ref, path))


@router.put("/{ref}/archive", response_model=None, status_code=204)
async def archive_in(request: Request, engine: EngineDep, ref: str, path: InnerPath) -> Empty:
    """Unpack a tar stream into an existing folder."""
    await engine.archive_in(ref, path, upload(request))
    return Empty()


@router.get("/{ref}/export", response_model=None)
async def export(context: ContextDep, ref: str) -> Tar:
    """Its whole root as a tar stream."""
    return Tar(context, context.engine.export(ref))


def log_entry(line: LogLine) -> dict[str, Any]:
    """One line as JSON: `text` where it is UTF-8, else `base64`."""
    entry: dict[str, Any] = {"at": line.at, "stream": line.stream}
    try:
        entry["text"] = line.data.decode()
    except UnicodeDecodeError:
        entry["base64"] = base64.b64encode(line.data).decode()
    return entry


async def _log_entries(lines: AsyncGenerator[LogLine, None], wanted: set[int]) -> AsyncIterator[dict[str, Any]]:
    async with aclosing(lines):
        async for line in lines:
            if line.stream in wanted:
                yield log_entry(line)


async def _samples(engine: Engine, ref: str) -> AsyncIterator[Stats]:
    while True:
        yield await engine.stats(ref)
        await asyncio.sleep(STATS_INTERVAL)
