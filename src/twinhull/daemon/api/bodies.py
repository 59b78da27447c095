"""Request bodies: bounded in size, and strict all the way down.

The dataclasses of `spec` and `engine` know nothing of pydantic. A configuration given to a plain container type reaches every
dataclass below it, so the schema of `Annotated[X, Strict()]` is taken out of a tuple's. Clients, which must tolerate the
fields of a later daemon, use the same classes without it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from twinhull.errors import TemporaryError

MAX_JSON = 4 * 1024 * 1024
"""Bytes of a JSON body."""
_INT64 = 2**63 - 1
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

T = TypeVar("T")


class Strict:
    """Annotation: refuse unknown fields, NaN, and integers beyond 64 bits, at every depth."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = _inlined(TypeAdapter(tuple[source], config=_CONFIG).core_schema, {})
        _bound(schema)
        return schema["items_schema"][0]  # type: ignore[no-any-return]


def strict_adapter(kind: type[T]) -> TypeAdapter[T]:
    """For JSON that doesn't come as a request's body: a WebSocket's first message."""
    return TypeAdapter(Annotated[kind, Strict()])  # type: ignore[arg-type]


class BoundedRequest(Request):
    """A request whose JSON body is read only up to MAX_JSON. Streams (`stream()`) are the endpoint's own affair."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._body = await self._read()
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = json.loads(await self.body())
        return self._json

    async def _read(self) -> bytes:
        data = bytearray()
        if int(self.headers.get("content-length") or 0) > MAX_JSON:
            raise HTTPException(413, f"a JSON body has at most {MAX_JSON} bytes")
        async for chunk in self.stream():
            data += chunk
            if len(data) > MAX_JSON:
                raise HTTPException(413, f"a JSON body has at most {MAX_JSON} bytes")
        return bytes(data)


class Route(APIRoute):
    """FastAPI's route with a bounded body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handler(BoundedRequest(request.scope, request.receive))

        return bounded


async def upload(request: Request) -> AsyncIterator[bytes]:
    """A streamed body, read only as fast as it is consumed. Raises TemporaryError if the client breaks off."""
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise TemporaryError("the client broke off its upload") from error


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A core schema without definitions: a schema inside another can't have its own. Our bodies aren't recursive.

    What is used once keeps its name, for the OpenAPI document.
    """
    if isinstance(schema, list | tuple):
        return [_inlined(value, definitions) for value in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "definitions":
        nameless = {each["ref"]: {key: value for key, value in each.items() if key != "ref"} for each in schema["definitions"]}
        return _inlined(schema["schema"], definitions | nameless)
    if schema.get("type") == "definition-ref":
        return _inlined(definitions[schema["schema_ref"]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _bound(schema: Any) -> None:
    """Give every integer of a core schema the range of 64 bits."""
    if isinstance(schema, dict):
        if schema.get("type") == "int":
            schema.setdefault("ge", -_INT64)
            schema.setdefault("le", _INT64)
        for value in schema.values():
            _bound(value)
    elif isinstance(schema, list):
        for value in schema:
            _bound(value)
