"""The application: routers, errors, audit. `create_app` is pure composition and starts nothing."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Response, WebSocket
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twinhull import __version__
from twinhull.daemon.api import (
    apps,
    archives,
    images,
    instances,
    metrics,
    networks,
    openapi,
    problems,
    secrets,
    snapshots,
    streams,
    system,
    volumes,
)
from twinhull.daemon.api.answers import encode
from twinhull.daemon.api.context import Context
from twinhull.daemon.config import Config
from twinhull.engine.base import Engine

_ROUTERS = (
    system.router,
    instances.router,
    archives.router,
    images.router,
    networks.router,
    volumes.router,
    streams.router,
    apps.router,
    snapshots.router,
    secrets.router,
    metrics.router,
)
_READING = frozenset(("GET", "HEAD", "OPTIONS"))
_audit = logging.getLogger("twinhull.audit")


def create_app(engine: Engine, config: Config, stop: Callable[[bool], None]) -> FastAPI:
    """The API over an engine. `stop(all)` is called for `POST /v1/daemon/stop` and must return at once."""
    app = FastAPI(title="Twinhull", version=__version__, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.context = Context(engine, config, stop)
    for router in _ROUTERS:
        app.include_router(router, prefix="/v1")
    app.add_api_route("/v1/openapi.json", _document_route(app), include_in_schema=False, response_model=None)
    app.add_api_websocket_route("/{path:path}", _no_such_socket)
    app.add_middleware(Audit)
    problems.install(app)
    return app


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application."""
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return openapi.document(app, routes)


class Audit:
    """ASGI: who changed what, with what result, in the log `twinhull.audit`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and note the status of what isn't only reading."""
        if scope["type"] == "lifespan" or scope.get("method") in _READING or not _audit.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        told = False

        async def note(message: Message) -> None:
            nonlocal told
            if not told and (status := _status(message)):
                told = True
                _tell(scope, status)
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            if not told:  # whatever it was, it is answered further out, as an internal error
                _tell(scope, 500)


def _status(message: Message) -> int:
    """The status that a message decides, else 0."""
    if message["type"] in ("http.response.start", "websocket.http.response.start"):
        return int(message["status"])
    return 101 if message["type"] == "websocket.accept" else 0


def _tell(scope: Scope, status: int) -> None:
    _audit.info("%s %s by %s: %d", scope.get("method", "WS"), scope["path"], _who(scope), status)


def _who(scope: Scope) -> str:
    peer = scope.get("state", {}).get("peer")
    return str(peer) if peer else f"tcp {(scope.get('client') or ('?',))[0]}"


async def _no_such_socket(socket: WebSocket) -> None:
    """The same 404 for a WebSocket as for everything else."""
    await socket.send_denial_response(problems.answer(HTTPException(404)))


def _document_route(app: FastAPI) -> Callable[[], Any]:
    cached = functools.cache(lambda: encode(document(app)))

    async def openapi_document() -> Response:
        return Response(cached(), media_type="application/json")

    return openapi_document
