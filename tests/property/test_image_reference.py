"""Laws of the reference grammar."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from twinhull.errors import UserError
from twinhull.image import reference

alnum = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=6)
component = st.builds(
    lambda first, rest: first + "".join(a + b for a, b in rest),
    alnum,
    st.lists(st.tuples(st.sampled_from([".", "_", "__", "-", "---"]), alnum), max_size=2),
)
path = st.lists(component, min_size=1, max_size=4).map("/".join).filter(lambda path: "." not in path.partition("/")[0])
"""Without a dot in the first part, which would make it a registry's name."""
domain = st.one_of(
    st.just(""),
    st.just("localhost"),
    st.builds("{}.{}".format, alnum, alnum),
    st.builds("{}:{}".format, alnum, st.integers(1, 65535)),
    st.just("[::1]:5000"),
)
tag = st.one_of(st.just(""), st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z"))
digest = st.one_of(st.just(""), st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format))


@given(domain, path, tag, digest)
def test_what_the_grammar_allows_is_parsed_into_its_parts(domain: str, path: str, tag: str, digest: str) -> None:
    text = (f"{domain}/" if domain else "") + path + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    parsed = reference.parse(text)
    assert str(parsed) == text
    assert (parsed.tag, parsed.digest) == (tag, digest)
    assert parsed.name == (f"{domain}/{path}" if domain else path)


@given(st.text(max_size=300))
def test_anything_else_is_one_user_error_and_never_another(text: str) -> None:
    try:
        parsed = reference.parse(text)
    except UserError as error:
        assert len(error.message) < 400
        return
    assert str(parsed) == text
    assert not text.startswith("-")
    assert all(char in string.ascii_letters + string.digits + "._-/:@[]+" for char in text)
    assert reference.parse(str(parsed)) == parsed


@given(domain, path, tag)
def test_completing_is_idempotent(domain: str, path: str, tag: str) -> None:
    text = (f"{domain}/" if domain else "") + path + (f":{tag}" if tag else "")
    for complete in (reference.local, reference.remote):
        once = complete(text)
        assert complete(once) == once
        assert reference.parse(once).domain
        assert reference.parse(once).tag
