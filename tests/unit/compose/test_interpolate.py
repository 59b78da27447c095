"""Variables in values, as the Compose specification's table of operators has them."""

from __future__ import annotations

import pytest

from twinhull.compose.interpolate import substitute

VARIABLES = {"SET": "value", "EMPTY": "", "OTHER": "other"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$SET", "value"),
        ("${SET}", "value"),
        ("a${SET}b$SET-c", "avaluebvalue-c"),
        ("$UNSET|${UNSET}|${EMPTY}", "||"),
        ("$$SET", "$SET"),
        ("$$$SET", "$value"),
        ("$$$$", "$$"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$1 $. $-", "$1 $. $-"),
        ("${SET:-x} ${SET-x}", "value value"),
        ("${EMPTY:-x} ${EMPTY-x}|", "x |"),
        ("${UNSET:-x} ${UNSET-x}", "x x"),
        ("${SET:+x} ${SET+x}", "x x"),
        ("${EMPTY:+x} ${EMPTY+x}", " x"),
        ("${UNSET:+x} ${UNSET+x}|", " |"),
        ("${SET:?no} ${SET?no} ${EMPTY?no}|", "value value |"),
        ("${UNSET:-${OTHER}}", "other"),
        ("${UNSET:-${UNSET2-$SET}/x}", "value/x"),
        ("${UNSET:-a:b-c?d}", "a:b-c?d"),
        ('${UNSET:-{"a": {"b": 1}}}', '{"a": {"b": 1}}'),
        ("${SET:-${UNSET:?never asked}}", "value"),
        ("${UNSET:-}", ""),
        ("${UNSET:-$$x}", "$x"),
        ("ünï $SET €", "ünï value €"),
    ],
)
def test_values(text: str, expected: str) -> None:
    assert substitute(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${", "unclosed"),
        ("${SET", "unclosed"),
        ("${UNSET:-{}", "unclosed"),
        ("${}", "a name begins"),
        ("${9}", "a name begins"),
        ("${ SET }", "a name begins"),
        ("${SET!x}", "behind a name"),
        ("${SET:x}", "behind a name"),
        ("${UNSET?}", "variable UNSET must be set"),
        ("${EMPTY:?because $SET}", "variable EMPTY must be set: because value"),
        ("${UNSET:-${UNSET2:?inner}}", "variable UNSET2 must be set: inner"),
        ("${A:-" * 50 + "}" * 50, "nested deeper"),
        ("$BIG" * 1100, "longer than 1 MiB"),
    ],
)
def test_errors(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        substitute(text, {**VARIABLES, "BIG": "x" * 1000})


def test_what_is_missing_is_told_once_each_time() -> None:
    missing: list[str] = []
    substitute("$UNSET ${UNSET} ${UNSET:-x} $SET", VARIABLES, missing.append)
    assert missing == ["UNSET", "UNSET"]
