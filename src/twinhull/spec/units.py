"""Sizes and durations as Docker's users write them. Pure; ValueError says what would be right.

Sizes are bytes in powers of 1024 (128m, 1.5GiB), durations are seconds (1m30s, 500ms, 10).
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([kmgtp]?)(i?b?)", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ns|us|µs|ms|s|m|h|d)", re.ASCII)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)


def number(text: str) -> float:
    """A number of 0 or more, such as 1.5 or .5."""
    if not _NUMBER.fullmatch(text) or float(text) < 0:
        raise ValueError("use a number such as 1.5")
    return float(text)


def size(text: str) -> int:
    """Bytes; -1 is kept (no limit)."""
    if text == "-1":
        return -1
    match = _SIZE.fullmatch(text.strip())
    if not match or (match[3].lower() == "i"):
        raise ValueError("use a size such as 128m or 1.5g")
    return (
        int(float(match[1]) * 1024 ** _POWERS[match[2].lower()]) if "." in match[1] else int(match[1]) * 1024 ** _POWERS[match[2].lower()]
    )


def duration(text: str) -> float:
    """Seconds, from Go's form or a bare number."""
    if _NUMBER.fullmatch(text):
        return number(text)
    parts = _PART.findall(text)
    if not parts or "".join(value + unit for value, unit in parts) != text:
        raise ValueError("use a duration such as 1m30s")
    # via milliseconds, so that 100ms is 0.1 and not 0.1 plus a rounding error
    return round(sum(float(value) * _UNITS[unit] for value, unit in parts), 9)
