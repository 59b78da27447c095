"""Services that may sleep: whom the activator stands in for, and what the engine asks of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twinhull.engine.apps.state import App
from twinhull.spec.app import ServiceSpec


class Activator(Protocol):
    """Holds what comes for a service that sleeps. `service`: "APP/SERVICE"."""

    on_wanted: Callable[[str], None]
    """Called at once when somebody waits for a service that has nobody."""

    def ready(self, service: str, addresses: tuple[str, ...]) -> None:
        """Who serves now; nobody: it sleeps."""

    def waiting(self, service: str) -> int:
        """Requests and connections that are held."""

    def open_connections(self, service: str) -> int:
        """Of those that were handed over: how many are open."""


class Nobody:
    """No activator: whoever asks a service that sleeps is refused."""

    def __init__(self) -> None:
        self.on_wanted: Callable[[str], None] = lambda _service: None

    def ready(self, service: str, addresses: tuple[str, ...]) -> None:
        """Nothing waits."""

    def waiting(self, service: str) -> int:
        """Nobody."""
        return 0

    def open_connections(self, service: str) -> int:
        """None."""
        return 0


def may_sleep(app: App, spec: ServiceSpec) -> bool:
    """Whether somebody has to stand in for the service now and then."""
    wanted = app.wanted
    return (
        spec.scale is not None
        and not spec.scale.min
        and not spec.job
        and not wanted.removed
        and spec.name in wanted.active
        and spec.name not in wanted.stopped
    )
