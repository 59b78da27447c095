"""Routes of external secrets. A content comes in as the body, never in an address, and no route answers with it."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.exceptions import HTTPException

from twinhull.daemon.api.answers import Empty, Json
from twinhull.daemon.api.bodies import Route, upload
from twinhull.daemon.api.context import EngineDep, Flag, refuse_unknown_query
from twinhull.engine.base import SecretView
from twinhull.engine.launch import FILE_LIMIT

router = APIRouter(prefix="/secrets", tags=["secrets"], route_class=Route, dependencies=[Depends(refuse_unknown_query)])


@router.get("", response_model=None)
async def list_secrets(engine: EngineDep) -> Json[tuple[SecretView, ...]]:
    """All external secrets."""
    return Json(await engine.secrets())


@router.post("", response_model=None, status_code=201)
async def create(engine: EngineDep, request: Request, name: str, replace: Flag = False) -> Json[SecretView]:
    """Keep the body under a name; with `replace` also if there is one."""
    content = bytearray()
    async for chunk in upload(request):
        content += chunk
        if len(content) > FILE_LIMIT:
            raise HTTPException(413, f"a secret has at most {FILE_LIMIT} bytes")
    return Json(await engine.secret_create(name, bytes(content), replace=replace), 201)


@router.get("/{name}", response_model=None)
async def inspect(engine: EngineDep, name: str) -> Json[SecretView]:
    """All about one, without its content."""
    return Json(await engine.secret(name))


@router.delete("/{name}", response_model=None, status_code=204)
async def remove(engine: EngineDep, name: str, force: Flag = False) -> Empty:
    """Remove one that no application uses; with `force` it may be in use, or missing already."""
    await engine.secret_remove(name, force=force)
    return Empty()
