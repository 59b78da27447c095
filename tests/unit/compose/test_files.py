"""Which files are meant, which variables fill them in, what the project is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.compose.app import App

from twinhull.compose import ComposeError, files, load, resolve

ONE = "services:\n  a: {image: one}\n"


def images(spec_of: Path | None = None, **environment: str) -> dict[str, str]:
    """Service → image of what is found."""
    spec = load((), environment=environment, folder=spec_of)
    return {name: service.template.image for name, service in spec.services.items()}


def test_the_first_name_wins(app: App) -> None:
    for name in reversed(files.NAMES):
        app.write(f"services:\n  a: {{image: {name}}}\n", name)
        assert images(app.folder) == {"a": name}


def test_a_folder_above(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.write(ONE)
    below = app.folder / "x" / "y"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    spec = load((), environment={})
    assert (spec.name, spec.folder) == ("app", str(app.folder))


def test_the_override_lies_on_top(app: App) -> None:
    app.write(ONE)
    app.write("services:\n  a: {image: two}\n  b: {image: b}\n", "compose.override.yaml")
    assert images(app.folder) == {"a": "two", "b": "b"}
    assert load([app.folder / "compose.yaml"], environment={}).services["a"].template.image == "one"


def test_nothing_there(app: App) -> None:
    with pytest.raises(ComposeError, match="no compose file in "):
        load((), environment={}, folder=app.folder)


def test_compose_file_and_its_separator(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.write(ONE, "one.yaml")
    app.write("services:\n  b: {image: two}\n", "two.yaml")
    assert images(app.folder, COMPOSE_FILE="one.yaml:two.yaml") == {"a": "one", "b": "two"}
    assert images(app.folder, COMPOSE_FILE="one.yaml,two.yaml", COMPOSE_PATH_SEPARATOR=",") == {"a": "one", "b": "two"}
    app.write("COMPOSE_FILE=two.yaml\n", ".env")
    monkeypatch.chdir(app.folder)
    assert images() == {"b": "two"}


def test_stdin(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    source = app.write("services:\n  a: {image: one, volumes: ['./x:/x']}\n")
    monkeypatch.setattr("sys.stdin", source.open())
    spec = load([Path("-")], environment={}, folder=app.folder)
    assert spec.services["a"].template.mounts[0].source == str(app.folder / "x")


def test_the_environment_wins_over_dotenv(app: App) -> None:
    app.write("services:\n  a: {image: 'x${A}y${B}z${C:-c}'}\n")
    app.write("A=file\nB=${A}\n", ".env")
    assert images(app.folder) == {"a": "xfileyfilezc"}
    assert images(app.folder, A="environment") == {"a": "xenvironmentyenvironmentzc"}
    assert images(app.folder, COMPOSE_DISABLE_ENV_FILE="1") == {"a": "xyzc"}


def test_only_the_projects_dotenv_counts(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = app.write("services:\n  a: {image: 'x${A}'}\n")
    (tmp_path / ".env").write_text("A=elsewhere\n")
    monkeypatch.chdir(tmp_path)
    assert load([file], environment={}).services["a"].template.image == "x"


def test_env_files_instead_of_dotenv(app: App) -> None:
    file = app.write("services:\n  a: {image: '${A}y${B-}'}\n")
    app.write("A=dotenv\nB=dotenv\n", ".env")
    one, two = app.write("A=one\n", "1.env"), app.write("A=${A}two\n", "2.env")
    assert load([file], environment={}, env_files=[one, two]).services["a"].template.image == "onetwoy"
    with pytest.raises(ComposeError, match=r"read .*nowhere"):
        load([file], environment={}, env_files=[app.folder / "nowhere"])


def test_unset_variables_are_noted(app: App) -> None:
    (note,) = app.spec("services:\n  a: {image: 'x$A'}\n").notes
    assert (note.where, note.key, note.fatal) == (f"{app.folder}/compose.yaml:2", "services.a.image", False)


@pytest.mark.parametrize(
    ("wanted", "environment", "named", "expected"),
    [
        ("", {}, "", "app"),
        ("", {}, "n", "n"),
        ("", {"COMPOSE_PROJECT_NAME": "e"}, "n", "e"),
        ("p", {"COMPOSE_PROJECT_NAME": "e"}, "n", "p"),
    ],
)
def test_project_names(app: App, wanted: str, environment: dict[str, str], named: str, expected: str) -> None:
    text = (f"name: {named}\n" if named else "") + "services:\n  a: {image: 'x/${COMPOSE_PROJECT_NAME}'}\n"
    spec = load([app.write(text)], environment=environment, project=wanted)
    assert (spec.name, spec.services["a"].template.image) == (expected, f"x/{expected}")


def test_names_of_folders() -> None:
    assert files.project_name("", {}, "", "/x/My App_1.2") == "myapp_12"
    with pytest.raises(ComposeError, match="no project name"):
        files.project_name("", {}, "", "/")
    with pytest.raises(ComposeError, match="-p: 'Big'"):
        files.project_name("Big", {}, "", "/x")


def test_a_folder_for_relative_paths(app: App, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / ".env").write_text("A=there\n")
    file = app.write("services:\n  a: {image: '$A', volumes: ['./x:/x', '~/y:/y']}\n")
    spec = load([file], environment={"HOME": "/home/me"}, folder=other)
    assert (spec.name, spec.services["a"].template.image) == ("elsewhere", "there")
    assert [mount.source for mount in spec.services["a"].template.mounts] == [f"{other}/x", "/home/me/y"]


PROFILES = """services:
  a: {image: a, depends_on: {b: {condition: service_started, required: false}}}
  b: {image: b, profiles: [one, two]}
  c: {image: c, profiles: [two]}
"""


def test_profiles(app: App) -> None:
    assert list(app.spec(PROFILES).services) == ["a"]
    assert list(app.spec(PROFILES, profiles=["one"]).services) == ["b", "a"]
    assert list(app.spec(PROFILES, environment={"COMPOSE_PROFILES": "one, two"}).services) == ["b", "a", "c"]
    assert list(app.spec(PROFILES, profiles=["*"]).services) == ["b", "a", "c"]
    assert list(app.spec(PROFILES, services=["c"]).services) == ["b", "a", "c"]
    assert app.resolve(PROFILES).profiles == ("one", "two")
    with pytest.raises(ComposeError, match="there is no service 'd'"):
        app.spec(PROFILES, services=["d"])


def test_env_files_of_services(app: App) -> None:
    app.write("A=one\nB=one\nC=$OUT\n", "1.env")
    app.write("B='two # $A'\n", "2.env")
    template = app.template(
        "env_file: [1.env, {path: 2.env, format: raw}, {path: none.env, required: false}]",
        "environment: [A=own, OUT, GONE, E=]",
        environment={"OUT": "side"},
    )
    assert template.env == ("A=own", "B='two # $A'", "C=side", "OUT=side", "E=")


def test_label_files(app: App) -> None:
    app.write("a=1\nb=1\n", "labels")
    assert app.template("label_file: labels", "labels: {b: 2, c: }").labels == {"a": "1", "b": "2", "c": ""}


def test_the_files_that_were_read(app: App) -> None:
    app.write("services: {b: {image: b}}\n", "sub/other.yaml")
    loaded = app.resolve("include: [sub/other.yaml]\nservices: {a: {image: a}}\n")
    assert loaded.files == (f"{app.folder}/compose.yaml", f"{app.folder}/sub/other.yaml")
    assert resolve([app.folder / "compose.yaml"], environment={}, interpolate=False).tree["include"] == ["sub/other.yaml"]
