"""Routes of applications."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query

from twinhull.daemon.api.answers import Events, Json
from twinhull.daemon.api.bodies import Route, Strict
from twinhull.daemon.api.context import ContextDep, EngineDep, Flag, refuse_unknown_query
from twinhull.engine.apps.base import AppView, RevisionView, ScaleView, Step, UpOptions
from twinhull.errors import UserError
from twinhull.spec.app import AppSpec
from twinhull.spec.instance import InstanceSpec

router = APIRouter(prefix="/apps", tags=["apps"], route_class=Route, dependencies=[Depends(refuse_unknown_query)])
Services = Annotated[list[str], Query(default_factory=list, description="repeats; none: all")]


Grace = Annotated[float | None, Query(ge=0, le=86400, description="seconds until a kill; left out: each service's own")]


async def _options(
    recreate: Services,
    service: Services,
    cause: Annotated[str, Query(max_length=200)] = "up",
    *,
    remove_orphans: Flag = False,
    renew_volumes: Flag = False,
    no_deps: Flag = False,
    one_off: Flag = False,
) -> UpOptions:
    return UpOptions(
        cause, remove_orphans, tuple(service), tuple(recreate), secrets.token_hex(4), renew_volumes, no_deps=no_deps, one_off=one_off
    )


@router.get("", response_model=None)
async def list_apps(engine: EngineDep) -> Json[tuple[AppView, ...]]:
    """All applications."""
    return Json(await engine.apps.list())


@router.put("/{name}", response_model=None)
async def up(
    engine: EngineDep, name: str, spec: Annotated[AppSpec, Strict()], options: Annotated[UpOptions, Depends(_options)]
) -> Json[AppView]:
    """Make this the wanted state. Answers at once; `watch` tells how it goes."""
    _check_name(name, spec)
    return Json(await engine.apps.up(spec, options))


@router.post("/{name}/plan", response_model=None)
async def dry_run(
    engine: EngineDep, name: str, spec: Annotated[AppSpec, Strict()], options: Annotated[UpOptions, Depends(_options)]
) -> Json[tuple[Step, ...]]:
    """What `PUT` would do, and why."""
    _check_name(name, spec)
    return Json(await engine.apps.dry_run(spec, options))


@router.get("/{name}", response_model=None)
async def inspect(engine: EngineDep, name: str) -> Json[AppView]:
    """All about one."""
    return Json(await engine.apps.view(name))


@router.get("/{name}/spec", response_model=None)
async def spec(engine: EngineDep, name: str) -> Json[AppSpec]:
    """As wanted now, without secret values."""
    return Json(await engine.apps.spec(name))


@router.delete("/{name}", response_model=None)
async def down(engine: EngineDep, name: str, volumes: Flag = False, timeout: Grace = None) -> Json[tuple[str, ...]]:
    """Stop and remove everything of it. Answers when it is gone: which networks and volumes stay because others use them, and who."""
    return Json(await engine.apps.down(name, volumes=volumes, timeout=timeout))


@router.get("/{name}/watch", response_model=None)
async def watch(context: ContextDep, name: str) -> Events:
    """The application now and after every change."""
    return Events(context, cast("AsyncGenerator[AppView, None]", context.engine.apps.watch(name)))


@router.post("/{name}/scale", response_model=None)
async def scale(engine: EngineDep, name: str, counts: Annotated[dict[str, int], Strict()]) -> Json[AppView]:
    """Set the number of instances of services."""
    return Json(await engine.apps.scale(name, counts))


@router.post("/{name}/stop", response_model=None)
async def stop(engine: EngineDep, name: str, service: Services, timeout: Grace = None) -> Json[AppView]:
    """End the instances, keep what is wanted."""
    return Json(await engine.apps.stop(name, tuple(service), timeout))


@router.post("/{name}/start", response_model=None)
async def start(engine: EngineDep, name: str, service: Services) -> Json[AppView]:
    """Start what was stopped."""
    return Json(await engine.apps.start(name, tuple(service)))


@router.post("/{name}/restart", response_model=None)
async def restart(engine: EngineDep, name: str, service: Services, timeout: Grace = None) -> Json[AppView]:
    """Replace every instance by one of the same kind."""
    return Json(await engine.apps.restart(name, tuple(service), timeout))


@router.get("/{name}/revisions", response_model=None)
async def history(engine: EngineDep, name: str) -> Json[tuple[RevisionView, ...]]:
    """What was wanted, and when; the newest last."""
    return Json(await engine.apps.history(name))


@router.post("/{name}/rollback", response_model=None)
async def rollback(engine: EngineDep, name: str, revision: Annotated[int, Query(ge=0, le=2**31)] = 0) -> Json[AppView]:
    """Make an earlier revision the wanted one; 0: the one before."""
    return Json(await engine.apps.rollback(name, revision))


@router.post("/{name}/rollout", response_model=None)
async def rollout(
    engine: EngineDep, name: str, verb: Annotated[str, Query(pattern="^(pause|resume|abort)$")], service: Services
) -> Json[AppView]:
    """Hold a change that is under way, go on with it, or go back to what was."""
    return Json(await engine.apps.rollout(name, verb, tuple(service)))


@router.post("/{name}/isolate", response_model=None)
async def isolate(engine: EngineDep, name: str, service: str, runtime: str) -> Json[AppView]:
    """Move a service into another hull."""
    return Json(await engine.apps.isolate(name, service, runtime))


@router.get("/{name}/services/{service}/scale", response_model=None)
async def scale_explain(engine: EngineDep, name: str, service: str) -> Json[ScaleView]:
    """Why a service that is scaled by itself has as many instances as it has: inputs, wishes, bounds."""
    return Json(await engine.apps.scale_explain(name, service))


@router.post("/{name}/services/{service}/one-off", response_model=None)
async def one_off(engine: EngineDep, name: str, service: str, spec: Annotated[AppSpec, Strict()]) -> Json[InstanceSpec]:
    """What `run SERVICE` starts from, as this file has it; its networks and volumes are made, where they are missing."""
    _check_name(name, spec)
    return Json(await engine.apps.one_off(spec, service))


def _check_name(name: str, spec: AppSpec) -> None:
    if spec.name != name:
        raise UserError(f"the application in the body is {spec.name!r}, in the path {name!r}")
