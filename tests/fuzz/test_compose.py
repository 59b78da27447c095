"""Random and mutated compose files: an application, or one ComposeError; never another exception, never long."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.compose.corpus import MALFORMED

from twinhull.compose import ComposeError, load, render, resolve, schema
from twinhull.spec.app import AppSpec

ANNOTATED = Path(__file__).parents[2] / "examples" / "annotated" / "compose.yaml"
SEEDS = [ANNOTATED.read_text(), *(text for text, _, _ in MALFORMED if len(text) < 10_000)]
TOKENS = [
    "${",
    "}",
    "$",
    ":",
    "- ",
    "!reset ",
    "!override ",
    "&a ",
    "*a",
    "<<: ",
    "[",
    "]",
    "{",
    "'",
    '"',
    "\n",
    "  ",
    "\t",
    "#",
    "null",
    "-1",
    "1e999",
    "0x",
    "|",
    "\x85",
    "🚢",
    "\0",
]

common = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def attempt(text: str, folder: Path) -> None:
    """Load it; what is refused names the place."""
    file = folder / "compose.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        loaded = resolve([file], project="app", environment={"A": "a"}, profiles=["*"])
        render.text(render.resolved(loaded), "yaml")
        assert isinstance(loaded.spec(), AppSpec)
    except ComposeError as error:
        assert re.match(r"[^\n]*:\d+: ", error.message), error.message


def mutated(text: str, seed: int) -> str:
    """A few edits of lines and characters."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 4)):
        lines = text.split("\n")
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[other])
            case 2:
                lines[at] = " " * rng.randint(0, 8) + lines[at].strip()
            case 3:
                place = rng.randint(0, len(lines[at]))
                lines[at] = lines[at][:place] + rng.choice(TOKENS) + lines[at][place:]
            case 4:
                place = rng.randint(0, len(lines[at]))
                lines[at] = lines[at][:place] + lines[at][place + rng.randint(1, 6) :]
            case _:
                lines[at], lines[other] = lines[other], lines[at]
        text = "\n".join(lines)
    return text


@common
@given(seed=st.integers(0, 2**32), start=st.sampled_from(SEEDS))
def test_mutated_files(seed: int, start: str, tmp_path: Path) -> None:
    attempt(mutated(start, seed), tmp_path)


def _keys(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = set(node["properties"]) if isinstance(node.get("properties"), dict) else set()
        return own.union(*(_keys(value) for value in node.values()))
    return set().union(*(_keys(value) for value in node)) if isinstance(node, list) else set()


KEYS = sorted(_keys(schema.document()))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70000),
    st.floats(allow_nan=True),
    st.sampled_from(
        [
            "80:80",
            "./a:/b",
            "a",
            "/x",
            "1s",
            "64m",
            "$A",
            "${B?}",
            "default",
            "host",
            "CMD",
            "service_healthy",
            "bind",
            "on-failure:x",
            "a=b",
        ]
    ),
    st.text(max_size=6),
)
trees = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)), max_leaves=12
)
service_keys = sorted(schema._known(["services", "x"]))
typed = st.fixed_dictionaries({}, optional=dict.fromkeys(service_keys, trees))
files = st.fixed_dictionaries(
    {"services": st.dictionaries(st.sampled_from(["web", "b"]), st.one_of(typed, trees), max_size=2)},
    optional={
        key: st.dictionaries(st.sampled_from(["a", "default"]), trees, max_size=2)
        for key in ("networks", "volumes", "configs", "secrets", "x-a")
    },
)


@common
@given(document=files)
def test_files_of_known_keys(document: dict[str, Any], tmp_path: Path) -> None:
    attempt(json.dumps(document), tmp_path)


@pytest.mark.parametrize("key", service_keys)
@settings(common, max_examples=12)
@given(value=trees)
def test_one_known_key(key: str, value: Any, tmp_path: Path) -> None:
    attempt(json.dumps({"services": {"web": {"image": "x", key: value}}}), tmp_path)


def _allowed(node: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """What a part of the specification's schema allows, so that files get past it."""
    if "$ref" in node:
        root = schema.extension() if node["$ref"].rpartition("/")[2] in schema.extension()["$defs"] else schema.document()
        return _allowed(root["$defs"][node["$ref"].rpartition("/")[2]], depth)
    for word in ("oneOf", "anyOf"):
        if word in node and "type" not in node:
            return st.one_of([_allowed(part, depth) for part in node[word]])
    if "enum" in node:
        return st.sampled_from(node["enum"])
    types = node.get("type", ["string", "object"])
    return st.one_of([_of_type(kind, node, depth) for kind in ([types] if isinstance(types, str) else types)])


def _of_type(kind: str, node: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    match kind:
        case "object" if depth < 5:
            properties = {key: st.deferred(lambda part=part: _allowed(part, depth + 1)) for key, part in node.get("properties", {}).items()}
            needed = {key: properties.pop(key) for key in node.get("required", ()) if key in properties}
            free = [part for pattern, part in node.get("patternProperties", {}).items() if pattern != "^x-"]
            return (
                st.dictionaries(NAMES, _allowed(free[0], depth + 1), max_size=2)
                if free
                else st.fixed_dictionaries(needed, optional=properties)
            )
        case "array":
            return st.lists(_allowed(node.get("items", {"type": "string"}), depth + 1), max_size=2, unique_by=repr)
        case "integer" | "number":
            return st.integers(node.get("minimum", -2), node.get("maximum", 70000))
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return st.one_of(WORDS, st.text(max_size=4)) if kind == "string" else st.just({})


NAMES = st.sampled_from(["web", "b", "a", "default"])
WORDS = st.sampled_from(
    "80:80 8000-8010:80 53/udp ./a:/b v:/v:ro /x:size=1m a web b 1s 64m 1.5 true $A a=b h:1.2.3.4 host CMD NONE 10.0.0.0/8 0440".split()
)
DEFINITIONS = schema.document()["$defs"]
possible = st.fixed_dictionaries(
    {"image": st.just("x")},
    optional={
        key: st.deferred(lambda node=node: _allowed(node))
        for name in ("container_spec", "workload_spec", "service")
        for key, node in DEFINITIONS[name]["properties"].items()
        if key not in ("env_file", "label_file", "image")  # whatever file they'd happen to name
    },
)
sections = {
    key: st.dictionaries(NAMES, _allowed(DEFINITIONS[key[:-1]]), max_size=2) for key in ("networks", "volumes", "configs", "secrets")
}


@common
@given(document=st.fixed_dictionaries({"services": st.dictionaries(NAMES, possible, max_size=2)}, optional=sections))
def test_files_that_the_specification_allows(document: dict[str, Any], tmp_path: Path) -> None:
    attempt(json.dumps(document), tmp_path)


@pytest.mark.parametrize("key", [key for key in service_keys if key not in ("env_file", "label_file")] + [schema.EXTENSION])
@settings(common, max_examples=12)
@given(data=st.data())
def test_one_key_as_the_specification_allows_it(key: str, data: st.DataObject, tmp_path: Path) -> None:
    node = next(
        DEFINITIONS[name]["properties"][key]
        for name in ("service", "container_spec", "workload_spec")
        if key in DEFINITIONS[name]["properties"]
    )
    value = data.draw(_allowed(schema.extension() if key == schema.EXTENSION else node))
    attempt(json.dumps({"services": {"web": {"image": "x", key: value}}, "networks": {"a": None}, "volumes": {"v": None}}), tmp_path)


@common
@given(text=st.text(st.sampled_from("ab:-[]{}&*!|>'\"%#@`,\n\t $?~<=0."), max_size=40))
def test_any_text(text: str, tmp_path: Path) -> None:
    attempt(text, tmp_path)


@common
@given(data=st.binary(max_size=60))
def test_any_bytes(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_bytes(data)
    with pytest.raises(ComposeError):
        load([file], environment={}, project="app")
        raise ComposeError(None, "a few bytes can be an application without services")
