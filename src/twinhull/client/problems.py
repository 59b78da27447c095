"""From the daemon's problem objects back to the classes of `twinhull.errors`; light enough for the thin transport."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinhull.errors import (
    CannotRunError,
    ConflictError,
    NotFoundError,
    PermanentError,
    TemporaryError,
    TwinhullError,
    UnsupportedError,
    UserError,
)

_PLAIN: dict[str, type[TwinhullError]] = {
    kind.code: kind for kind in (UserError, NotFoundError, ConflictError, UnsupportedError, PermanentError)
}


class UnreachableError(TemporaryError):
    """No daemon answers, or it hung up in the middle of an answer."""


def error_of(problem: Any, status: int = 500) -> TwinhullError:
    """The error that a problem object stands for; whatever the daemon sent, something sensible."""
    fields: Mapping[str, Any] = problem if isinstance(problem, Mapping) else {}
    message = str(fields.get("detail") or fields.get("title") or f"the daemon answered with status {status}")
    hint = str(fields.get("hint") or "")
    code = fields.get("code")
    if code == CannotRunError.code:
        return CannotRunError(message, hint, int(_number(fields.get("exit_code"), 126)))
    if code == TemporaryError.code:
        return TemporaryError(message, hint, _number(fields.get("retry_after"), 1.0))
    return _PLAIN.get(str(code), UserError if status < 500 else PermanentError)(message, hint)


def _number(value: Any, default: float) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else default
