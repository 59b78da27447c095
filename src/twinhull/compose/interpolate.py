"""`${VARIABLE}` in values, as the Compose specification has it: defaults, alternates, errors, nesting, `$$`. Pure.

    $A ${A}          the value, or nothing (and a note) where it isn't set
    ${A:-x} ${A-x}   x where A is empty or unset; where it is unset
    ${A:+x} ${A+x}   x where A isn't empty; where it is set
    ${A:?x} ${A?x}   an error that says x
    $$               one dollar sign

A dollar sign before anything else stays as it is. What stands behind an operator is itself interpolated, and only if it is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from twinhull.compose.tree import ComposeError, Map, Mark, Seq, dotted

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OPERATOR = re.compile(r":?[-+?]")
MAX_NESTING = 20
"""Levels of ${…:-${…}}."""
MAX_LENGTH = 1 << 20
"""Of one value once its variables are filled in."""


def substitute(text: str, variables: Mapping[str, str], missing: Callable[[str], None] = lambda _name: None, depth: int = 0) -> str:
    """The text with its variables filled in. `missing` is told of each one that isn't set. Raises ValueError."""
    if depth > MAX_NESTING:
        raise ValueError(f"variables nested deeper than {MAX_NESTING} levels")
    parts: list[str] = []
    position = 0
    while True:
        dollar = text.find("$", position)
        if dollar < 0:
            parts.append(text[position:])
            break
        parts.append(text[position:dollar])
        value, position = _one(text, dollar, variables, missing, depth)
        parts.append(value)
    found = "".join(parts)
    if len(found) > MAX_LENGTH:
        raise ValueError("the value is longer than 1 MiB once its variables are filled in")
    return found


def _one(text: str, dollar: int, variables: Mapping[str, str], missing: Callable[[str], None], depth: int) -> tuple[str, int]:
    """What begins at a dollar sign, and where it ends."""
    follower = text[dollar + 1 : dollar + 2]
    if follower == "$":
        return "$", dollar + 2
    if follower != "{":
        name = _NAME.match(text, dollar + 1)
        return (_value(name[0], variables, missing), name.end()) if name else ("$", dollar + 1)
    end = _closing(text, dollar + 1)
    inner = text[dollar + 2 : end]
    name = _NAME.match(inner)
    if not name:
        raise ValueError(f"invalid variable ${{{inner}}}: a name begins with a letter or _ (write $$ for a dollar sign)")
    rest = inner[name.end() :]
    if not rest:
        return _value(name[0], variables, missing), end + 1
    operator = _OPERATOR.match(rest)
    if not operator:
        raise ValueError(f"invalid variable ${{{inner}}}: behind a name comes :-, -, :?, ?, :+ or +")
    operand = rest[operator.end() :]
    return _operated(name[0], operator[0], variables, lambda: substitute(operand, variables, missing, depth + 1)), end + 1


def _operated(name: str, operator: str, variables: Mapping[str, str], operand: Callable[[], str]) -> str:
    value = variables.get(name)
    there = bool(value) if operator[0] == ":" else value is not None
    match operator[-1]:
        case "-":
            return value or "" if there else operand()
        case "+":
            return operand() if there else ""
        case _:
            if not there:
                reason = operand()
                raise ValueError(f"variable {name} must be set" + (f": {reason}" if reason else ""))
            return value or ""


def _value(name: str, variables: Mapping[str, str], missing: Callable[[str], None]) -> str:
    value = variables.get(name)
    if value is None:
        missing(name)
    return value or ""


def _closing(text: str, brace: int) -> int:
    """Where the brace at `brace` closes; braces inside count, so that a default may be a JSON object."""
    depth = 0
    for position in range(brace, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return position
    raise ValueError(f"unclosed variable {text[brace - 1 :]!r}")


def tree(value: Map, variables: Mapping[str, str], missing: Callable[[Mark, str, str], None] = lambda _mark, _key, _name: None) -> Map:
    """A tree with all its string values filled in, in place. `missing`: place, dotted key and name of an unset variable."""
    _map(value, variables, missing, ())
    return value


def _map(value: Map, variables: Mapping[str, str], missing: Callable[[Mark, str, str], None], path: tuple[str | int, ...]) -> None:
    for key, item in value.items():
        filled = _any(item, value.at(key), variables, missing, (*path, key))
        if filled is not item:
            value[key] = filled


def _any(
    item: Any, mark: Mark, variables: Mapping[str, str], missing: Callable[[Mark, str, str], None], path: tuple[str | int, ...]
) -> Any:
    if isinstance(item, str):
        if "$" not in item:
            return item
        try:
            return substitute(item, variables, lambda name: missing(mark, dotted(path), name))
        except ValueError as error:
            raise ComposeError(mark, f"{dotted(path)}: {error}") from None
    if isinstance(item, Map):
        _map(item, variables, missing, path)
    elif isinstance(item, Seq):
        for index, element in enumerate(item):
            filled = _any(element, item.at(index), variables, missing, (*path, index))
            if filled is not element:
                item[index] = filled
    return item
