"""Routes of images. What takes long answers with its progress as events; archives stream in and out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, Query, Request

from twinhull.daemon.api.answers import Empty, Events, Json, Tar
from twinhull.daemon.api.bodies import Route, Strict, upload
from twinhull.daemon.api.context import Context, ContextDep, EngineDep, FiltersDep, Flag, refuse_unknown_query
from twinhull.engine.base import BootstrapSpec, BuildSpec, ImageView

router = APIRouter(prefix="/images", tags=["images"], route_class=Route, dependencies=[Depends(refuse_unknown_query)])


@router.get("", response_model=None)
async def list_images(engine: EngineDep, filters: FiltersDep) -> Json[tuple[ImageView, ...]]:
    """All images."""
    return Json(await engine.images(filters=filters or None))


@router.get("/inspect", response_model=None)
async def inspect(engine: EngineDep, ref: str) -> Json[ImageView]:
    """All about one image."""
    return Json(await engine.image(ref))


@router.get("/history", response_model=None)
async def history(engine: EngineDep, ref: str) -> Json[tuple[dict[str, Any], ...]]:
    """How it came to be, newest first."""
    return Json(await engine.image_history(ref))


@router.delete("", response_model=None)
async def remove(engine: EngineDep, ref: str, force: Flag = False) -> Json[tuple[str, ...]]:
    """Remove a name, and the image with its last one. Answers what was removed."""
    return Json(await engine.image_remove(ref, force=force))


@router.post("/tag", response_model=None, status_code=204)
async def tag(engine: EngineDep, ref: str, name: str) -> Empty:
    """One more name."""
    await engine.image_tag(ref, name)
    return Empty()


@router.post("/prune", response_model=None)
async def prune(engine: EngineDep, all: Flag = False) -> Json[tuple[str, ...]]:
    """Remove images without a name; with `all` every one that no instance uses."""
    return Json(await engine.image_prune(all=all))


@router.post("/build", response_model=None)
async def build(context: ContextDep, spec: Annotated[BuildSpec, Strict()]) -> Events:
    """Build from a Containerfile on the daemon's machine."""
    return _progress(context, context.engine.image_build(spec))


@router.post("/bootstrap", response_model=None)
async def bootstrap(context: ContextDep, spec: Annotated[BootstrapSpec, Strict()]) -> Events:
    """Make a base image from a distribution's archive."""
    return _progress(context, context.engine.image_bootstrap(spec))


@router.post("/pull", response_model=None)
async def pull(context: ContextDep, ref: str, tls_verify: Flag = True) -> Events:
    """Fetch from a registry."""
    return _progress(context, context.engine.image_pull(ref, tls_verify=tls_verify))


@router.post("/push", response_model=None)
async def push(context: ContextDep, ref: str, destination: str = "", tls_verify: Flag = True) -> Events:
    """Send to a registry."""
    return _progress(context, context.engine.image_push(ref, destination, tls_verify=tls_verify))


@router.post("/load", response_model=None)
async def load(request: Request, engine: EngineDep) -> Json[tuple[str, ...]]:
    """Take in a docker or OCI archive (the body, a tar). Answers the names loaded."""
    return Json(await engine.image_load(upload(request)))


@router.post("/import", response_model=None)
async def import_(
    request: Request,
    engine: EngineDep,
    tag: str,
    change: Annotated[list[str] | None, Query(description="a Containerfile instruction; repeats")] = None,
) -> Json[ImageView]:
    """A root file system (the body, a tar) as an image of one layer."""
    return Json(await engine.image_import(upload(request), tag, tuple(change or ())))


@router.get("/save", response_model=None)
async def save(
    context: ContextDep,
    ref: Annotated[list[str], Query(min_length=1, description="repeats")],
    format: Literal["docker-archive", "oci-archive"] = "docker-archive",
) -> Tar:
    """Images as an archive."""
    return Tar(context, context.engine.image_save(tuple(ref), format))


def _progress(context: Context, lines: AsyncIterator[str]) -> Events:
    return Events(context, _line_entries(cast("AsyncGenerator[str, None]", lines)), done=True)


async def _line_entries(lines: AsyncGenerator[str, None]) -> AsyncIterator[dict[str, str]]:
    async with aclosing(lines):
        async for line in lines:
            yield {"line": line}
