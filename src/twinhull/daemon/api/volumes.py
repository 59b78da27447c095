"""Routes of named volumes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from twinhull.daemon.api.answers import Empty, Json
from twinhull.daemon.api.bodies import Route, Strict
from twinhull.daemon.api.context import EngineDep, Flag, refuse_unknown_query
from twinhull.engine.base import VolumeSpec, VolumeView

router = APIRouter(prefix="/volumes", tags=["volumes"], route_class=Route, dependencies=[Depends(refuse_unknown_query)])


@router.get("", response_model=None)
async def list_volumes(engine: EngineDep) -> Json[tuple[VolumeView, ...]]:
    """All volumes."""
    return Json(await engine.volumes())


@router.post("", response_model=None, status_code=201)
async def create(engine: EngineDep, spec: Annotated[VolumeSpec, Strict()]) -> Json[VolumeView]:
    """Make one."""
    return Json(await engine.volume_create(spec), 201)


@router.post("/prune", response_model=None)
async def prune(engine: EngineDep, all: Flag = False) -> Json[tuple[str, ...]]:
    """Remove anonymous ones that nothing uses; with `all` named ones too. Answers their names."""
    return Json(await engine.volume_prune(all=all))


@router.get("/{name}", response_model=None)
async def inspect(engine: EngineDep, name: str) -> Json[VolumeView]:
    """All about one."""
    return Json(await engine.volume(name))


@router.delete("/{name}", response_model=None, status_code=204)
async def remove(engine: EngineDep, name: str, force: Flag = False) -> Empty:
    """Remove one that nothing uses; with `force` it may be missing already."""
    await engine.volume_remove(name, force=force)
    return Empty()
