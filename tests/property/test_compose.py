"""Laws of reading compose files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from twinhull.compose import dotenv, load, render, resolve
from twinhull.compose.interpolate import substitute
from twinhull.compose.lower import sorted_services
from twinhull.spec.app import AppSpec

words = st.text("abcxyz0189._-", min_size=1, max_size=8)
values = st.one_of(
    st.text("ab $\"'{}#:\n€", max_size=12), words, st.sampled_from(["yes", "010", "1e3", "0o7", "~", "null", "22:22", "<<", "=", ""])
)
names = st.sampled_from(["a", "b", "c", "d"])
durations = st.sampled_from(["1s", "1m30s", "500ms", "0s"])


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with some of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


mappings = st.dictionaries(words, values, max_size=3)
mounts = st.one_of(
    st.sampled_from(["v:/v", "./x:/x:ro", "/y", "~/z:/z"]),
    st.builds(lambda target, size: {"type": "tmpfs", "target": f"/t/{target}", "tmpfs": {"size": size}}, words, st.integers(0, 99)),
)
services = st.builds(
    lambda image, rest: {"image": image, **rest},
    st.sampled_from(["x", "shop/web:1", "example.org:5000/x@sha256:" + "0" * 64]),
    optional(
        command=st.one_of(st.none(), st.lists(values, max_size=3)),
        environment=st.one_of(mappings, st.lists(st.builds("{}={}".format, words, values), unique=True, max_size=3)),
        labels=mappings,
        ports=st.lists(st.integers(1, 65535), unique=True, max_size=3).map(lambda ports: [f"{port}:{port}" for port in ports]),
        expose=st.lists(st.integers(1, 65535), unique=True, max_size=3),
        volumes=st.lists(mounts, unique_by=lambda mount: mount["target"] if isinstance(mount, dict) else mount, max_size=3),
        networks=st.one_of(st.lists(st.sampled_from(["n", "m"]), unique=True), st.just({"n": {"aliases": ["x"]}, "m": None})),
        deploy=optional(
            replicas=st.integers(0, 9), update_config=optional(delay=durations, order=st.sampled_from(["start-first", "stop-first"]))
        ),
        healthcheck=optional(test=st.one_of(st.just("NONE"), words), interval=durations, retries=st.integers(0, 9)),
        restart=st.sampled_from(["no", "always", "on-failure:3"]),
        runtime=st.sampled_from(["container", "vm", "runsc"]),
        tmpfs=st.sampled_from(["/tmpfs", ["/tmpfs:size=1m"]]),
        dns=st.sampled_from(["1.1.1.1", ["1.1.1.1", "8.8.8.8"]]),
        secrets=st.just(["s", {"source": "s", "target": "/other", "mode": 0o400}]),
    ),
)


def documents(found: dict[str, Any]) -> dict[str, Any]:
    """A whole file of these services: each of its ports at one service only, each depending on those before it."""
    taken: set[str] = set()
    for name, service in found.items():
        service["ports"] = [port for port in service.get("ports", ()) if port not in taken]
        taken |= set(service["ports"])
        service["depends_on"] = [other for other in found if other < name]
    return {
        "services": found,
        "networks": {"n": None, "m": {"internal": True}},
        "volumes": {"v": None},
        "secrets": {"s": {"environment": "HOME"}},
    }


files = st.dictionaries(names, services, min_size=1, max_size=3).map(documents)
ENVIRONMENT = {"HOME": "/home/me"}


def escaped(value: Any) -> Any:
    """Dollar signs doubled."""
    return json.loads(json.dumps(value).replace("$", "$$"))


def means(spec: AppSpec) -> tuple[Any, ...]:
    """All but the places of its notes."""
    return spec.name, spec.services, spec.networks, spec.volumes, spec.secret_values, spec.host_paths


@settings(max_examples=60, deadline=None)
@given(document=files, form=st.sampled_from(["yaml", "json"]))
def test_what_config_prints_means_the_same(document: dict[str, Any], form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, printed = Path(folder, "compose.yaml"), Path(folder, "printed.yaml")
        source.write_text(json.dumps(escaped(document)))
        loaded = resolve([source], project="app", environment=ENVIRONMENT)
        printed.write_text(render.text(render.resolved(loaded), form))
        assert means(load([printed], environment=ENVIRONMENT)) == means(loaded.spec())


@settings(max_examples=30, deadline=None)
@given(document=files)
def test_a_file_over_itself_changes_nothing(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "compose.yaml")
        source.write_text(json.dumps(escaped(document)))
        once = load([source], project="app", environment=ENVIRONMENT)
        assert means(load([source, source], project="app", environment=ENVIRONMENT)) == means(once)


@settings(max_examples=30, deadline=None)
@given(document=files)
def test_each_service_comes_after_those_it_needs(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "compose.yaml")
        document["services"] = dict(reversed(document["services"].items()))
        source.write_text(json.dumps(escaped(document)))
        tree = resolve([source], environment=ENVIRONMENT).tree
        order = sorted_services(tree["services"])
        assert sorted(order) == sorted(document["services"])
        for name, service in document["services"].items():
            assert all(order.index(other) < order.index(name) for other in service["depends_on"])


@given(st.text())
def test_doubled_dollars_are_dollars(text: str) -> None:
    assert substitute(text.replace("$", "$$"), {}) == text


@given(st.text("ab${}:-+?", max_size=30), st.dictionaries(st.sampled_from("ab"), st.text(max_size=3)))
def test_any_text_is_filled_in_or_refused(text: str, variables: dict[str, str]) -> None:
    try:
        found = substitute(text, variables)
    except ValueError:
        return
    assert "$" in text or found == text


@given(
    st.dictionaries(
        words.filter(lambda word: word[0] not in "-."), st.text(st.characters(exclude_characters="'\\\r\x00", exclude_categories=["Cs"]))
    )
)
def test_quoted_values_come_back(variables: dict[str, str]) -> None:
    text = "".join(f"{key}='{value}'\n" for key, value in variables.items())
    assert dotenv.parse(text, "f", {}) == variables


@given(st.text())
def test_any_dotenv_is_read_or_refused(text: str) -> None:
    try:
        dotenv.parse(text, "f", {})
        dotenv.raw(text, "f")
    except dotenv.ComposeError as error:
        assert error.message.startswith("f:")
