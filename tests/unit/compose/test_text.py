"""YAML as compose reads it, with places."""

from __future__ import annotations

from typing import Any

import pytest

from twinhull.compose import text
from twinhull.compose.tree import ComposeError, Mark, place, plain


def read(source: str) -> Any:
    """The only document."""
    (document,) = text.parse(source, "f")
    return plain(document)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("NO", "NO"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("22:22", "22:22"),
        ("1_000", "1_000"),
        ("10", 10),
        ("-3", -3),
        ("0440", 0o440),
        ("0o17", 15),
        ("0x1F", 31),
        ("089", 89),
        ("1.10", 1.1),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.2.3", "1.2.3"),
        ("2026-01-31", "2026-01-31"),
        ("'10'", "10"),
        ('"a\\nb"', "a\nb"),
        ("!!str 10", "10"),
        ("!!int '10'", 10),
        ("!override 10", 10),
        ("!override '10'", "10"),
        ("[a, {b: c}]", ["a", {"b": "c"}]),
    ],
)
def test_scalars(source: str, expected: Any) -> None:
    assert read(f"x: {source}\n")["x"] == expected


def test_keys_are_always_words() -> None:
    assert read("1: a\ntrue: b\n1.0: c\n") == {"1": "a", "true": "b", "1.0": "c"}


def test_anchors_and_merge_keys() -> None:
    source = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: *a, y: own}\nd: {<<: [*b, *a], w: 5}\n"
    found = read(source)
    assert found["c"] == {"x": 1, "y": "own"}
    assert found["d"] == {"w": 5, "y": 3, "z": 4, "x": 1}


def test_aliases_are_copies() -> None:
    (document,) = text.parse("a: &a [1]\nb: *a\n", "f")
    document["a"].append(2)
    assert document["b"] == [1]


def test_several_documents_and_empty_ones() -> None:
    assert [plain(document) for document in text.parse("---\na: 1\n---\n---\nb: 2\n", "f")] == [{"a": 1}, {"b": 2}]


def test_reset_and_override() -> None:
    (document,) = text.parse("a: !reset [1]\nb: !override {c: 1}\nd: !reset\n", "f")
    assert plain(document) == {"b": {"c": 1}}
    assert (document.reset, document.replaced) == ({"a", "d"}, {"b"})


def test_places() -> None:
    (document,) = text.parse("a:\n  b:\n    - 1\n    - c: 2\n", "f")
    assert place(document, ["a", "b", 1, "c"]) == Mark("f", 4)
    assert place(document, ["a", "b", 0]) == Mark("f", 3)
    assert place(document, ["a", "nothing", "below"]) == Mark("f", 1)
    assert str(Mark("f", 4)) == "f:4"


def test_a_tab_gets_a_hint() -> None:
    with pytest.raises(ComposeError) as caught:
        text.parse("a:\n\tb: 1\n", "f")
    assert "tabs" in caught.value.hint


@pytest.mark.parametrize(
    "source", ["[" * 500_000, "{a: " * 500_000, "- " * 500_000, "a:\n" + "".join(" " * n + "a:\n" for n in range(1, 2000))]
)
def test_depth_is_bounded(source: str) -> None:
    with pytest.raises(ComposeError, match="f:"):
        text.parse(source, "f")
