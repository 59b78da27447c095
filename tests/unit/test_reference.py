"""Names of images by the distribution grammar; the valid and invalid cases of its own test table among them."""

from __future__ import annotations

import pytest

from twinhull.errors import UserError
from twinhull.image import reference

DIGEST = "sha256:" + "f" * 64


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("busybox", ("", "busybox", "", "")),
        ("busybox:1.36", ("", "busybox", "1.36", "")),
        ("localhost/web", ("localhost", "web", "", "")),
        ("shop/web", ("", "shop/web", "", "")),
        ("test.com/repo:tag", ("test.com", "repo", "tag", "")),
        ("test:5000/repo", ("test:5000", "repo", "", "")),
        ("test:5000/repo:tag@" + DIGEST, ("test:5000", "repo", "tag", DIGEST)),
        ("[2001:db8::1]:5000/repo", ("[2001:db8::1]:5000", "repo", "", "")),
        ("Foo/bar", ("Foo", "bar", "", "")),
        ("foo/foo_bar.com:8080", ("", "foo/foo_bar.com", "8080", "")),
        ("a__b---c", ("", "a__b---c", "", "")),
        ("xn--n3h.com/myimage:xn--n3h.com", ("xn--n3h.com", "myimage", "xn--n3h.com", "")),
        ("x@" + DIGEST, ("", "x", "", DIGEST)),
        ("a/" * 100 + "a:" + "t" * 128, ("", "a/" * 100 + "a", "t" * 128, "")),
    ],
)
def test_good(text: str, parts: tuple[str, ...]) -> None:
    parsed = reference.parse(text)
    assert (parsed.domain, parsed.path, parsed.tag, parsed.digest) == parts
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":justtag",
        "@" + DIGEST,
        "repo@sha256:ffff",
        "repo@sha256:" + "F" * 64,
        "validname@invalidDigest:" + "f" * 10,
        "Uppercase:tag",
        "test:5000/Uppercase/lowercase:tag",
        "a/" * 128 + "a",
        "aa/asdf$$^/aa",
        "a//b",
        "/a",
        "a/",
        "-a",
        "a-",
        "a_-b",
        "a..b",
        "a___b",
        "../a",
        "a/../b",
        "a:" + "t" * 129,
        "a:-t",
        "a:t:u",
        "a b",
        "a\n",
        "ä",
        "a:ä",
        "--all",
        "f" * 64,
        "[fe80::1%eth0]/a",
        "http://a/b",
        "containers-storage:a/b:c",
    ],
)
def test_bad(text: str) -> None:
    with pytest.raises(UserError) as caught:
        reference.parse(text)
    assert "bad image reference" in caught.value.message
    assert caught.value.hint


def test_where_a_short_name_is_looked_for() -> None:
    assert [str(c) for c in reference.parse("busybox").candidates()] == ["localhost/busybox:latest", "docker.io/library/busybox:latest"]
    assert [str(c) for c in reference.parse("shop/web:1").candidates()] == ["localhost/shop/web:1", "docker.io/shop/web:1"]
    assert [str(c) for c in reference.parse("docker.io/busybox").candidates()] == ["docker.io/library/busybox:latest"]
    assert [str(c) for c in reference.parse(f"a.b/c@{DIGEST}").candidates()] == [f"a.b/c@{DIGEST}"]


def test_whose_a_new_name_is() -> None:
    assert reference.local("web") == "localhost/web:latest"
    assert reference.local("docker.io/web") == "docker.io/library/web:latest"
    assert reference.remote("web:1") == "docker.io/library/web:1"
    with pytest.raises(UserError, match="can't contain a digest"):
        reference.local(f"web@{DIGEST}")
