"""The only place that turns an error into a status: problem objects (RFC 9457) for HTTP, events and WebSockets.

What Twinhull raised on purpose is told as it is. Anything else is our fault and told as nothing but a number, under which the
traceback is in the daemon's log.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from twinhull.errors import CannotRunError, NotFoundError, PermanentError, TemporaryError, TwinhullError, UserError

MEDIA_TYPE = "application/problem+json"
STREAM_BROKEN = 503
_log = logging.getLogger("twinhull.api")
_SHOWN = 5
"""Validation errors told in one answer."""

Problem = dict[str, Any]


class RefusedError(UserError):
    """A request refused by HTTP's own rules; carries its status."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status


def problem_of(error: BaseException) -> Problem:
    """The problem object of an error. One that wasn't raised on purpose is logged here, and hidden."""
    known = _known(error)
    fields: Problem = {
        "type": "about:blank",
        "title": HTTPStatus(known.status).phrase,
        "status": known.status,
        "detail": known.message,
        "code": known.code,
        "hint": known.hint,
    }
    if isinstance(known, CannotRunError):
        fields["exit_code"] = known.exit_code
    if isinstance(known, TemporaryError):
        fields["retry_after"] = known.retry_after
    return fields


def answer(error: BaseException) -> Response:
    """The HTTP answer to an error."""
    fields = problem_of(error)
    headers = {"Retry-After": str(max(1, math.ceil(fields["retry_after"])))} if "retry_after" in fields else {}
    if isinstance(error, HTTPException) and error.headers:
        headers |= dict(error.headers)
    return Response(encode(fields), fields["status"], headers, MEDIA_TYPE)


def encode(fields: Problem) -> bytes:
    """As JSON; undecodable bytes in a message become replacement characters."""
    safe = {key: _printable(value) if isinstance(value, str) else value for key, value in fields.items()}
    return to_json(safe, inf_nan_mode="null")


def install(app: FastAPI) -> None:
    """Have every error of the application, also the framework's own, answered as a problem."""
    for kind in (TwinhullError, RequestValidationError, WebSocketRequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _handle)


async def _handle(_request: Request, error: Exception) -> Response:
    return answer(error)


def _known(error: BaseException) -> TwinhullError:
    if isinstance(error, TwinhullError):
        return error
    if isinstance(error, (RequestValidationError, WebSocketRequestValidationError)):
        return RefusedError(422, validation_text(error.errors()))
    if isinstance(error, HTTPException):
        return _refused(error)
    number = secrets.token_hex(4)
    _log.error("internal error %s", number, exc_info=error)
    return PermanentError(f"internal error {number}", "the daemon's log has the details under this number")


def _refused(error: HTTPException) -> TwinhullError:
    status = error.status_code
    if status == 404:
        return NotFoundError("no such address in this API", "GET /v1/openapi.json lists them all")
    text = {405: "this address doesn't take that method", 400: "the request can't be read"}.get(status, str(error.detail))
    return RefusedError(status, text)


def validation_text(errors: Sequence[Any]) -> str:
    """Where and what, never the value: it may be a secret."""
    lines = [f"{'.'.join(str(part) for part in entry['loc'])}: {_sentence(entry)}" for entry in errors[:_SHOWN]]
    more = [f"and {len(errors) - _SHOWN} more"] if len(errors) > _SHOWN else []
    return "; ".join([*lines, *more])


def _sentence(entry: Any) -> str:
    texts = {"unexpected_keyword_argument": "unknown field", "missing": "is missing", "missing_argument": "is missing"}
    return texts.get(entry["type"]) or str(entry["msg"])


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
