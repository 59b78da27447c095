"""What every route needs: the engine, the configuration, and whether the daemon is about to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, Query, params
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from pydantic import BeforeValidator
from starlette.requests import HTTPConnection

from twinhull.daemon.config import Config
from twinhull.engine.base import Engine
from twinhull.errors import TwinhullError, UserError
from twinhull.instance.base import Session

_log = logging.getLogger("twinhull.api")

Filters = dict[str, tuple[str, ...]]


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(frozen=True, slots=True)
class Context:
    """One application's surroundings. `closing` is set when streams shall end; `idle` while none is open."""

    engine: Engine
    config: Config
    stop: Callable[[bool], None]
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=_set_event)
    streams: set[object] = field(default_factory=set)
    detached: set[asyncio.Task[None]] = field(default_factory=set)
    """Drains of execs that nobody waits for."""

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        """Count a stream while it is open."""
        self.streams.add(stream)
        self.idle.clear()
        try:
            yield
        finally:
            self.streams.discard(stream)
            if not self.streams:
                self.idle.set()

    def keep(self, session: Session) -> None:
        """Let a detached exec run to its end, its output dropped, so that it never blocks on a full pipe."""
        task = asyncio.create_task(_drain(session), name="exec-detached")
        self.detached.add(task)
        task.add_done_callback(self.detached.discard)


def context_of(connection: HTTPConnection) -> Context:
    """The application's context."""
    context: Context = connection.app.state.context
    return context


async def _context(connection: HTTPConnection) -> Context:
    return context_of(connection)


async def _engine(connection: HTTPConnection) -> Engine:
    return context_of(connection).engine


async def _filters(filter: Annotated[list[str], Query(default_factory=list, description="key=value; repeats")]) -> Filters:
    found: dict[str, list[str]] = {}
    for text in filter:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"filter {text!r} is not key=value")
        found.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in found.items()}


async def inner_path(
    connection: HTTPConnection, path: Annotated[str, Query(min_length=1, description="absolute, inside the instance")]
) -> str:
    """A path as it is inside: bytes that aren't UTF-8 come through as surrogates."""
    if "\N{REPLACEMENT CHARACTER}" in path:
        raw = parse_qs(connection.scope["query_string"].decode("latin-1"), errors="surrogateescape")
        path = raw["path"][-1]
    if not path.startswith("/") or "\0" in path:
        raise UserError(f"path {path!r} is not absolute" if "\0" not in path else "a path can't contain NUL")
    return path


async def refuse_unknown_query(request: HTTPConnection) -> None:
    """A misspelt query parameter is an error, not nothing (`?forse=true`)."""
    if not request.scope["query_string"]:
        return
    known = _known_query(request.scope["route"].dependant)
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise UserError(f"unknown query parameter {unknown[0]!r}", f"known here: {', '.join(sorted(known)) or 'none'}")


def _known_query(dependant: Dependant) -> set[str]:
    """The names of a route's query parameters, its dependencies' included."""
    fields = get_flat_params(dependant)
    return {field.alias for field in fields if isinstance(field.field_info, params.Query)}


async def _drain(session: Session) -> None:
    try:
        async for _ in session.output():
            pass
        await session.wait()
        await session.close()
    except TwinhullError as error:
        _log.warning("detached exec: %s", error)


def _flag(value: object) -> object:
    """`?all` is `?all=true`."""
    return True if value == "" else value


EngineDep = Annotated[Engine, Depends(_engine)]
ContextDep = Annotated[Context, Depends(_context)]
FiltersDep = Annotated[Filters, Depends(_filters)]
Flag = Annotated[bool, BeforeValidator(_flag), Query()]
Seconds = Annotated[float, Query(ge=0, allow_inf_nan=False, le=4e9)]
"""A time or a span in seconds."""
