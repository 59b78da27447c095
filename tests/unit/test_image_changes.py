"""Containerfile instructions on an image configuration."""

from __future__ import annotations

from typing import Any

import pytest

from twinhull.errors import UserError
from twinhull.image import changes


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ({}, 'CMD ["a", "b c"]', {"Cmd": ["a", "b c"]}),
        ({}, "cmd echo $X", {"Cmd": ["/bin/sh", "-c", "echo $X"]}),
        ({"Cmd": ["x"]}, 'ENTRYPOINT ["/init"]', {"Entrypoint": ["/init"]}),
        ({"Env": ["A=1", "B=2"]}, "ENV A=3 C='x y'", {"Env": ["A=3", "B=2", "C=x y"]}),
        ({}, "ENV A some words", {"Env": ["A=some words"]}),
        ({}, "EXPOSE 80 53/udp 8000-8001", {"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}}}),
        ({"Labels": {"a": "1"}}, 'LABEL b="2 3"', {"Labels": {"a": "1", "b": "2 3"}}),
        ({}, "STOPSIGNAL SIGINT", {"StopSignal": "SIGINT"}),
        ({}, "USER app:wheel", {"User": "app:wheel"}),
        ({}, "VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ({}, 'VOLUME ["/a b"]', {"Volumes": {"/a b": {}}}),
        ({"WorkingDir": "/srv"}, "WORKDIR app", {"WorkingDir": "/srv/app"}),
        ({}, "HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            {},
            'HEALTHCHECK --interval=1m30s --retries=2 --start-period=500ms CMD ["curl", "x"]',
            {"Healthcheck": {"Interval": 90 * 10**9, "Retries": 2, "StartPeriod": 500_000_000, "Test": ["CMD", "curl", "x"]}},
        ),
        ({}, "HEALTHCHECK CMD true || false", {"Healthcheck": {"Test": ["CMD-SHELL", "true || false"]}}),
    ],
)
def test_apply(before: dict[str, Any], change: str, after: dict[str, Any]) -> None:
    assert changes.apply(before, (change,)) == after


@pytest.mark.parametrize(
    "change",
    ["RUN x", "FROM x", "", "CMD", 'CMD ["a"', "CMD [1]", "ENV", "ENV =x", "EXPOSE http", "EXPOSE 0", "EXPOSE 90-80", "EXPOSE 70000",
     "USER a b", "STOPSIGNAL", "HEALTHCHECK x", "HEALTHCHECK --interval=5 CMD x", "HEALTHCHECK --foo=1s CMD x", "LABEL 'a", "VOLUME ["],
)  # fmt: skip
def test_bad(change: str) -> None:
    with pytest.raises(UserError, match="bad change"):
        changes.apply({}, (change,))


def test_the_given_configuration_is_left_alone() -> None:
    before = {"Env": ["A=1"], "Labels": {"a": "1"}}
    changes.apply(before, ("ENV A=2", "LABEL a=2"))
    assert before == {"Env": ["A=1"], "Labels": {"a": "1"}}
