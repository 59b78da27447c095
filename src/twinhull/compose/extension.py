"""`x-twinhull` of a service: routes, scaling, rollout. Its schema (x-twinhull.schema.json) has been checked before. Pure."""

from __future__ import annotations

from typing import Any

from twinhull.compose import fields
from twinhull.compose.tree import ComposeError, Map, Seq
from twinhull.errors import UserError
from twinhull.spec import source
from twinhull.spec.app import RolloutSpec, RouteSpec, ScaleSpec, ScaleTarget, Schedule, Strategy

_DURATIONS = ("p95",)
_SOURCED = ("queue", "query")


def routes(extension: Map, exposed: tuple[int, ...]) -> tuple[RouteSpec, ...]:
    """`route`: one or a list. Raises ComposeError."""
    value = extension.get("route")
    if isinstance(value, Map):
        return (_route(value, exposed),)
    return tuple(_route(entry, exposed) for entry in value) if isinstance(value, Seq) else ()


def _route(route: Map, exposed: tuple[int, ...]) -> RouteSpec:
    protocol, tls, port = fields.text(route, "protocol", "http"), fields.text(route, "tls"), fields.whole(route, "port")
    if tls == "passthrough" and protocol != "tcp":
        raise ComposeError(route.at("tls"), "tls: passthrough needs protocol: tcp: the gateway doesn't see inside")
    if protocol == "tcp" and (fields.text(route, "path", "/") != "/" or not route.get("host")):
        raise ComposeError(route.at("protocol"), "protocol: tcp is led by host name alone: give a host and no path")
    if not 0 <= port <= 65535:
        raise ComposeError(route.at("port"), f"port {port} is out of range")
    if not port and len(exposed) > 1:
        raise ComposeError(route.mark, f"the route needs a port: the service has {', '.join(map(str, exposed))}")
    headers = route.sub("headers")
    return RouteSpec(
        host=fields.text(route, "host").lower(),
        path=fields.text(route, "path", "/"),
        port=port,
        protocol=protocol,
        strip=fields.flag(route, "strip"),
        request_headers=_headers(headers, "request"),
        response_headers=_headers(headers, "response"),
        rate_limit=fields.number(route, "rate_limit"),
        auth=fields.text(route, "auth"),
        tls=tls,
        timeout=fields.seconds(route, "timeout", 60.0),
        max_concurrency=fields.whole(route, "max_concurrency"),
    )


def _headers(headers: Map, key: str) -> dict[str, str]:
    found = fields.given(headers, key)
    for name, value in found.items():
        if any(ord(character) < 32 for character in value):
            raise ComposeError(headers.sub(key).at(name), f"header {name}: a value is one line")
    return found


def snapshot(extension: Map) -> tuple[str, bool]:
    """`snapshot`: from what ("" or "app"), and whether the application reconnects to its volumes and secrets."""
    if isinstance(extension.get("snapshot"), Map):
        found = extension.sub("snapshot")
        return fields.text(found, "from"), fields.flag(found, "reconnect")
    return fields.text(extension, "snapshot"), False


def scale(extension: Map) -> ScaleSpec | None:
    """`scale`, or None."""
    if not isinstance(extension.get("scale"), Map):
        return None
    scaling = extension.sub("scale")
    least = fields.whole(scaling, "min", 1)
    most = fields.whole(scaling, "max", max(least, 1))
    if most < max(least, 1):
        raise ComposeError(scaling.at("max"), f"max: {most} is less than min: {least}" if least else "max must be at least 1")
    plain = ScaleSpec()
    return ScaleSpec(
        min=least,
        max=most,
        targets=tuple(_target(scaling.sub("target"), kind) for kind in scaling.sub("target")),
        window=fields.seconds(scaling, "window", plain.window),
        panic_window=fields.seconds(scaling, "panic_window", plain.panic_window),
        scale_down_delay=fields.seconds(scaling, "scale_down_delay", plain.scale_down_delay),
        rate_up=fields.number(scaling, "rate_up"),
        rate_down=fields.number(scaling, "rate_down"),
        schedules=tuple(_schedule(entry) for entry in scaling.seq("schedule")),
        max_concurrency=fields.whole(scaling, "max_concurrency"),
        keep_warm=fields.whole(scaling, "keep_warm"),
        priority=fields.whole(scaling, "priority"),
        auto_resources=fields.flag(scaling, "auto_resources"),
    )


def _target(targets: Map, kind: str) -> ScaleTarget:
    if kind in _SOURCED:
        entry = targets.sub(kind)
        text = fields.text(entry, "source")
        try:
            source.parse(kind, text)
        except UserError as error:
            raise ComposeError(entry.at("source"), error.message, error.hint) from None
        return ScaleTarget(kind, fields.number(entry, "value"), text)
    read: Any = fields.seconds if kind in _DURATIONS else fields.number
    return ScaleTarget(kind, read(targets, kind))


def _schedule(entry: Map) -> Schedule:
    from twinhull.plan import schedule  # time zones and cron: loaded where a file has schedules

    least, length = fields.whole(entry, "min"), fields.seconds(entry, "duration")
    found = Schedule(fields.text(entry, "cron"), least, length, fields.text(entry, "timezone", "UTC"))
    try:
        schedule.check(found)
    except UserError as error:
        raise ComposeError(entry.at("cron"), error.message, error.hint) from None
    return found


def rollout(extension: Map) -> RolloutSpec:
    """`rollout`, or a rolling one."""
    config = extension.sub("rollout")
    strategy = fields.choice(config, "strategy", Strategy, Strategy.ROLLING)
    steps = tuple(int(step) for step in config.get("steps") or ())
    if list(steps) != sorted(set(steps)):
        raise ComposeError(config.at("steps"), "steps must rise")
    if steps and strategy is not Strategy.CANARY:
        raise ComposeError(config.at("steps"), "steps belong to strategy: canary")
    return RolloutSpec(strategy, steps, fields.seconds(config, "interval", 30.0))
