"""YAML text to a tree with places, within bounds that no ordinary file comes near.

The scanner is libyaml's, the scalars are YAML 1.2's as compose reads them (`22:22`, `yes` and `on` are strings; only true and false are
booleans). Aliases and merge keys are expanded here, `!reset` and `!override` become marks on the mapping that holds them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.resolver import BaseResolver

from twinhull.compose.tree import ComposeError, Map, Mark, Seq

MAX_BYTES = 8 * 1024 * 1024
"""Of one file. A thousand services of thirty lines are 1 MB."""
MAX_VALUES = 250_000
"""Of one file once aliases are expanded: what a "billion laughs" would exceed."""
MAX_DEPTH = 100
"""Levels of nesting; the specification's deepest key is at 9."""

_YAML = "tag:yaml.org,2002:"


class _Composer(CParser, BaseResolver):
    """libyaml's events to nodes, with our own resolver. It recurses in C: the depth is bounded here, before the stack ends."""

    def __init__(self, text: str, file: str) -> None:
        CParser.__init__(self, text)
        BaseResolver.__init__(self)
        self._file = file
        self._depth = 0

    def descend_resolver(self, current_node: yaml.Node | None, _current_index: Any) -> None:
        """Called before each node is composed."""
        self._depth += 1
        if self._depth > MAX_DEPTH and current_node is not None:
            raise ComposeError(_mark(current_node, self._file), f"nested deeper than {MAX_DEPTH} levels")

    def ascend_resolver(self) -> None:
        """Called after each node."""
        self._depth -= 1


_PATTERNS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|[-+]?0o[0-7]+|[-+]?0x[0-9a-fA-F]+|[-+]?0b[01]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+0123456789."),
    ("merge", r"<<", "<"),
)


def teach(resolver: type[BaseResolver]) -> None:
    """Make a resolver take plain scalars as this module does (or, in a dumper, quote what would be taken so)."""
    for name, pattern, first in _PATTERNS:
        resolver.add_implicit_resolver(_YAML + name, re.compile(rf"^(?:{pattern})$"), list(first))


teach(_Composer)


def parse(text: str, file: str) -> list[Map]:
    """The documents of a file, each a mapping; empty ones are left out. Raises ComposeError."""
    if len(text) > MAX_BYTES:
        raise ComposeError(Mark(file), f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB")
    documents = []
    for node in _nodes(text, file):
        value = _Reader(file).value(node, 0)
        if value is None:
            continue
        if not isinstance(value, Map):
            raise ComposeError(_mark(node, file), f"a compose file is a mapping, not {kind(value)}")
        documents.append(value)
    return documents


def kind(value: Any) -> str:
    """A value's type as users call it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return "a number" if isinstance(value, int | float) else "a string"


def _nodes(text: str, file: str) -> list[yaml.Node]:
    try:
        composer = _Composer(text, file)
        nodes: list[yaml.Node] = []
        while composer.check_node():
            node = composer.get_node()
            if node is not None:
                nodes.append(node)
        return nodes
    except yaml.YAMLError as error:
        raise _syntax(error, text, file) from None
    except (UnicodeError, ValueError) as error:
        raise ComposeError(Mark(file), f"not text: {error}") from None


def _syntax(error: yaml.YAMLError, text: str, file: str) -> ComposeError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    tab = mark is not None and text.splitlines()[mark.line : mark.line + 1] and text.splitlines()[mark.line].lstrip(" ").startswith("\t")
    hint = "indent with spaces: YAML knows no tabs" if tab else ""
    return ComposeError(Mark(file, mark.line + 1 if mark else 1), f"YAML: {problem}{f' {context}' if context else ''}", hint)


def _mark(node: yaml.Node, file: str) -> Mark:
    return Mark(file, node.start_mark.line + 1)


class _Reader:
    """Nodes of one document to values. Counts what it makes, and knows which nodes it is inside of."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._made = 0
        self._inside: set[int] = set()

    def value(self, node: yaml.Node, depth: int) -> Any:
        """A node and everything below it."""
        self._made += 1
        if self._made > MAX_VALUES:
            raise ComposeError(_mark(node, self._file), f"more than {MAX_VALUES} values once aliases are expanded")
        if depth > MAX_DEPTH:
            raise ComposeError(_mark(node, self._file), f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._inside:
            raise ComposeError(_mark(node, self._file), "an alias contains itself")
        self._inside.add(id(node))
        try:
            return self._mapping(node, depth) if isinstance(node, yaml.MappingNode) else self._sequence(node, depth)
        finally:
            self._inside.discard(id(node))

    def _sequence(self, node: yaml.Node, depth: int) -> Seq:
        self._known_tag(node, "seq")
        found = Seq(_mark(node, self._file))
        for child in node.value:
            found.add(self.value(child, depth + 1), _mark(child, self._file))
        return found

    def _mapping(self, node: yaml.MappingNode, depth: int) -> Map:
        self._known_tag(node, "map")
        found = Map(_mark(node, self._file))
        merged: list[Map] = []
        for key_node, child in node.value:
            mark = _mark(key_node, self._file)
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                raise ComposeError(mark, "a key must be a word")
            if key_node.tag == _YAML + "merge":
                merged += self._merged(child, depth)
                continue
            self._entry(found, key_node.value, mark, child, depth)
        for other in merged:
            for key, value in other.items():
                if key not in found and key not in found.reset:
                    found.put(key, value, other.at(key))
        return found

    def _entry(self, found: Map, key: str, mark: Mark, child: yaml.Node, depth: int) -> None:
        if key in found or key in found.reset:
            raise ComposeError(mark, f"key {key!r} is given twice (first on line {found.at(key).line})")
        if child.tag == "!reset":
            found.reset.add(key)
            found.marks[key] = mark
            return
        if child.tag == "!override":
            found.replaced.add(key)
        found.put(key, self.value(child, depth + 1), mark)

    def _merged(self, node: yaml.Node, depth: int) -> list[Map]:
        """What `<<` brings: a mapping or a list of them, the first of a key winning."""
        value = self.value(node, depth + 1)
        found = value if isinstance(value, Seq) else [value]
        for item in found:
            if not isinstance(item, Map):
                raise ComposeError(_mark(node, self._file), f"<< takes a mapping or a list of mappings, not {kind(item)}")
        return list(found)

    def _known_tag(self, node: yaml.Node, own: str) -> None:
        if node.tag not in (_YAML + own, "!override", "!", "!reset"):
            raise ComposeError(_mark(node, self._file), f"unknown tag {node.tag}", "compose knows !reset and !override")

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, tag = str(node.value), str(node.tag)
        if tag == "!override":
            # the tag has hidden what the plain text would be
            tag = _YAML + "str" if node.style else _resolved(text)
        try:
            return _SCALARS[tag](text)
        except KeyError:
            raise ComposeError(_mark(node, self._file), f"unknown tag {tag}", "compose knows !reset and !override") from None
        except (ValueError, OverflowError):
            raise ComposeError(_mark(node, self._file), f"{text!r} is no {tag.removeprefix(_YAML)}") from None


def _resolved(text: str) -> str:
    resolvers = _Composer.yaml_implicit_resolvers.get(text[:1], [])
    return next((tag for tag, pattern in resolvers if pattern.match(text)), _YAML + "str")


def _integer(text: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if digits[:2] in ("0o", "0x", "0b"):
        return sign * int(digits, 0)
    # a leading zero means octal, as in YAML 1.1 and in compose (mode: 0440)
    octal = len(digits) > 1 and digits.startswith("0") and not set(digits) & set("89")
    if len(digits) > 40:
        raise ValueError(text)
    return sign * int(digits, 8 if octal else 10)


def _float(text: str) -> float:
    lowered = text.lower()
    return float(lowered.replace(".inf", "inf").replace(".nan", "nan"))


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_SCALARS: dict[str, Callable[[str], Any]] = {
    _YAML + "str": str,
    "!": str,
    _YAML + "timestamp": str,
    _YAML + "merge": str,
    _YAML + "int": _integer,
    _YAML + "float": _float,
    _YAML + "bool": _boolean,
    _YAML + "null": lambda _text: None,
}
