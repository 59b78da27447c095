"""buildah's command line, and where a build failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinhull.errors import NotFoundError, PermanentError, TemporaryError, UserError
from twinhull.image import build
from twinhull.image.base import BuildSpec
from twinhull.image.tools import ToolError

FILE = """\
# escape=\\
# a comment
FROM busybox AS base

ENV A=1 \\
    # inside
    B=2
RUN echo one   && \\

    false
COPY missing /x
"""


def test_argv() -> None:
    spec = BuildSpec("/src", tags=("web", "r.example/web:2"), target="base", args={"A": "1"}, labels={"l": "v"}, no_cache=True)
    assert build.argv(spec, Path("/src/Containerfile"), Path("/w/iid"), "/m") == [
        "buildah", "build", "--isolation=chroot", "--network=host", "--format=docker", "--layers", "--force-rm", "--pull=false",
        "--retry=1", "--iidfile=/w/iid", "--cgroup-parent=/m", "--file=/src/Containerfile", "--no-cache", "--tag=localhost/web:latest",
        "--tag=r.example/web:2", "--target=base", "--build-arg=A=1", "--label=l=v", "/src",
    ]  # fmt: skip


def test_pull_asks_the_registry() -> None:
    assert "--pull-always" in build.argv(BuildSpec("/src", pull=True), Path("/f"), Path("/i"), "/m")


def test_a_bad_tag_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match="bad image reference"):
        build.argv(BuildSpec("/src", tags=("--help",)), Path("/f"), Path("/i"), "/m")


def test_instructions_know_their_lines() -> None:
    assert [(item.line, item.text) for item in build.instructions(FILE)] == [
        (3, "FROM busybox AS base"),
        (5, "ENV A=1 B=2"),
        (8, "RUN echo one   && false"),
        (11, "COPY missing /x"),
    ]
    assert build.instructions("#escape=`\nFROM x\nRUN a `\n b\\\nCMD c")[1] == build.Instruction(3, "RUN a b\\")


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        (
            ["STEP 3/4: RUN echo one   && false", 'Error: building at STEP "RUN echo one   && false": exit status 1'],
            UserError,
            "build Containerfile:8: RUN echo one   && false: exit status 1",
        ),
        (
            [
                "[1/2] STEP 4/4: COPY missing /x",
                'Error: building at STEP "COPY missing /x": checking on sources: stat: "/missing": no such file',
            ],
            UserError,
            'build Containerfile:11: COPY missing /x: checking on sources: stat: "/missing": no such file',
        ),
        (
            ["STEP 1/4: FROM busybox AS base", "Error: creating build container: initializing source docker://x: connection refused"],
            TemporaryError,
            "build Containerfile:3: FROM busybox AS base: connection refused",
        ),
        (
            ["STEP 1/4: FROM busybox AS base", "Error: creating build container: initializing source docker://x: manifest unknown"],
            NotFoundError,
            "build Containerfile:3: FROM busybox AS base: manifest unknown",
        ),
        (
            ["STEP 4/4: COPY missing /x", 'Error: building at STEP "COPY missing /x": storing: no space left on device'],
            PermanentError,
            "build Containerfile:11: COPY missing /x: storing: no space left on device",
        ),
        (["Error: dockerfile parse error line 7: what"], UserError, "build Containerfile:7: dockerfile parse error line 7: what"),
        (["Error: something else"], UserError, "build Containerfile: something else"),
        ([], UserError, "build Containerfile: exit status 1"),
    ],
)
def test_failure(tmp_path: Path, lines: list[str], kind: type[Exception], said: str) -> None:
    file = tmp_path / "Containerfile"
    file.write_text(FILE)
    error = build.failure(ToolError("buildah", 1, lines), file)
    assert type(error) is kind
    assert error.message == said


@pytest.mark.parametrize(
    ("text", "said"), [("", "no FROM"), ("RUN x", "no FROM"), ("FROM x\nRUN\n", ":2: RUN needs"), ("FROM x\n\nenv \\\n\n", ":3: ENV needs")]
)
def test_check(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "F").write_text(text)
    with pytest.raises(UserError, match=said):
        build.check(tmp_path / "F")


def test_containerfile(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="isn't a folder"):
        build.containerfile(BuildSpec("relative"))
    with pytest.raises(NotFoundError, match="no Containerfile or Dockerfile"):
        build.containerfile(BuildSpec(str(tmp_path)))
    (tmp_path / "Dockerfile").touch()
    assert build.containerfile(BuildSpec(str(tmp_path))) == tmp_path / "Dockerfile"
    (tmp_path / "Containerfile").touch()
    assert build.containerfile(BuildSpec(str(tmp_path))) == tmp_path / "Containerfile"
    with pytest.raises(NotFoundError, match="no other in"):
        build.containerfile(BuildSpec(str(tmp_path), "other"))
