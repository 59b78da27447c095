"""Docker's rules for `--user`, from texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhull.errors import UserError
from twinhull.instance.users import Identity, names, resolve, with_home

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# a comment
broken:x:notanumber:0::/:
app:x:1000:1001:App:/home/app:/bin/sh
5:x:42:42::/five:/bin/sh
nohome:x:7:7
second:x:1000:9::/second:/bin/sh
"""
GROUP = """\
root:x:0:
app:x:1001:
wheel:x:10:root,app
audio:x:29:app
wheelagain:x:10:app
"""


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (10,), "/root", "root")),
        ("root", Identity(0, 0, (10,), "/root", "root")),
        ("0", Identity(0, 0, (10,), "/root", "root")),
        ("app", Identity(1000, 1001, (10, 29), "/home/app", "app")),
        ("1000", Identity(1000, 1001, (10, 29), "/home/app", "app")),
        ("app:wheel", Identity(1000, 10, (), "/home/app", "app")),
        ("app:10", Identity(1000, 10, (), "/home/app", "app")),
        ("app:4242", Identity(1000, 4242, (), "/home/app", "app")),
        (":wheel", Identity(0, 10, (), "/root", "root")),
        ("2000", Identity(2000, 0, (), "/", "")),
        ("2000:3000", Identity(2000, 3000, (), "/", "")),
        ("5", Identity(42, 42, (), "/five", "5")),  # a name that looks like a number is a name first
        ("nohome", Identity(7, 7, (), "/", "nohome")),
    ],
)
def test_resolves_as_docker_does(user: str, expected: Identity) -> None:
    assert resolve(user, PASSWD, GROUP) == expected


def test_numbers_need_no_files() -> None:
    assert resolve("", "", "") == Identity()
    assert resolve("12:34", "", "") == Identity(12, 34)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("zed", "unable to find user zed: no matching entries in passwd file"),
        ("-1", "unable to find user -1: no matching entries in passwd file"),
        ("broken", "unable to find user broken: no matching entries in passwd file"),
        ("²", "unable to find user ²: no matching entries in passwd file"),
        ("app:zed", "unable to find group zed: no matching entries in group file"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("0:2147483648", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_refuses(user: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        resolve(user, PASSWD, GROUP)


def test_home_is_set_unless_it_is() -> None:
    identity = Identity(home="/home/app")
    assert with_home(("A=1",), identity) == ("A=1", "HOME=/home/app")
    assert with_home(("HOME=/x",), identity) == ("HOME=/x",)
    assert with_home(("HOME=", "A=1"), identity) == ("A=1", "HOME=/home/app")


def test_first_name_of_a_uid_wins() -> None:
    assert names(PASSWD) == {0: "root", 1000: "app", 42: "5", 7: "nohome"}


@given(st.text(), st.text(), st.text())
def test_hostile_files_never_break_it(user: str, passwd: str, group: str) -> None:
    try:
        identity = resolve(user, passwd, group)
    except UserError:
        return
    assert all(0 <= number < 2**31 for number in (identity.uid, identity.gid, *identity.groups))
