"""One canonical tree over another: the specification's merge rules. Pure.

mappings    key by key
lists       appended; elements of the same identity (a mount's target, a port, a file's path) replaced in place
scalars     replaced
command, entrypoint, healthcheck.test     replaced whole
!reset      takes the key away;  !override  replaces it whole
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twinhull.compose.text import kind
from twinhull.compose.tree import ComposeError, Map, Seq, copy, dotted

Path = tuple[str, ...]


def _port(item: Any) -> Any:
    return tuple(str(item.get(key, "")) for key in ("host_ip", "published", "target", "protocol")) if isinstance(item, Map) else item


def _by(*keys: str) -> Callable[[Any], Any]:
    """The first of the keys that an element has; a word is its own identity."""
    return lambda item: next((item[key] for key in keys if item.get(key)), None) if isinstance(item, Map) else item


def _before(sign: str) -> Callable[[Any], Any]:
    return lambda item: str(item).partition(sign)[0]


def _device(item: Any) -> Any:
    parts = str(item).split(":")
    return item.get("target") if isinstance(item, Map) else parts[1] if len(parts) > 1 else parts[0]


def _mount_of(folder: str) -> Callable[[Any], Any]:
    def identity(item: Any) -> Any:
        target = str(item.get("target") or item.get("source")) if isinstance(item, Map) else str(item)
        return target if target.startswith("/") else folder + target

    return identity


_SERVICE_LISTS: dict[str, Callable[[Any], Any]] = {
    "configs": _mount_of("/"),
    "devices": _device,
    "env_file": _by("path"),
    "ports": _port,
    "secrets": _mount_of("/run/secrets/"),
    "tmpfs": _before(":"),
    "volumes": _by("target"),
    **dict.fromkeys(("cap_add", "cap_drop", "dns", "dns_opt", "dns_search", "expose", "extra_hosts", "external_links"), str),
    **dict.fromkeys(("group_add", "label_file", "links", "profiles", "security_opt", "volumes_from"), str),
}
"""Lists whose elements have an identity: what it is."""
_SERVICE_REPLACED = {("command",), ("entrypoint",), ("healthcheck", "test")}


def merge(base: Map, over: Map, path: Path = ()) -> Map:
    """`base` changed in place by `over`, which is left alone. Raises ComposeError where the two can't be combined."""
    for key in over.reset:
        base.pop(key, None)
    for key, value in over.items():
        combined = _combine(base[key], value, (*path, key), over) if key in base and key not in over.replaced else copy(value)
        base.put(key, combined, over.at(key))
    base.reset |= over.reset
    return base


def _combine(base: Any, over: Any, path: Path, holder: Map) -> Any:
    inside = path[2:] if path[0] == "services" else ()
    if inside in _SERVICE_REPLACED:
        return copy(over)
    if over is None:
        return base
    if base is None:
        return copy(over)
    if isinstance(base, Map) and isinstance(over, Map):
        if inside == ("logging",) and base.get("driver", over.get("driver")) != over.get("driver", base.get("driver")):
            return copy(over)
        return merge(base, over, path)
    if isinstance(base, Seq) and isinstance(over, Seq):
        return _lists(base, over, path, inside)
    free = inside[:1] == ("ulimits",) or any(step.startswith("x-") for step in path)
    if not free and (isinstance(base, Map | Seq) or isinstance(over, Map | Seq)):
        raise ComposeError(holder.at(path[-1]), f"{dotted(path)} is {kind(over)} here and {kind(base)} in the file before")
    return copy(over)


def _lists(base: Seq, over: Seq, path: Path, inside: Path) -> Seq:
    identity = _SERVICE_LISTS.get(inside[0]) if len(inside) == 1 else None
    if path[0] == "networks" and path[2:] == ("ipam", "config"):
        identity = _by("subnet")
    if inside[:1] == ("networks",) or inside[:1] == ("build",):
        identity = _by("source")
    places = {identity(item): index for index, item in enumerate(base)} if identity else {}
    for item, mark in over.items():
        index = places.get(identity(item)) if identity else None
        if index is None:
            base.add(copy(item), mark)
        else:
            base[index], base.marks[index] = copy(item), mark
    return base
