"""Every error that Twinhull raises on purpose, drawn as one tree.

    TwinhullError                 message for people, hint: what to do next
    ├─ UserError                  the caller's request is wrong (exit 2, HTTP 400)
    │  ├─ NotFoundError           the named thing doesn't exist (HTTP 404)
    │  ├─ ConflictError           the request collides with the present state (HTTP 409)
    │  └─ UnsupportedError        this runtime or machine can't do that (HTTP 422)
    ├─ TemporaryError             the same call may work after `retry_after` seconds (HTTP 503)
    └─ PermanentError             our fault, or the machine's (HTTP 500)

Messages are wrapped verb-first on the way up ("mount layer sha256:…: no space left").
Only `cli/` turns an error into an exit code and only `daemon/api/` into a status.
"""

from __future__ import annotations


class TwinhullError(Exception):
    """Base of all. `str(error)` is the message; `hint` may be empty."""

    status = 500
    code = "internal"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(TwinhullError):
    """The request can't be right, whatever the state of the machine."""

    status = 400
    code = "invalid"


class NotFoundError(UserError):
    """The named image, instance, network or volume isn't there."""

    status = 404
    code = "not-found"


class ConflictError(UserError):
    """Name or port taken, volume in use, instance in the wrong state."""

    status = 409
    code = "conflict"


class UnsupportedError(UserError):
    """The chosen runtime or this machine can't do what was asked; said before anything is made."""

    status = 422
    code = "unsupported"


class CannotRunError(UserError):
    """The command was found but can't be executed (126), or was not found (127), as in Docker."""

    status = 400
    code = "cannot-run"

    def __init__(self, message: str, hint: str = "", exit_code: int = 126) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


class TemporaryError(TwinhullError):
    """Not now; the same call may succeed after `retry_after` seconds."""

    status = 503
    code = "temporary"

    def __init__(self, message: str, hint: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class PermanentError(TwinhullError):
    """The machine or Twinhull itself failed; a retry won't help."""
