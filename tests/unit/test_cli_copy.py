"""Docker's rules of what `cp` puts where, as a table."""

from __future__ import annotations

import pytest

from twinhull.cli.transfer import Target
from twinhull.cli.verbs.copying import Facts, Place, choose, place
from twinhull.errors import UserError

FILE, FOLDER, MISSING = "file", "folder", "missing"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web:/x", Place("web", "/x")),
        ("web:x", Place("web", "x")),
        ("web:", Place("web", "/")),
        ("/a:b", Place("", "/a:b")),
        ("./a:b", Place("", "./a:b")),
        ("a/b:c", Place("", "a/b:c")),
        ("-", Place("", "-")),
        ("file", Place("", "file")),
        (":x", Place("", ":x")),
    ],
)
def test_place(text: str, expected: Place) -> None:
    assert place(text) == expected


@pytest.mark.parametrize(
    ("source", "kind", "target", "target_kind", "expected"),
    [
        ("/a/f", FILE, "/d", FOLDER, Target("/d", "f")),
        ("/a/f", FILE, "/d/", FOLDER, Target("/d/", "f")),
        ("/a/f", FILE, "/d/g", MISSING, Target("/d", "g")),
        ("/a/f", FILE, "/d/g", FILE, Target("/d", "g")),
        ("/a/f", FILE, "g", MISSING, Target(".", "g")),
        ("/a/d", FOLDER, "/d", FOLDER, Target("/d", "d")),
        ("/a/d/", FOLDER, "/d", FOLDER, Target("/d", "d")),
        ("/a/d/.", FOLDER, "/d", FOLDER, Target("/d", "")),
        ("/a/d", FOLDER, "/d/new", MISSING, Target("/d", "new")),
        ("/a/d/.", FOLDER, "/d/new", MISSING, Target("/d", "new")),
        ("/a/d", FOLDER, "/d/new/", MISSING, Target("/d", "new")),
        ("/", FOLDER, "/d", FOLDER, Target("/d", "", 0)),
        ("/", FOLDER, "/d/new", MISSING, Target("/d", "new", 0)),
        (".", FOLDER, "/d", FOLDER, Target("/d", "", 0)),
        ("..", FOLDER, "/d", FOLDER, Target("/d", "", 0)),
    ],
)
def test_choose(source: str, kind: str, target: str, target_kind: str, expected: Target) -> None:
    assert choose(Facts(source, kind), Facts(target, target_kind), parent_exists=True) == expected


@pytest.mark.parametrize(
    ("source", "target", "parent", "message"),
    [
        (Facts("/a/d", FOLDER), Facts("/d/f", FILE), True, "a folder can't replace it"),
        (Facts("/a/f", FILE), Facts("/d/f/", FILE), True, "is no folder"),
        (Facts("/a/f", FILE), Facts("/d/g/", MISSING), True, "/d/g/: there is no such folder"),
        (Facts("/a/f", FILE), Facts("/x/g", MISSING), False, "/x: there is no such folder"),
        (Facts("/a/d", FOLDER), Facts("/x/g", MISSING), False, "/x: there is no such folder"),
    ],
)
def test_refused(source: Facts, target: Facts, parent: bool, message: str) -> None:
    with pytest.raises(UserError) as caught:
        choose(source, target, parent_exists=parent)
    assert message in caught.value.message
