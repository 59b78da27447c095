"""Which of a file's services are in force. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from twinhull.compose import fields
from twinhull.compose.tree import ComposeError, Map, did_you_mean

EVERY = "*"


def choose(services: Map, profiles: Iterable[str], wanted: Iterable[str] = ()) -> Map:
    """Services without a profile, with one of these, or wanted by name, with what those need. Raises ComposeError."""
    active = set(profiles)
    for name in wanted:
        if name not in services:
            raise ComposeError(None, f"there is no service {name!r}{did_you_mean(name, services)}")
        active |= set(fields.words(services[name], "profiles"))
    chosen = Map(services.mark)
    for name, service in services.items():
        own = set(fields.words(service, "profiles"))
        if not own or EVERY in active or own & active:
            chosen.put(name, service, services.at(name))
    for name, service in chosen.items():
        _without_optional(name, service, services, chosen)
    return chosen


def _without_optional(name: str, service: Map, services: Map, chosen: Map) -> None:
    """Dependencies that aren't in force are dropped where they aren't required."""
    dependencies = service.sub("depends_on")
    for other in [other for other in dependencies if other not in chosen]:
        if not fields.flag(dependencies[other], "required", default=True):
            del dependencies[other]
        elif other in services:
            own = ", ".join(fields.words(services[other], "profiles"))
            raise ComposeError(dependencies.at(other), f"service {name!r} depends on {other!r}, whose profile isn't active: {own}")
