"""Values as Docker's users write them: sizes, durations, times, key=value lists. Pure; ValueError says what would be right.

Sizes are bytes in powers of 1024 (128m, 1.5GiB), durations are seconds (1m30s, 500ms, 10).
"""

from __future__ import annotations

import re

from twinhull.spec.units import duration, number, size

__all__ = ["boolean", "count", "duration", "fields", "integer", "keyed", "number", "octal", "pair", "pairs", "size", "when", "words"]

_TRUE = ("true", "1", "t", "yes", "on")
_FALSE = ("false", "0", "f", "no", "off")


def boolean(text: str) -> bool:
    """true or false, in Go's spellings and some more."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("use true or false")


def integer(text: str) -> int:
    """A whole number of 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError("use a whole number")
    return int(text)


def count(text: str) -> int:
    """A limit; -1 (no limit) becomes 0, which is what InstanceSpec calls it."""
    return 0 if text == "-1" else integer(text)


def when(text: str, now: float) -> float:
    """A moment in seconds since 1970: a duration before `now` (10m), an ISO date or time, or such seconds themselves."""
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return float(text)
    try:
        return now - duration(text)
    except ValueError:
        pass
    from datetime import datetime

    try:
        return datetime.fromisoformat(_cut_nanoseconds(text)).timestamp()
    except ValueError:
        raise ValueError("use 10m (ago), 2026-01-31T12:00:00Z, or seconds since 1970") from None


def _cut_nanoseconds(text: str) -> str:
    return re.sub(r"(\.\d{6})\d+", r"\1", text)


def pair(text: str, *, bare: str | None = None) -> tuple[str, str]:
    """KEY=VALUE. `bare`: the value of a KEY alone (None: that is an error)."""
    key, equals, value = text.partition("=")
    if not key or (not equals and bare is None):
        raise ValueError("use KEY=VALUE")
    return key, value if equals else bare or ""


def pairs(texts: list[str], *, bare: str | None = "") -> dict[str, str]:
    """KEY=VALUE of several; the last of a key wins."""
    return dict(pair(text, bare=bare) for text in texts)


def fields(text: str) -> list[str]:
    """The parts between commas; a part in double quotes may hold commas, and "" in it is a quote (CSV, as in Docker's --mount)."""
    parts, position = [], 0
    while position <= len(text):
        part, position = _field(text, position)
        parts.append(part)
    return parts


def _field(text: str, position: int) -> tuple[str, int]:
    """One field from `position`, and where the next one begins."""
    if not text.startswith('"', position):
        end = text.find(",", position)
        end = len(text) if end < 0 else end
        return text[position:end], end + 1
    part, position = "", position + 1
    while True:
        end = text.find('"', position)
        if end < 0:
            raise ValueError("a quote isn't closed")
        part += text[position:end]
        if not text.startswith('"', end + 1):
            break
        part, position = part + '"', end + 2
    if end + 1 < len(text) and text[end + 1] != ",":
        raise ValueError("after a closing quote comes a comma")
    return part, end + 2


def keyed(text: str) -> list[tuple[str, str]]:
    """key=value[,…] with lower-case keys; a key alone has the value ""."""
    found = []
    for part in fields(text):
        key, _, value = part.partition("=")
        if not key:
            raise ValueError("use key=value,…")
        found.append((key.strip().lower(), value))
    return found


def octal(text: str) -> int:
    """A file mode such as 0440 or 1777."""
    if not re.fullmatch(r"(0o?)?[0-7]{1,4}", text):
        raise ValueError(f"mode {text!r}: use octal digits such as 0440")
    return int(text.removeprefix("0o"), 8)


def words(text: str) -> list[str]:
    """A JSON list of strings, or one word; "" is the empty list."""
    if not text.startswith("["):
        return [text] if text else []
    from json import loads

    try:
        found = loads(text)
    except ValueError:
        return [text]
    if not all(isinstance(word, str) for word in found):
        raise ValueError('use a JSON list of strings such as ["a","b"]')
    return [str(word) for word in found]
