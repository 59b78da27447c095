"""Clients of the daemon's API.

`Client` and `AsyncClient` are typed, mirror `Engine`, and are loaded only when asked for; `thin` is the light
transport under the CLI's hot verbs. Importing this package itself costs nothing, and must stay that way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinhull.client.asynchronous import AsyncClient
    from twinhull.client.sync import Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """Load a client class at its first use (PEP 562)."""
    if name == "Client":
        from twinhull.client.sync import Client

        return Client
    if name == "AsyncClient":
        from twinhull.client.asynchronous import AsyncClient

        return AsyncClient
    raise AttributeError(name)
