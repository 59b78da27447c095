"""Merging, extending and including."""

from __future__ import annotations

import pytest
from tests.unit.compose.app import App

from twinhull.compose import ComposeError


@pytest.mark.parametrize(
    ("key", "base", "over", "expected"),
    [
        ("image", "a", "b", "b"),
        ("command", "a b", "c", ["c"]),
        ("command", "[a, b]", "[]", []),
        ("entrypoint", "[a]", "[b]", ["b"]),
        ("environment", "[A=1, B=1]", "{B: '2', C: '3'}", {"A": "1", "B": "2", "C": "3"}),
        ("labels", "{a: x}", "[b=y]", {"a": "x", "b": "y"}),
        ("sysctls", "[a=1]", "[a=2]", {"a": "2"}),
        ("dns", "1.1.1.1", "[1.1.1.1, 8.8.8.8]", ["1.1.1.1", "8.8.8.8"]),
        ("tmpfs", "/a", "['/a:size=1m', /b]", ["/a:size=1m", "/b"]),
        ("expose", "['80']", "['80', '81']", ["80", "81"]),
        ("cap_add", "[CHOWN]", "[CHOWN, KILL]", ["CHOWN", "KILL"]),
        ("extra_hosts", "['a:1.1.1.1']", "{b: 1.1.1.2}", ["a=1.1.1.1", "b=1.1.1.2"]),
        ("healthcheck", "{test: a, interval: 1s}", "{test: [CMD, b]}", {"test": ["CMD", "b"], "interval": "1s"}),
        (
            "deploy",
            "{replicas: '1', labels: [a=1]}",
            "{replicas: '2', labels: {b: '1'}}",
            {"replicas": "2", "labels": {"a": "1", "b": "1"}},
        ),
        ("logging", "{driver: local, options: {max-size: 1m}}", "{driver: json-file}", {"driver": "json-file"}),
        (
            "logging",
            "{driver: local, options: {max-size: 1m}}",
            "{options: {max-file: '2'}}",
            {"driver": "local", "options": {"max-size": "1m", "max-file": "2"}},
        ),
        ("ulimits", "{nofile: '1', nproc: '1'}", "{nofile: {soft: '1', hard: '2'}}", {"nofile": {"soft": "1", "hard": "2"}, "nproc": "1"}),
        ("secrets", "[a]", "[{source: b, target: a}]", [{"source": "b", "target": "a"}]),
        ("configs", "[a]", "[a, b]", [{"source": "a"}, {"source": "b"}]),
        ("devices", "[/a:/x]", "[/b:/x, /c]", ["/b:/x", "/c"]),
        ("env_file", "[]", "[]", None),
        ("x-any", "{a: '1', l: ['1']}", "{a: {b: '2'}, l: ['2']}", {"a": {"b": "2"}, "l": ["1", "2"]}),
    ],
)
def test_merging(app: App, key: str, base: str, over: str, expected: object) -> None:
    assert app.merged(f"{key}: {base}", f"{key}: {over}").get(key) == expected


def test_mounts_are_one_per_target(app: App) -> None:
    found = app.merged("volumes: ['a:/x:ro', './b:/y']", "volumes: ['c:/x', 'd:/z']")["volumes"]
    assert [(mount["source"].removeprefix(f"{app.folder}/"), mount["target"], mount.get("read_only")) for mount in found] == [
        ("c", "/x", None),
        ("b", "/y", None),
        ("d", "/z", None),
    ]


def test_defaults_hide_nothing(app: App) -> None:
    base = "services: {web: {build: ./src, depends_on: {b: {condition: service_started, required: false}}}, b: {image: x, profiles: [p]}}\n"
    over = "services: {web: {build: {args: {A: 1}}, depends_on: {b: {condition: service_healthy}}}}\n"
    web = app.spec(base, over).services["web"]
    assert web.build is not None
    assert (web.build.context, web.build.args, web.depends_on) == (f"{app.folder}/src", {"A": "1"}, ())
    alone = app.spec("services: {web: {build: {args: {A: 1}}}}\n").services["web"].build
    assert alone is not None
    assert alone.context == str(app.folder)


def test_ports_are_added(app: App) -> None:
    found = app.merged("ports: ['80:80', '81:81']", "ports: ['80:80', '80:80/udp']")["ports"]
    assert [(port["published"], port["protocol"]) for port in found] == [("80", "tcp"), ("81", "tcp"), ("80", "udp")]


def test_reset_and_override(app: App) -> None:
    base = "services: {web: {image: x, command: a, ports: ['80'], labels: {a: b}, environment: {A: 1}}}\n"
    over = "services: {web: {command: !reset null, ports: !override ['81'], labels: !reset {}, environment: {A: !reset null, B: 2}}}\n"
    found = app.resolve(base, over).tree["services"]["web"]
    assert "command" not in found
    assert "labels" not in found
    assert [port["target"] for port in found["ports"]] == [81]
    assert found["environment"] == {"B": "2"}
    assert "web" not in app.resolve("services: {web: {image: x}, b: {image: b}}\n", "services: {web: !reset {}}\n").tree["services"]


def test_types_that_do_not_go_together(app: App) -> None:
    with pytest.raises(ComposeError, match=r"1\.yaml:1: services\.web\.storage_opt\.a is a list here and a string in the file before"):
        app.resolve("services: {web: {image: x, storage_opt: {a: b}}}\n", "services: {web: {storage_opt: {a: [1]}}}\n")


def test_errors_name_the_file_that_is_wrong(app: App) -> None:
    with pytest.raises(ComposeError, match=r"1\.yaml:2: "):
        app.resolve("services: {web: {image: x}}\n", "services:\n  web: {imge: y}\n")


def test_subnets_merge(app: App) -> None:
    base = "services: {web: {image: x, networks: [n]}}\nnetworks: {n: {ipam: {config: [{subnet: 10.0.0.0/24}]}}}\n"
    over = "networks: {n: {ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.0.0.9}]}}}\n"
    config = app.resolve(base, over).tree["networks"]["n"]["ipam"]["config"]
    assert config == [{"subnet": "10.0.0.0/24", "gateway": "10.0.0.9"}]


def test_extends(app: App) -> None:
    app.write(
        "services:\n"
        "  base: {image: base, env_file: b.env, volumes: ['./v:/v'], extends: root}\n"
        "  root: {command: [r], environment: {R: 1}}\n",
        "lib/common.yaml",
    )
    app.write("B=$OUT\n", "lib/b.env")
    spec = app.spec(
        "services:\n"
        "  web: {extends: {file: lib/common.yaml, service: base}, environment: {W: 1}}\n"
        "  two: {extends: web, image: two, environment: {R: !reset null}}\n",
        environment={"OUT": "o"},
    )
    web, two = spec.services["web"].template, spec.services["two"].template
    assert (web.image, web.command, web.env) == ("base", ("r",), ("B=o", "R=1", "W=1"))
    assert web.mounts[0].source == f"{app.folder}/lib/v"
    assert (two.image, two.command, set(two.env)) == ("two", ("r",), {"B=o", "W=1"})


def test_extends_of_files_goes_round_in_a_circle(app: App) -> None:
    app.write("services: {a: {extends: {file: two.yaml, service: b}}}\n", "one.yaml")
    app.write("services: {b: {extends: {file: one.yaml, service: a}}}\n", "two.yaml")
    with pytest.raises(ComposeError, match=r"(one|two)\.yaml:1: extends goes round in a circle"):
        app.resolve("services: {web: {extends: {file: one.yaml, service: a}}}\n")


def test_include(app: App) -> None:
    app.write("services: {b: {image: '$TAG-$OWN', volumes: ['./v:/v', 'data:/d']}}\nvolumes: {data: }\n", "sub/compose.yaml")
    app.write("OWN=sub\nTAG=sub\n", "sub/.env")
    app.write("services: {c: {image: '$X', volumes: ['./v:/v']}}\n", "other/c.yaml")
    app.write("services: {c: {command: [over]}}\n", "other/d.yaml")
    app.write("X=given\n", "c.env")
    spec = app.spec(
        "include:\n"
        "  - sub/compose.yaml\n"
        "  - {path: [other/c.yaml, other/d.yaml], project_directory: elsewhere, env_file: c.env}\n"
        "services: {a: {image: a, depends_on: [b]}, b: {command: [local]}}\n",
        environment={"TAG": "env"},
    )
    assert list(spec.services) == ["b", "c", "a"]
    b, c = spec.services["b"].template, spec.services["c"].template
    assert (b.image, b.command, b.mounts[0].source) == ("env-sub", ("local",), f"{app.folder}/sub/v")
    assert (c.image, c.command, c.mounts[0].source) == ("given", ("over",), f"{app.folder}/elsewhere/v")
    assert list(spec.volumes) == ["app_data"]


def test_include_that_goes_round_in_a_circle(app: App) -> None:
    app.write("include: [b.yaml]\n", "a.yaml")
    app.write("include: [a.yaml]\n", "b.yaml")
    with pytest.raises(ComposeError, match=r"a\.yaml:1: include goes round in a circle|b\.yaml:1: include goes round in a circle"):
        app.resolve("include: [a.yaml]\n")


def test_includes_that_multiply_end(app: App) -> None:
    for level in range(12):
        app.write(f"include: [{level + 1}.yaml, {level + 1}.yaml]\n", f"{level}.yaml")
    app.write("services: {a: {image: x}}\n", "12.yaml")
    with pytest.raises(ComposeError, match="more than 100 files"):
        app.resolve("include: [0.yaml]\n")


def test_several_documents_in_a_file_merge(app: App) -> None:
    assert app.spec("services: {web: {image: a, command: [c]}}\n---\nservices: {web: {image: b}}\n").services["web"].template.image == "b"
