"""`.env` files, as compose reads them."""

from __future__ import annotations

import pytest

from twinhull.compose import dotenv
from twinhull.compose.tree import ComposeError

ENVIRONMENT = {"HOME": "/root", "WINS": "environment"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# comment\n\n  # another\n", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=1\n", {"A": "1"}),
        ("export A=1\n", {"A": "1"}),
        ("A: 1\n", {"A": "1"}),
        ("A = 1 \n", {"A": "1"}),
        ("A=\nB=\n", {"A": "", "B": ""}),
        ("A=1 # note\nB=1#2\n", {"A": "1", "B": "1#2"}),
        ("A=# note\n", {"A": ""}),
        ("A=a b c\n", {"A": "a b c"}),
        ("A='$HOME # \"x\"'\n", {"A": '$HOME # "x"'}),
        ("A='it\\'s'\n", {"A": "it's"}),
        ('A="x\\ny\\t\\"z\\""\n', {"A": 'x\ny\t"z"'}),
        ('A="two\nlines" # note\nB=1\n', {"A": "two\nlines", "B": "1"}),
        ("A=$HOME/x\nB=${A}/y\n", {"A": "/root/x", "B": "/root/x/y"}),
        ('A="\\$HOME $$HOME $HOME"\n', {"A": "$HOME $HOME /root"}),
        ("WINS=file\nA=$WINS\n", {"WINS": "file", "A": "environment"}),
        ("A=${NONE:-default}\n", {"A": "default"}),
        ("HOME\nNONE\nA=1\n", {"HOME": "/root", "A": "1"}),
        ("a.b-c[0]=1\n", {"a.b-c[0]": "1"}),
        ("A=x=y=z\n", {"A": "x=y=z"}),
        ('A="\\033[0m"\n', {"A": "\x1b[0m"}),
    ],
)
def test_files(text: str, expected: dict[str, str]) -> None:
    assert dotenv.parse(text, "f.env", ENVIRONMENT) == expected


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("A=1\n=2\n", 2, "expected KEY=value"),
        ("A=1\nB C\n", 2, "expected KEY=value"),
        ("A=1\n\nB='open\n", 3, "B: a quote isn't closed"),
        ('A="open\n', 1, "a quote isn't closed"),
        ("A=${B:?needed}\n", 1, "A: variable B must be set: needed"),
        ("{}\n", 1, "expected KEY=value"),
    ],
)
def test_errors(text: str, line: int, said: str) -> None:
    with pytest.raises(ComposeError) as caught:
        dotenv.parse(text, "f.env", ENVIRONMENT)
    assert caught.value.message.startswith(f"f.env:{line}: ")
    assert said in caught.value.message


def test_raw() -> None:
    text = "# c\nA='$HOME' # x\n\nB = \"y\nC=a=b\n"
    assert dotenv.raw(text, "f") == {"A": "'$HOME' # x", "B": ' "y', "C": "a=b"}
    with pytest.raises(ComposeError, match="f:1: expected KEY=value"):
        dotenv.raw("nothing", "f")
