"""nftables in this process, through libnftables.so.1: a change takes a third of a millisecond, `nft -f` sixteen.

Every call of `run` is one transaction: all of it happens or nothing. One context belongs to one thread at a time; the
library opens its netlink socket anew for each context, in the network namespace of the thread that makes it.
Source: libnftables(3).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import json
from typing import Any

from twinhull.errors import PermanentError

_JSON = 1 << 4
_LIBRARY = "libnftables.so.1"


class NftError(PermanentError):
    """nftables refused a transaction; nothing of it was applied."""


@functools.cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise PermanentError(f"load {_LIBRARY}: {error}", "install the package libnftables1") from error
    context, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("nft_ctx_new", context, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [context]),
        ("nft_ctx_buffer_output", ctypes.c_int, [context]),
        ("nft_ctx_buffer_error", ctypes.c_int, [context]),
        ("nft_ctx_get_output_buffer", text, [context]),
        ("nft_ctx_get_error_buffer", text, [context]),
        ("nft_ctx_output_set_flags", None, [context, ctypes.c_uint]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [context, text]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Nft:
    """One libnftables context."""

    def __init__(self) -> None:
        self._library = _library()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise PermanentError("open nftables: no context")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str) -> str:
        """Run commands in nft's own language as one transaction. Raises NftError."""
        status = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context)
        error: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        if status != 0:
            raise NftError(f"change nftables: {error.decode('utf-8', 'replace').strip()[:2000]}")
        return output.decode("utf-8", "replace")

    def query(self, command: str) -> list[dict[str, Any]]:
        """The objects that a `list` command answers with, as libnftables-json(5) describes them."""
        self._library.nft_ctx_output_set_flags(self._context, _JSON)
        try:
            found: list[dict[str, Any]] = json.loads(self.run(command) or '{"nftables": []}')["nftables"]
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)
        return found
