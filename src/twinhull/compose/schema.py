"""Validation against the Compose specification's JSON schema, with errors that name the line and the nearest known key.

The schema is the one that the package check-jsonschema carries and renews (its code isn't used); ours for `x-twinhull` is hung into it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import Any

import jsonschema_rs

from twinhull.compose.text import kind
from twinhull.compose.tree import ComposeError, Map, did_you_mean, dotted, place
from twinhull.errors import PermanentError

Path = list[str | int]

EXTENSION = "x-twinhull"
_SPECIFICATION = ("check_jsonschema", "builtin_schemas/vendor/compose-spec.json")
_TYPES = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "nothing",
}


@cache
def document() -> dict[str, Any]:
    """The specification's schema with ours at `services.*.x-twinhull`."""
    schema: dict[str, Any] = json.loads(_specification())
    schema["$defs"]["service"]["properties"][EXTENSION] = {"$ref": "#/$defs/x-twinhull"}
    own = extension()
    # a schema with an $id of its own is a document of its own: its references stay inside it
    schema["$defs"]["x-twinhull"] = own
    return schema


def _specification() -> bytes:
    """The package's file, found without importing the package: that takes 0.3 s."""
    package, path = _SPECIFICATION
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PermanentError(f"the Python package {package} is missing", "install Twinhull's dependencies again: make setup")
    with open(os.path.join(spec.submodule_search_locations[0], path), "rb") as file:
        return file.read()


@cache
def extension() -> dict[str, Any]:
    """The published schema of `x-twinhull`."""
    found: dict[str, Any] = json.loads(resources.files("twinhull.compose").joinpath("x-twinhull.schema.json").read_text())
    return found


@cache
def _validator() -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(document())


def settle(tree: Map) -> None:
    """Strings that variables have left where the specification wants a boolean or a number become that, in place."""
    for service in tree.sub("services").values():
        if not isinstance(service, Map):
            continue
        for dependency in service.sub("depends_on").values():
            _settle(dependency, "required", {"true": True, "false": False})
        for network in service.sub("networks").values():
            for key in ("priority", "gw_priority"):
                _settle(network, key, {})


def _settle(holder: Any, key: str, words: dict[str, Any]) -> None:
    value = holder.get(key) if isinstance(holder, Map) else None
    if isinstance(value, str):
        number = int(value) if re.fullmatch(r"-?[0-9]{1,9}", value) and not words else value
        holder[key] = words.get(value.lower(), number)


def check(tree: Map) -> None:
    """Raises ComposeError for the first thing (by line) that the specification doesn't allow."""
    if _validator().is_valid(tree):
        return
    problems = [problem for error in _validator().iter_errors(tree) for problem in _problems(error, tree)]
    if not problems:
        raise ComposeError(tree.mark, "the file doesn't follow the Compose specification")
    raise min(problems, key=lambda problem: problem.mark.line if problem.mark else 0)


def _problems(error: Any, tree: Map) -> Iterator[ComposeError]:
    """What one error of the validator comes down to. Those that only follow from others are left out."""
    path: Path = list(error.instance_path)
    name, value = error.kind.name, error.kind.value
    if name in ("oneOf", "anyOf") and value:
        yield from _branch(path, value, tree)
    elif name in ("additionalProperties", "unevaluatedProperties"):
        known = _known(path)
        for key in value:
            if key not in known and not str(key).startswith("x-"):
                yield _unknown([*path, str(key)], known, tree)
    else:
        found = _value(tree, path)
        yield ComposeError(place(tree, path), f"{dotted(path) or 'the file'} {_complaint(name, value, found, error)}")


def _branch(path: Path, branches: list[list[Any]], tree: Map) -> Iterator[ComposeError]:
    """The alternative that was meant is the one of the right type; where none is, all their types are what is allowed."""
    types: list[str] = []
    for errors in branches:
        wrong = next((error for error in errors if error.kind.name == "type" and list(error.instance_path) == path), None)
        if wrong is None:
            for error in errors:
                yield from _problems(error, tree)
            return
        types += wrong.kind.types
    yield ComposeError(place(tree, path), f"{dotted(path)} {_wrong_type(types, _value(tree, path))}")


def _unknown(path: Path, known: set[str], tree: Map) -> ComposeError:
    key = str(path[-1])
    where = f" in {dotted(path[:-1])}" if path[:-1] else ""
    if not known:
        return ComposeError(place(tree, path), f"invalid name {key!r}{where}: use letters, digits, '.', '_' and '-'")
    hint = f"known keys: {', '.join(sorted(known))}" if len(known) < 16 else ""
    return ComposeError(place(tree, path), f"unknown key {key!r}{where}{did_you_mean(key, known)}", hint)


def _complaint(name: str, value: Any, found: Any, error: Any) -> str:
    match name:
        case "type":
            return _wrong_type(error.kind.types, found)
        case "enum":
            options = [str(option) for option in value if option != ""]
            near = did_you_mean(str(found), options) if isinstance(found, str) else ""
            return f"can't be {_short(found)}: use {', '.join(options)}{near}"
        case "required":
            return f"needs the key {str(value)!r}"
        case "pattern":
            return f"can't be {_short(found)}{_in_words(str(value))}"
        case "uniqueItems":
            return f"has {_short(_twice(found))} twice"
        case "minimum":
            return f"can't be less than {value:g}"
        case "maximum":
            return f"can't be more than {value:g}"
        case "minItems":
            return "can't be empty"
        case _:
            return f"isn't valid: {str(error.message)[:200]}"


def _in_words(pattern: str) -> str:
    """What a pattern of alternatives allows: "^(always|never|…)$"."""
    words = re.findall(r"(?<=[(|])[a-z_]{3,}(?=[|)])", pattern)
    return f": use {', '.join(words)}" if len(words) > 2 else f": it must match {pattern}"


def _wrong_type(types: list[str], found: Any) -> str:
    wanted = list(dict.fromkeys(_TYPES.get(word, word) for word in types))
    return f"must be {' or '.join(wanted)}, not {kind(found)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _twice(found: Any) -> Any:
    seen = []
    for item in found if isinstance(found, list) else ():
        if item in seen:
            return item
        seen.append(item)
    return found


def _value(tree: Any, path: Path) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def _known(path: Path) -> set[str]:
    """The keys that the schema knows at a path."""
    nodes = _below(document(), document())
    for step in path:
        nodes = [below for node, root in nodes for child in _children(node, step) for below in _below(child, root)]
    return {key for node, _ in nodes for key in node.get("properties", {}) if not key.startswith("x-")}


def _children(node: dict[str, Any], step: str | int) -> Iterator[dict[str, Any]]:
    if isinstance(step, int):
        if isinstance(node.get("items"), dict):
            yield node["items"]
        return
    if step in node.get("properties", {}):
        yield node["properties"][step]
        return
    for pattern, child in node.get("patternProperties", {}).items():
        if pattern != "^x-" and re.search(pattern, step):
            yield child


def _below(node: dict[str, Any], root: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """A schema and everything it refers to or combines, each with the document its own references are in."""
    root = node if "$id" in node else root
    found = [(node, root)]
    if "$ref" in node:
        found += _below(root["$defs"][node["$ref"].rpartition("/")[2]], root)
    for word in ("allOf", "anyOf", "oneOf"):
        for part in node.get(word, ()):
            found += _below(part, root)
    return found
