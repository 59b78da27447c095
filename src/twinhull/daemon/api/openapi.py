"""The OpenAPI 3.1 document: FastAPI's for paths, parameters and bodies; answers and problems are added here.

Routes answer with ready responses, because building a model of every answer would double the daemon's start. What they answer
with is written in their return types (`Json[InstanceView]`), and read from there when somebody asks for the document.
"""

from __future__ import annotations

from typing import Any, get_args, get_origin, get_type_hints

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from twinhull.daemon.api.answers import Empty, Events, Json, Metrics, Tar

_REFERENCE = "#/components/schemas/{model}"
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457, with the error's code, a hint, and for cannot-run the exit code that a shell would give.",
    "required": ["type", "title", "status", "detail", "code", "hint"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"enum": ["invalid", "not-found", "conflict", "unsupported", "cannot-run", "temporary", "internal"]},
        "hint": {"type": "string"},
        "exit_code": {"type": "integer"},
        "retry_after": {"type": "number"},
    },
}
_DEFAULT = {
    "description": "Refused or failed",
    "content": {"application/problem+json": {"schema": {"$ref": _REFERENCE.format(model="Problem")}}},
}


def document(app: FastAPI, routes: list[APIRoute]) -> dict[str, Any]:
    """The whole document."""
    found = get_openapi(title=app.title, version=app.version, openapi_version=app.openapi_version, routes=app.routes)
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _PROBLEM
    for route in routes:
        operation = found["paths"][f"/v1{route.path}"][next(iter(route.methods or ())).lower()]
        operation["responses"] = _responses(route, schemas) | {"default": _DEFAULT}
        if "upload" in route.endpoint.__code__.co_names:
            operation["requestBody"] = {"required": True, "content": {"application/x-tar": {"schema": {}}}}
    return found


def _responses(route: APIRoute, schemas: dict[str, Any]) -> dict[str, Any]:
    """By status, from the return type."""
    kind = get_type_hints(route.endpoint)["return"]
    kinds = get_args(kind) if get_origin(kind) not in (Json, None) else (kind,)
    content: dict[str, Any] = {}
    for one in kinds:
        content |= _content(one, schemas)
    status = str(route.status_code or 200)
    return {status: {"description": "Done", **({"content": content} if content else {})}}


def _content(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if kind is Empty:
        return {}
    if kind is Metrics:
        return {"text/plain": {"schema": {"type": "string"}}}
    if kind in (Events, Tar):
        return {kind.media_type: {"schema": {"type": "string"} if kind is Events else {}}}
    (value,) = get_args(kind)
    schema = TypeAdapter(value).json_schema(mode="serialization", ref_template=_REFERENCE)
    for name, definition in schema.pop("$defs", {}).items():
        schemas.setdefault(name, definition)
    return {"application/json": {"schema": schema}}
