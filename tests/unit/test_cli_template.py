"""Templates: what Docker's users type, and what a wrong one says."""

from __future__ import annotations

from typing import Any

import pytest

from twinhull.cli import template
from twinhull.cli.template import TemplateError

ITEM: dict[str, Any] = {
    "id": "abc",
    "exit_code": 3,
    "running": True,
    "off": False,
    "nothing": None,
    "names": ["a", "b"],
    "spec": {"env": ["A=1", "B=2"], "labels": {"app": "shop", "x-y": "z"}},
    "networks": {"front": {"address": "10.0.0.2"}, "back": {"address": "10.0.0.3"}},
}


def render(source: str) -> str:
    return template.compile(source).render(ITEM)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", "plain"),
        ("{{.id}}", "abc"),
        ("{{.ID}} {{ .ExitCode }} {{.Exit_Code}}", "abc 3 3"),
        ("{{.running}} {{.off}} [{{.nothing}}]", "true false []"),
        (r"{{.id}}\t{{.exit_code}}\n", "abc\t3\n"),
        ("{{.Spec.Labels.App}}", "shop"),
        ('{{index .spec.labels "x-y"}} {{index .names 1}} {{index .spec.labels "gone"}}|', "z b |"),
        ("{{json .names}} {{.names | json}} {{.names}}", '["a","b"] ["a","b"] ["a","b"]'),
        ("{{json .spec}}", '{"env":["A=1","B=2"],"labels":{"app":"shop","x-y":"z"}}'),
        ("{{upper .id}} {{.id | upper | lower}} {{title .id}}", "ABC abc Abc"),
        ("{{len .names}} {{len .id}} {{len .spec}}", "2 3 2"),
        ('{{join .names ", "}} {{index (split .id "b") 0}}'.replace('{{index (split .id "b") 0}}', '{{split .id "b"}}'), 'a, b ["a","c"]'),
        ("{{range .names}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range .networks}}{{.address}} {{end}}", "10.0.0.2 10.0.0.3 "),
        ("{{range .spec.env}}{{println .}}{{end}}", "A=1\nB=2\n"),
        ("{{range .nothing}}x{{else}}none{{end}}", "none"),
        ("{{if .running}}up{{else}}down{{end}} {{if .off}}up{{else}}down{{end}}", "up down"),
        ("{{if .names}}{{range .names}}{{.}}{{end}}{{end}}", "ab"),
        ("a {{- .id -}} b", "aabcb"),
        ("{{/* a remark */}}x", "x"),
        ('{{`raw`}} {{"quoted\\n"}}', "raw quoted\n"),
        ("", ""),
    ],
)
def test_rendered(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("{{.exitcod}}", "there is no field .exitcod", "did you mean .exit_code?"),
        ("{{.zzz}}", "there is no field .zzz", "fields: id,"),
        ("{{.id.x}}", ".x: 'abc' has no fields", ""),
        ("{{.names.x}}", ".x: a list has no fields", ""),
        ("{{.nothing.x}}", ".x: null has no fields", ""),
        ("{{jsn .id}}", "unknown function jsn", "did you mean json?"),
        ("{{frob .id}}", "unknown function frob", "functions: json"),
        ("{{.id", "{{ without }}", ""),
        ("{{}}", "is empty", ""),
        ("{{.id |}}", "is empty", ""),
        ("{{range .names}}", "has no {{end}}", ""),
        ("{{end}}", "has no beginning", ""),
        ("{{.id @}}", "isn't understood", "help templates"),
        ("{{index .names 7}}", "index", "help templates"),
        ("{{len .exit_code}}", "has no length", ""),
        ("{{join .names}}", "join", ""),
        ("{{.id 1}}", "takes no argument", ""),
    ],
)
def test_refused(source: str, message: str, hint: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    with pytest.raises(TemplateError, match="too deep"):
        template.compile("{{if .id}}" * 500 + "{{end}}" * 500)


def test_help_names_every_function() -> None:
    assert all(name in template.HELP for name in template.FUNCTIONS)
