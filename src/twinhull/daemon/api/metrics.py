"""Routes of what goes on: traffic at the gateway, and everything that is counted, for Prometheus."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Header

from twinhull import __version__
from twinhull.daemon.api.answers import Json, Metrics
from twinhull.daemon.api.bodies import Route
from twinhull.daemon.api.context import ContextDep, EngineDep, refuse_unknown_query
from twinhull.engine.apps.base import AppView, ScaleView
from twinhull.engine.base import Engine, InstanceView
from twinhull.errors import TwinhullError
from twinhull.gateway.base import BackendStats
from twinhull.instance.base import Stats

router = APIRouter(tags=["metrics"], route_class=Route, dependencies=[Depends(refuse_unknown_query)])
_PATIENCE = 1.0
"""Seconds that one instance's figures are waited for: a guest may be slow, or silent on purpose."""
_AT_ONCE = 32


@router.get("/traffic", response_model=None)
async def traffic(engine: EngineDep) -> Json[tuple[BackendStats, ...]]:
    """What the gateway counts, by service; nothing where it doesn't run."""
    return Json(await engine.traffic())


@router.get("/scale", response_model=None)
async def scale(engine: EngineDep) -> Json[tuple[ScaleView, ...]]:
    """Of every service that scales by itself, as `/v1/apps/{name}/services/{service}/scale`."""
    return Json(await _scales(engine, await engine.apps.list()))


@router.get("/metrics", response_model=None)
async def metrics(context: ContextDep, accept: Annotated[str, Header()] = "") -> Metrics:
    """Everything that is counted, in Prometheus' text or, if asked for, OpenMetrics."""
    from twinhull.daemon.exposition import Snapshot, render  # 50 ms that only those pay who ask

    engine = context.engine
    instances, apps, traffic = await asyncio.gather(engine.list(all=True), engine.apps.list(), engine.traffic())
    stats, scales = await asyncio.gather(_stats(engine, instances), _scales(engine, apps))
    snapshot = Snapshot(__version__, apps, scales, traffic, instances, stats, len(context.streams))
    return Metrics(*await asyncio.to_thread(render, snapshot, accept))


async def _scales(engine: Engine, apps: tuple[AppView, ...]) -> tuple[ScaleView, ...]:
    async def one(app: str, service: str) -> ScaleView | None:
        try:
            return await engine.apps.scale_explain(app, service)
        except TwinhullError:  # it isn't scaled, or has gone meanwhile
            return None

    found = await asyncio.gather(*(one(app.name, service.name) for app in apps for service in app.services))
    return tuple(each for each in found if each is not None)


async def _stats(engine: Engine, instances: tuple[InstanceView, ...]) -> dict[str, Stats]:
    """By instance id; of those that run, and answer in time."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(identity: str) -> tuple[str, Stats] | None:
        try:
            async with room, asyncio.timeout(_PATIENCE):
                return identity, await engine.stats(identity)
        except (TwinhullError, TimeoutError):
            return None

    found = await asyncio.gather(*(one(each.id) for each in instances if each.state == "running"))
    return dict(each for each in found if each is not None)
