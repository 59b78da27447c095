"""`.env` files, `--env-file` and `env_file` as compose reads them. Pure: text in, variables out.

    KEY=value            up to " #"; variables filled in
    KEY: value           the same
    export KEY="…"       escapes and variables, may span lines
    KEY='…'              as it stands, may span lines
    KEY                  taken from the environment, left out if it isn't there

There is a library for `.env` files (python-dotenv), but it knows only one of compose's six operators and no inheritance.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping

from twinhull.compose.interpolate import substitute
from twinhull.compose.tree import ComposeError, Mark

_KEY = re.compile(r"(?:export[ \t]+)?(?P<key>[\w.\-\[\]]+)[ \t]*(?P<sign>[=:]|(?=\n)|\Z)[ \t\r]*")
_BLANK = re.compile(r"(?:\s+|#[^\n]*)+")
_ESCAPE = re.compile(r"\\(0[0-7]{0,3}|[abcfnrtv$\"\\])")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\", "$": "$$", "c": "\\c"}


def parse(text: str, file: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of a file. `environment` fills in what the file refers to, and wins over the file's own there. Raises ComposeError."""
    found: dict[str, str] = {}
    variables = ChainMap(dict(environment), found)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    position = _skip(text, 0)
    while position < len(text):
        mark = Mark(file, text.count("\n", 0, position) + 1)
        key = _KEY.match(text, position)
        if not key:
            line = text[position:].partition("\n")[0]
            raise ComposeError(mark, f"expected KEY=value, not {line[:60]!r}")
        position = key.end()
        if not key["sign"]:
            if key["key"] in environment:
                found[key["key"]] = environment[key["key"]]
        else:
            try:
                found[key["key"]], position = _value(text, position, variables)
            except ValueError as error:
                raise ComposeError(mark, f"{key['key']}: {error}") from None
        position = _skip(text, position)
    return found


def raw(text: str, file: str) -> dict[str, str]:
    """`format: raw`: KEY=value lines, everything behind the first = as it stands."""
    found = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip():
            raise ComposeError(Mark(file, number), f"expected KEY=value, not {line[:60]!r}")
        found[key.strip()] = value
    return found


def _skip(text: str, position: int) -> int:
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position


def _value(text: str, position: int, variables: Mapping[str, str]) -> tuple[str, int]:
    quote = text[position : position + 1]
    if quote not in ("'", '"') or not quote:
        line, _, _ = text[position:].partition("\n")
        value = "" if line.startswith("#") else line.partition(" #")[0].rstrip()
        return substitute(value, variables), position + len(line)
    inner, end = _quoted(text, position, quote)
    if quote == "'":
        return inner.replace("\\'", "'"), end
    return substitute(_ESCAPE.sub(_escape, inner), variables), end


def _quoted(text: str, position: int, quote: str) -> tuple[str, int]:
    """What is between quotes, escapes left in, and where it ends."""
    end = position + 1
    while end < len(text) and text[end] != quote:
        end += 2 if text[end] == "\\" and text[end + 1 : end + 2] in (quote, "\\") else 1
    if end >= len(text):
        raise ValueError("a quote isn't closed")
    return text[position + 1 : end], end + 1


def _escape(match: re.Match[str]) -> str:
    word = match[1]
    return chr(int(word, 8)) if word.startswith("0") else _ESCAPES[word]
