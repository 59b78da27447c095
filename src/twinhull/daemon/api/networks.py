"""Routes of networks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from twinhull.daemon.api.answers import Empty, Json
from twinhull.daemon.api.bodies import Route, Strict
from twinhull.daemon.api.context import EngineDep, refuse_unknown_query
from twinhull.engine.base import NetworkSpec, NetworkView

router = APIRouter(prefix="/networks", tags=["networks"], route_class=Route, dependencies=[Depends(refuse_unknown_query)])


@router.get("", response_model=None)
async def list_networks(engine: EngineDep) -> Json[tuple[NetworkView, ...]]:
    """All networks."""
    return Json(await engine.networks())


@router.post("", response_model=None, status_code=201)
async def create(engine: EngineDep, spec: Annotated[NetworkSpec, Strict()]) -> Json[NetworkView]:
    """Make one."""
    return Json(await engine.network_create(spec), 201)


@router.post("/prune", response_model=None)
async def prune(engine: EngineDep) -> Json[tuple[str, ...]]:
    """Remove those without instances. Answers their names."""
    return Json(await engine.network_prune())


@router.get("/{ref}", response_model=None)
async def inspect(engine: EngineDep, ref: str) -> Json[NetworkView]:
    """All about one."""
    return Json(await engine.network(ref))


@router.delete("/{ref}", response_model=None, status_code=204)
async def remove(engine: EngineDep, ref: str) -> Empty:
    """Remove one that no instance uses."""
    await engine.network_remove(ref)
    return Empty()
