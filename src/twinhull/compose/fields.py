"""Values of a canonical tree as the types that a specification wants, or a ComposeError with the line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, TypeVar

from twinhull.compose.shortforms import scalar
from twinhull.compose.tree import ComposeError, Map, Mark, did_you_mean
from twinhull.spec import units

E = TypeVar("E", bound=StrEnum)
_LONGEST = 100 * 366 * 86400
"""Seconds. Timers overflow somewhere beyond."""
N = TypeVar("N", int, float)

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}", re.ASCII)
_TRUE, _FALSE = ("true", "yes", "y", "on", "1"), ("false", "no", "n", "off", "0")


def text(holder: Map, key: str, default: str = "") -> str:
    """A string; the default where there is none."""
    value = holder.get(key)
    return default if value is None else scalar(value)


def flag(holder: Map, key: str, default: bool = False) -> bool:
    """true or false, or a word for it that a variable left."""
    value = text(holder, key)
    try:
        return truth(value) if value else default
    except ValueError as error:
        raise ComposeError(holder.at(key), f"{key}: {error}") from None


def truth(word: str) -> bool:
    """A word for true or false. Raises ValueError."""
    if word.lower() not in (*_TRUE, *_FALSE):
        raise ValueError(f"{word!r} is neither true nor false")
    return word.lower() in _TRUE


def whole(holder: Map, key: str, default: int = 0, least: int = 0) -> int:
    """A whole number."""
    value = text(holder, key)
    if not value:
        return default
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise ComposeError(holder.at(key), f"{key}: {value!r} is no whole number")
    if int(value) < least:
        raise ComposeError(holder.at(key), f"{key}: {value} is less than {least}")
    return int(value)


def number(holder: Map, key: str, default: float = 0.0) -> float:
    """A number of 0 or more."""
    return _read(holder, key, units.number, default)


def size(holder: Map, key: str, default: int = 0) -> int:
    """Bytes."""
    found = _read(holder, key, units.size, default)
    if found > 2**62:
        raise ComposeError(holder.at(key), f"{key}: {text(holder, key)!r} is more than any machine has")
    return found


def seconds(holder: Map, key: str, default: float = 0.0) -> float:
    """A duration."""
    found = _read(holder, key, units.duration, default)
    if found > _LONGEST:
        raise ComposeError(holder.at(key), f"{key}: {text(holder, key)!r} is longer than a hundred years")
    return found


def mode(holder: Map, key: str, default: int) -> int:
    """A file mode: a number as YAML has read it, or a string of octal digits."""
    value = holder.get(key)
    if isinstance(value, str) and value:
        digits = value.removeprefix("0o")
        if not digits or set(digits) - set("01234567"):
            raise ComposeError(holder.at(key), f"{key}: {value!r}: use octal digits such as 0440")
        value = int(digits, 8)
    found = default if value in (None, "") else value
    if not isinstance(found, int) or not 0 <= found <= 0o7777:
        raise ComposeError(holder.at(key), f"{key}: {value!r} is no file mode: use octal digits such as 0440")
    return found


def choice(holder: Map, key: str, kind: type[E], default: E) -> E:
    """One of an enumeration's words."""
    value = text(holder, key)
    if not value:
        return default
    known = [str(word) for word in kind]
    if value not in known:
        raise ComposeError(holder.at(key), f"{key} can't be {value!r}: use {', '.join(known)}{did_you_mean(value, known)}")
    return kind(value)


def name(word: str, what: str, mark: Mark) -> str:
    """A name that the engine takes for an instance, a network or a volume."""
    if not _NAME.fullmatch(word):
        raise ComposeError(mark, f"{what} {word!r}: use letters, digits, '.', '_' and '-', a letter or digit first, at most 200")
    return word


def words(holder: Map, key: str) -> tuple[str, ...]:
    """A list of strings."""
    return tuple(scalar(item) for item in holder.get(key) or ())


def given(holder: Map, key: str) -> dict[str, str]:
    """A mapping of strings, without the entries that have no value."""
    return {entry: scalar(value) for entry, value in (holder.get(key) or {}).items() if value is not None}


def known(holder: Map, key: str, wanted: str, names: Iterable[str], what: str) -> None:
    """Refuses a reference to what the file doesn't define."""
    names = list(names)
    if wanted not in names:
        raise ComposeError(holder.at(key), f"{what} {wanted!r} isn't defined in the file{did_you_mean(wanted, names)}")


def _read(holder: Map, key: str, reader: Callable[[str], N], default: N) -> N:
    value: Any = text(holder, key)
    if not value:
        return default
    try:
        return reader(value)
    except (ValueError, OverflowError) as error:
        raise ComposeError(holder.at(key), f"{key}: {value!r}: {error}") from None
