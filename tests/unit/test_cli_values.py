"""Values as users write them: what is taken, and what a refusal says."""

from __future__ import annotations

import pytest

from twinhull.cli import values


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("1", 1), ("128m", 134217728), ("128M", 134217728), ("1.5g", 1610612736), ("512MiB", 536870912), ("64kb", 65536),
     ("10b", 10),
     (".5k", 512), ("2t", 2 << 40), ("-1", -1), ("1 GiB", 1 << 30)],
)  # fmt: skip
def test_size(text: str, expected: int) -> None:
    assert values.size(text) == expected


@pytest.mark.parametrize("text", ["", "m", "12q", "1mi", "-2", "1.2.3", "128 m b", "٣m", "0x10", "1e3"])
def test_size_refused(text: str) -> None:
    with pytest.raises(ValueError, match="128m"):
        values.size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("10", 10),
        ("1.5", 1.5),
        ("1m30s", 90),
        ("500ms", 0.5),
        ("1h", 3600),
        ("100us", 0.0001),
        ("2h45m", 9900),
        ("1d", 86400),
        (".5s", 0.5),
    ],
)
def test_duration(text: str, expected: float) -> None:
    assert values.duration(text) == expected


@pytest.mark.parametrize("text", ["", "m", "1m30", "30x", "1 m", "-5s", "s1", "inf", "nan", "1e3"])
def test_duration_refused(text: str) -> None:
    with pytest.raises(ValueError, match="use a"):
        values.duration(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e9", "", "two", "0x1", "1,5", "٣"])
def test_number_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        values.number(text)


def test_number() -> None:
    assert [values.number(text) for text in (".5", "2", "1.25", "3.")] == [0.5, 2, 1.25, 3]


@pytest.mark.parametrize("text", ["-1", "+1", "1.0", "", "²", "1_000"])
def test_integer_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole"):
        values.integer(text)


def test_count_calls_minus_one_no_limit() -> None:
    assert [values.count(text) for text in ("-1", "0", "5")] == [0, 0, 5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10m", 9400.0), ("1700000000", 1700000000.0), ("1700000000.5", 1700000000.5), ("1970-01-01T00:00:10Z", 10.0),
     ("1970-01-01T01:00:10+01:00", 10.0), ("1970-01-01T00:00:10.123456789Z", 10.123456)],
)  # fmt: skip
def test_when(text: str, expected: float) -> None:
    assert values.when(text, now=10_000.0) == expected


def test_when_refused() -> None:
    with pytest.raises(ValueError, match="10m"):
        values.when("yesterday", 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a=1,b=2", ["a=1", "b=2"]), ('"a=1,2",b', ["a=1,2", "b"]), ('"say ""hi""",x', ['say "hi"', "x"]), ("", [""]), ("a,", ["a", ""])],
)
def test_fields(text: str, expected: list[str]) -> None:
    assert values.fields(text) == expected


@pytest.mark.parametrize("text", ['"open', '"a"b', '"a""'])
def test_fields_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quote"):
        values.fields(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("sh", ["sh"]), ("", []), ('["a","b c"]', ["a", "b c"]), ("[", ["["]), ("[ -f x ]", ["[ -f x ]"]), ("[]", [])],
)
def test_words(text: str, expected: list[str]) -> None:
    assert values.words(text) == expected


def test_words_refuses_a_list_of_other_things() -> None:
    with pytest.raises(ValueError, match="strings"):
        values.words("[1]")


@pytest.mark.parametrize("text", ["8", "0o8", "abc", "", "77777", "-1"])
def test_octal_refused(text: str) -> None:
    with pytest.raises(ValueError, match="octal"):
        values.octal(text)


def test_octal() -> None:
    assert [values.octal(text) for text in ("0440", "1777", "0o644", "0")] == [0o440, 0o1777, 0o644, 0]
