"""Colours, and text from inside instances made safe for a terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_MOVES = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CODES = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}


def coloured(stream: TextIO) -> bool:
    """Only on a terminal that can, and never with NO_COLOR (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in a colour where `stream` (stdout if left out) shows it."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if colour and coloured(stream or sys.stdout) else text


def printable(text: str, *, newlines: bool = False) -> str:
    """Control characters as \\xNN, so that a name, label or process title from inside can't drive the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or (newlines and char in "\n\t") else _escape(char) for char in text)


def harmless(text: str) -> str:
    """JSON text with what moves a terminal escaped, besides what json escapes: C1 controls, and those of the writing's direction."""
    return _MOVES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
