"""Routes of instances that answer once; their streams are in `archives` and `streams`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from twinhull.daemon.api.answers import Empty, Json, patiently
from twinhull.daemon.api.bodies import Route, Strict
from twinhull.daemon.api.context import ContextDep, EngineDep, FiltersDep, Flag, Seconds, inner_path, refuse_unknown_query
from twinhull.engine.base import Change, ExitView, ImageView, InstanceView, PathStat
from twinhull.instance.base import Process, Region
from twinhull.spec.instance import InstanceSpec, Resources

router = APIRouter(prefix="/instances", tags=["instances"], route_class=Route, dependencies=[Depends(refuse_unknown_query)])


@dataclass(frozen=True, slots=True)
class InstanceUpdate:
    """Body of `update`: what is left out stays as it is. restart: a policy as in `--restart` ("on-failure:3")."""

    resources: Resources | None = None
    restart: str | None = None


@router.get("", response_model=None)
async def list_instances(engine: EngineDep, filters: FiltersDep, all: Flag = False) -> Json[tuple[InstanceView, ...]]:
    """Running instances; with `all` every one."""
    return Json(await engine.list(all=all, filters=filters or None))


@router.post("", response_model=None, status_code=201)
async def create(engine: EngineDep, spec: Annotated[InstanceSpec, Strict()], start: Flag = False) -> Json[InstanceView]:
    """Make an instance; with `start` also start it."""
    view = await engine.create(spec)
    if start:
        await engine.start(view.id)
        view = await engine.inspect(view.id)
    return Json(view, 201)


@router.get("/{ref}", response_model=None)
async def inspect(engine: EngineDep, ref: str) -> Json[InstanceView]:
    """All about one instance."""
    return Json(await engine.inspect(ref))


@router.delete("/{ref}", response_model=None, status_code=204)
async def remove(engine: EngineDep, ref: str, force: Flag = False, volumes: Flag = False) -> Empty:
    """Remove it; with `force` also while it runs, with `volumes` its anonymous volumes too."""
    await engine.remove(ref, force=force, volumes=volumes)
    return Empty()


@router.post("/{ref}/start", response_model=None, status_code=204)
async def start(engine: EngineDep, ref: str) -> Empty:
    """Run its workload."""
    await engine.start(ref)
    return Empty()


@router.post("/{ref}/stop", response_model=None, status_code=204)
async def stop(engine: EngineDep, ref: str, timeout: Seconds | None = None, signal: str = "") -> Empty:
    """Its stop signal, then after `timeout` seconds KILL."""
    await engine.stop(ref, timeout, signal)
    return Empty()


@router.post("/{ref}/restart", response_model=None, status_code=204)
async def restart(engine: EngineDep, ref: str, timeout: Seconds | None = None) -> Empty:
    """Stop and start."""
    await engine.restart(ref, timeout)
    return Empty()


@router.post("/{ref}/kill", response_model=None, status_code=204)
async def kill(engine: EngineDep, ref: str, signal: str = "KILL") -> Empty:
    """A signal to its first process."""
    await engine.kill(ref, signal)
    return Empty()


@router.post("/{ref}/pause", response_model=None, status_code=204)
async def pause(engine: EngineDep, ref: str) -> Empty:
    """Freeze all its processes."""
    await engine.pause(ref)
    return Empty()


@router.post("/{ref}/unpause", response_model=None, status_code=204)
async def unpause(engine: EngineDep, ref: str) -> Empty:
    """Thaw them."""
    await engine.unpause(ref)
    return Empty()


@router.post("/{ref}/rename", response_model=None, status_code=204)
async def rename(engine: EngineDep, ref: str, name: str) -> Empty:
    """A new name."""
    await engine.rename(ref, name)
    return Empty()


@router.post("/{ref}/update", response_model=None, status_code=204)
async def update(engine: EngineDep, ref: str, change: Annotated[InstanceUpdate, Strict()]) -> Empty:
    """New limits or restart policy, while it runs."""
    await engine.update(ref, change.resources, change.restart)
    return Empty()


@router.post("/{ref}/wait", response_model=None)
async def wait(request: Request, context: ContextDep, ref: str, condition: str = "not-running") -> Json[ExitView] | Empty:
    """Its exit, when it comes. condition: not-running, next-exit, removed, healthy."""
    view = await patiently(request, context, context.engine.wait(ref, condition))
    return Json(view) if view else Empty()


@router.post("/{ref}/exec", response_model=None, status_code=202)
async def exec_detached(engine: EngineDep, context: ContextDep, ref: str, process: Annotated[Process, Strict()]) -> Empty:
    """Run a program inside and don't wait for it; its output is dropped."""
    context.keep(await engine.exec(ref, process))
    return Empty(202)


@router.get("/{ref}/top", response_model=None)
async def top(engine: EngineDep, ref: str) -> Json[tuple[dict[str, str], ...]]:
    """Its processes."""
    return Json(await engine.top(ref))


@router.get("/{ref}/regions", response_model=None)
async def regions(engine: EngineDep, ref: str) -> Json[tuple[Region, ...]]:
    """Of a VM: the addresses that its monitor's devices answer, as a measure of what a hostile guest can work on."""
    return Json(await engine.regions(ref))


@router.get("/{ref}/diff", response_model=None)
async def diff(engine: EngineDep, ref: str) -> Json[tuple[Change, ...]]:
    """Paths changed since the image."""
    return Json(await engine.diff(ref))


@router.get("/{ref}/path", response_model=None)
async def path_stat(engine: EngineDep, ref: str, path: Annotated[str, Depends(inner_path)]) -> Json[PathStat]:
    """One path inside; symbolic links aren't followed at the end."""
    return Json(await engine.path_stat(ref, path))


@router.post("/{ref}/commit", response_model=None, status_code=201)
async def commit(
    engine: EngineDep,
    ref: str,
    tag: str,
    message: str = "",
    change: Annotated[list[str] | None, Query(description="a Containerfile instruction; repeats")] = None,
) -> Json[ImageView]:
    """An image of its present root."""
    return Json(await engine.commit(ref, tag, message=message, changes=tuple(change or ())), 201)
