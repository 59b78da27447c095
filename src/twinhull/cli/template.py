"""The part of Go's templates that people type after --format. Pure.

    text {{.Field}} {{.spec.env}} {{index .Labels "k"}}   fields; case and underscores don't matter: .ExitCode is exit_code
    {{json .}} {{lower .X}} {{upper .X}} {{len .X}} {{join .X ","}} {{println .X}} {{.Label "k"}} {{.X | json}}
    {{range .X}}…{{end}}  {{if .X}}…{{else}}…{{end}}  {{- trims before, and after -}}      \\t and \\n

A field that isn't there is an error that names the nearest one. `compile` raises TemplateError for a wrong template, before anything is
printed.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from twinhull.cli.style import harmless
from twinhull.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|`[^`]*`|\||-?\d+(?!\w)|\$?\.[\w.-]*|[A-Za-z_]\w*)')
_LIMIT = 20
"""Levels of nesting."""


class TemplateError(UserError):
    """The template is wrong, or asks for what isn't there."""


class Text(NamedTuple):
    """Literal text."""

    text: str


class Show(NamedTuple):
    """A pipeline whose value is printed. Each stage: the words of one call."""

    stages: tuple[tuple[str, ...], ...]


class Block(NamedTuple):
    """`range` or `if`, with what comes after `else`."""

    word: str
    stages: tuple[tuple[str, ...], ...]
    body: tuple[Any, ...]
    otherwise: tuple[Any, ...]


Part = Text | Show | Block


class Template(NamedTuple):
    """A compiled template. `render` is pure."""

    parts: tuple[Part, ...]

    def render(self, value: Any) -> str:
        """The text for one object. Raises TemplateError."""
        return "".join(_render(part, value) for part in self.parts)

    def fields(self) -> list[str]:
        """The first names of all fields shown, in order: the headers of `table …`."""
        return [
            word[1:]
            for part in self.parts
            if isinstance(part, Show)
            for stage in part.stages
            for word in stage
            if word[0] == "." and len(word) > 1
        ]


def compile(source: str) -> Template:
    """Parse. Raises TemplateError."""
    pieces = list(_pieces(_unescape(source)))
    parts, rest = _parts(pieces, 0)
    if rest:
        raise TemplateError(f"format: {{{{{rest[0]}}}}} has no beginning")
    return Template(parts)


def _unescape(source: str) -> str:
    """\\t and \\n outside actions."""
    pieces = re.split(r"(\{\{.*?\}\})", source, flags=re.DOTALL)
    return "".join(piece if piece.startswith("{{") else piece.replace("\\t", "\t").replace("\\n", "\n") for piece in pieces)


def _pieces(source: str) -> Iterable[str | Text]:
    """Texts, and the insides of actions as str."""
    position, trim = 0, False
    for match in _ACTION.finditer(source):
        text = source[position : match.start()]
        text = text.lstrip() if trim else text
        yield Text(_no_action(text.rstrip() if match[1] else text))
        if not match[2].startswith("/*"):
            yield match[2]
        position, trim = match.end(), bool(match[3])
    tail = source[position:]
    yield Text(_no_action(tail.lstrip() if trim else tail))


def _no_action(text: str) -> str:
    if "{{" in text:
        raise TemplateError("format: {{ without }}")
    return text


def _parts(pieces: list[str | Text], depth: int) -> tuple[tuple[Part, ...], list[str | Text]]:
    """Parts up to `else`, `end`, or the end, and what is left from there on."""
    if depth > _LIMIT:
        raise TemplateError("format: nested too deep")
    found: list[Part] = []
    while pieces:
        piece = pieces[0]
        if isinstance(piece, Text):
            if piece.text:
                found.append(piece)
        elif piece in ("end", "else"):
            return tuple(found), pieces
        elif piece.split(" ")[0] in ("range", "if"):
            block, pieces = _block(piece, pieces[1:], depth)
            found.append(block)
            continue
        else:
            found.append(Show(_stages(piece)))
        pieces = pieces[1:]
    return tuple(found), []


def _block(opening: str, pieces: list[str | Text], depth: int) -> tuple[Block, list[str | Text]]:
    word, _, condition = opening.partition(" ")
    body, rest = _parts(pieces, depth + 1)
    otherwise: tuple[Part, ...] = ()
    if rest and rest[0] == "else":
        otherwise, rest = _parts(rest[1:], depth + 1)
    if not rest or rest[0] != "end":
        raise TemplateError(f"format: {{{{{opening}}}}} has no {{{{end}}}}")
    return Block(word, _stages(condition), body, otherwise), rest[1:]


def _stages(action: str) -> tuple[tuple[str, ...], ...]:
    words, position = [], 0
    while position < len(action):
        match = _TOKEN.match(action, position)
        if not match:
            raise TemplateError(f"format: {{{{{action}}}}}: {action[position:].strip()!r} isn't understood", "see: twinhull help templates")
        words.append(match[1].removeprefix("$"))
        position = match.end()
    stages: list[tuple[str, ...]] = []
    for stage in _split(words):
        if not stage:
            raise TemplateError(f"format: {{{{{action}}}}} is empty")
        _check_call(action, stage)
        stages.append(tuple(stage))
    return tuple(stages)


def _split(words: list[str]) -> list[list[str]]:
    """Words between the bars."""
    stages: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            stages.append([])
        else:
            stages[-1].append(word)
    return stages


def _check_call(action: str, stage: list[str]) -> None:
    word = stage[0]
    if word[0] in '."`' or word.lstrip("-").isdigit():
        return
    if word not in FUNCTIONS:
        from twinhull.cli.suggest import nearest

        near = nearest(word, FUNCTIONS) or nearest(word, ["range", "if", "else", "end"])
        raise TemplateError(f"format: {{{{{action}}}}}: unknown function {word}", f"did you mean {near}?" if near else _functions_hint())


def _functions_hint() -> str:
    return f"functions: {', '.join(FUNCTIONS)}; fields begin with a dot"


def _render(part: Part, value: Any) -> str:
    match part:
        case Text(text):
            return text
        case Show(stages):
            return show(_evaluate(stages, value))
        case Block("if", stages, body, otherwise):
            return "".join(_render(inner, value) for inner in (body if _evaluate(stages, value) else otherwise))
        case Block(_, stages, body, otherwise):
            items = _items(_evaluate(stages, value))
            if not items:
                return "".join(_render(inner, value) for inner in otherwise)
            return "".join(_render(inner, item) for item in items for inner in body)


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _evaluate(stages: tuple[tuple[str, ...], ...], value: Any) -> Any:
    result: Any = None
    for index, stage in enumerate(stages):
        result = _call(stage, value, [result] if index else [])
    return result


def _call(stage: tuple[str, ...], value: Any, piped: list[Any]) -> Any:
    word = stage[0]
    values = [_word(other, value) for other in stage[1:]] + piped
    if word in FUNCTIONS:
        try:
            return FUNCTIONS[word](*values)
        except (TypeError, ValueError, IndexError) as error:
            raise TemplateError(f"format: {' '.join(stage)}: {error}", "see: twinhull help templates") from error
    found = _word(word, value)
    if callable(found):
        return found(*values)
    if values:
        raise TemplateError(f"format: {word} takes no argument")
    return found


def _word(word: str, value: Any) -> Any:
    if word[0] == '"':
        return json.loads(word)
    if word[0] == "`":
        return word[1:-1]
    if word[0] != ".":
        return int(word) if word.lstrip("-").isdigit() else FUNCTIONS[word]() if word in FUNCTIONS else word
    for name in word[1:].split("."):
        value = field(value, name) if name else value
    return value


def field(value: Any, name: str) -> Any:
    """A member of an object by its name, whatever its case and underscores. Raises TemplateError with the nearest one."""
    if not isinstance(value, dict):
        raise TemplateError(f"format: .{name}: {_kind(value)} has no fields")
    if name in value:
        return value[name]
    plain = _plain(name)
    for key, member in value.items():
        if _plain(str(key)) == plain:
            return member
    from twinhull.cli.suggest import nearest

    known = [str(key) for key in value]
    near = nearest(name, known)
    hint = f"did you mean .{near}?" if near else f"fields: {', '.join(known)}"
    raise TemplateError(f"format: there is no field .{name}", hint)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _kind(value: Any) -> str:
    return "null" if value is None else "a list" if isinstance(value, list | tuple) else f"{show(value)!r}"


def show(value: Any) -> str:
    """A value as text: true, 3, plain text, JSON for lists and objects."""
    if isinstance(value, str):
        return value
    if (word := getattr(value, "word", None)) is not None:
        return str(word)
    return "" if value is None or callable(value) else dump(value)


def dump(value: Any) -> str:
    """Compact JSON."""
    return harmless(json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str))


def _index(container: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(container, dict):
            container = container.get(key, "")
        elif isinstance(container, list | tuple | str) and isinstance(key, int):
            container = container[key]
        else:
            raise ValueError(f"can't index {_kind(container)} with {key!r}")
    return container


def _join(items: Any, separator: str) -> str:
    return separator.join(show(item) for item in _items(items))


def _size(value: Any) -> int:
    if not isinstance(value, str | list | tuple | dict):
        raise ValueError(f"{_kind(value)} has no length")
    return len(value)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": dump,
    "lower": lambda value: show(value).lower(),
    "upper": lambda value: show(value).upper(),
    "title": lambda value: show(value).title(),
    "len": _size,
    "index": _index,
    "join": _join,
    "split": lambda value, separator: show(value).split(separator),
    "println": lambda *values: " ".join(map(show, values)) + "\n",
}
"""Name → what it does with its arguments; a piped value comes last."""

HELP = f"""What --format understands

  table                 the default table
  json                  a JSON list of the exact objects (--json is short for it)
  'table {{{{.A}}}}\\t{{{{.B}}}}'  a table of chosen columns with headers
  '{{{{.A}}}} {{{{.B}}}}'       a line for each object

Inside {{{{ }}}}:
  .Field .spec.image    a column's name, or a field of the JSON; case and underscores don't matter
  .                     the whole object, for json
  json .X · lower .X · upper .X · title .X · len .X · index .X "key" · join .X "," · split .X "," · println .X
  .X | json             the same, as a pipe
  .Label "key"          one label
  range .X … end        for each element of a list or object
  if .X … else … end    if it is neither empty, 0 nor false
  {{{{- and -}}}}           leave out the space before or after
  \\t \\n                 tab and new line
Functions: {", ".join(FUNCTIONS)}.
"""
