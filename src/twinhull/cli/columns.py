"""Tables: columns of text fitted to the terminal. Pure but for asking the terminal's width.

A column may shrink if its row in the caller's table says so (`flexible`); ids, numbers and states never do. Where stdout is no terminal,
nothing is cut.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from twinhull.cli.style import paint, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_GAP = "   "
_LEAST = 8
"""Characters a flexible column keeps."""


class Column(NamedTuple):
    """`name` as in templates; `value` gives the cell of one object; `colour` its colour, "" for none."""

    name: str
    header: str
    value: Callable[[Any], Any]
    flexible: bool = False
    shown: bool = True
    """In the default table; the others are for templates."""
    colour: Callable[[Any], str] | None = None


def table(columns: Sequence[Column], objects: Sequence[Any]) -> list[str]:
    """Header and rows, fitted to the terminal if stdout is one."""
    cells = [[printable(str(column.value(item))) for column in columns] for item in objects]
    widths = fit([column.header for column in columns], cells, [column.flexible for column in columns], terminal_width())
    lines = [_line([column.header for column in columns], widths)]
    for item, row in zip(objects, cells, strict=True):
        colours = [column.colour(item) if column.colour else "" for column in columns]
        lines.append(_line(row, widths, colours))
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of plain cells, the first being the header, aligned but never cut (`table …` templates)."""
    if not rows:
        return []
    count = max(map(len, rows))
    widths = [max(width(row[index]) for row in rows if index < len(row)) for index in range(count)]
    return [_line(list(row), widths) for row in rows]


def fit(headers: Sequence[str], rows: Sequence[Sequence[str]], flexible: Sequence[bool], limit: int | None) -> list[int]:
    """Width of each column; the widest flexible ones give way until the sum with gaps is within `limit` (None: no limit)."""
    widths = [max([width(header), *(width(row[index]) for row in rows)]) for index, header in enumerate(headers)]
    if limit is None:
        return widths
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - limit
    while over > 0:
        candidates = [index for index, may in enumerate(flexible) if may and widths[index] > max(_LEAST, width(headers[index]))]
        if not candidates:
            return widths
        widest = max(candidates, key=lambda index: widths[index])
        widths[widest] -= 1
        over -= 1
    return widths


def _line(cells: Sequence[str], widths: Sequence[int], colours: Sequence[str] = ()) -> str:
    parts = []
    for index, cell in enumerate(cells):
        text = cut(cell, widths[index])
        padding = "" if index == len(cells) - 1 else " " * (widths[index] - width(text))
        parts.append((paint(text, colours[index]) if colours else text) + padding)
    return _GAP.join(parts).rstrip()


def cut(text: str, limit: int) -> str:
    """At most `limit` cells, … at the end if something is missing."""
    if width(text) <= limit:
        return text
    kept = ""
    for char in text:
        if width(kept) + width(char) > limit - 1:
            break
        kept += char
    return kept + "…"


def width(text: str) -> int:
    """Cells of a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def terminal_width() -> int | None:
    """Columns of stdout's terminal; None where it is none."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return None
    return columns or None
