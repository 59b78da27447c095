"""Routes of snapshots of applications."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends

from twinhull.daemon.api.answers import Empty, Json
from twinhull.daemon.api.bodies import Route, Strict
from twinhull.daemon.api.context import EngineDep, refuse_unknown_query
from twinhull.engine.base import SnapshotView

router = APIRouter(prefix="/snapshots", tags=["snapshots"], route_class=Route, dependencies=[Depends(refuse_unknown_query)])


@dataclass(frozen=True, slots=True)
class SnapshotSpec:
    """`snapshot create`."""

    instance: str


@router.get("", response_model=None)
async def list_snapshots(engine: EngineDep) -> Json[tuple[SnapshotView, ...]]:
    """All snapshots, the latest first."""
    return Json(await engine.snapshots())


@router.post("", response_model=None, status_code=201)
async def create(engine: EngineDep, spec: Annotated[SnapshotSpec, Strict()]) -> Json[SnapshotView]:
    """Make one of a running instance, in the place of one that is there."""
    return Json(await engine.snapshot_create(spec.instance), 201)


@router.delete("/{key}", response_model=None, status_code=204)
async def remove(engine: EngineDep, key: str) -> Empty:
    """Remove one, by the beginning of its key."""
    await engine.snapshot_remove(key)
    return Empty()
