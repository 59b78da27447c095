"""Sizes and times for people. Pure: the present is passed in. Sizes in SI units (a thousand), as Docker's tables show them."""

from __future__ import annotations

_SPANS = ((1, "second"), (60, "minute"), (3600, "hour"), (86400, "day"), (7 * 86400, "week"), (30 * 86400, "month"), (365 * 86400, "year"))
_UPTO = (60, 60, 48, 14, 9, 24)
"""How many of a unit are shown before the next one: 47 hours, but 2 days; as in Docker."""


def size(count: float) -> str:
    """1.2GB, 345kB, 12B: three digits."""
    return _scaled(count, 1000, ("B", "kB", "MB", "GB", "TB", "PB"))


def binary_size(count: float) -> str:
    """1.2GiB, 345KiB: memory."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _scaled(count: float, step: int, units: tuple[str, ...]) -> str:
    value, index = float(count), 0
    while max(value, float(f"{value:.3g}")) >= step and index < len(units) - 1:
        value, index = value / step, index + 1
    return f"{value:.3g}{units[index]}" if value < 1000 else f"{value:.0f}{units[index]}"


def span(seconds: float) -> str:
    """3 minutes, About a minute, 2 days."""
    seconds = max(seconds, 0)
    if seconds < 1:
        return "Less than a second"
    for index, (length, name) in enumerate(_SPANS):
        amount = int(seconds // length)
        if index == len(_SPANS) - 1 or amount < _UPTO[index]:
            return _amount(amount, name)
    raise AssertionError("the last span takes all")


def _amount(amount: int, name: str) -> str:
    if amount == 1 and name in ("minute", "hour"):
        return f"About {'an' if name == 'hour' else 'a'} {name}"
    return f"{amount} {name}{'' if amount == 1 else 's'}"


def ago(moment: float, now: float) -> str:
    """3 minutes ago; "" for 0, which is never."""
    return f"{span(now - moment)} ago" if moment else ""


def stamp(moment: float, *, fraction: bool = False) -> str:
    """Local time with its offset: 2026-01-31 12:00:00 +0100 (with `fraction` RFC 3339 with nanoseconds' place); "" for 0."""
    if not moment:
        return ""
    from time import localtime, strftime

    local = localtime(moment)
    if not fraction:
        return strftime("%Y-%m-%d %H:%M:%S %z", local)
    offset = strftime("%z", local)
    micro = f"{moment % 1:.6f}"[2:8] if moment % 1 < 0.9999995 else "999999"
    return f"{strftime('%Y-%m-%dT%H:%M:%S', local)}.{micro}{offset[:3]}:{offset[3:]}"


def short_id(identifier: str, *, full: bool = False) -> str:
    """Twelve digits."""
    return identifier if full else identifier.removeprefix("sha256:")[:12]
