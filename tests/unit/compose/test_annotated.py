"""examples/annotated/compose.yaml: documentation, an example of every key of ours, and a test at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twinhull.compose import load, resolve, schema
from twinhull.compose.tree import plain
from twinhull.spec.app import AppSpec, Strategy
from twinhull.spec.instance import Runtime

FILE = Path(__file__).parents[3] / "examples" / "annotated" / "compose.yaml"
ENVIRONMENT = {"DATABASE_PASSWORD": "hidden"}


@pytest.fixture(scope="module")
def spec() -> AppSpec:
    """The example with every profile."""
    return load([FILE], environment=ENVIRONMENT, profiles=["*"])


def test_it_is_as_its_comments_say(spec: AppSpec) -> None:
    web, db = spec.services["web"], spec.services["db"]
    assert list(spec.services) == ["db", "migrate", "web", "console"]
    assert (web.template.runtime, web.replicas, web.update.order, db.update.order) == (Runtime.VM, 3, "start-first", "stop-first")
    assert spec.services["migrate"].job
    assert [route.host for route in web.routes] == ["shop.localhost", "api.shop.localhost"]
    assert web.rollout.strategy is Strategy.CANARY
    assert list(spec.networks) == ["annotated_front", "annotated_back"]
    assert spec.secret_values == {"database_password": "hidden"}
    assert spec.notes == ()
    assert "console" not in load([FILE], environment=ENVIRONMENT).services


def test_it_shows_every_key_of_the_extension() -> None:
    tree = resolve([FILE], environment=ENVIRONMENT).tree
    shown = _keys(plain(tree["services"]["web"]["x-twinhull"]))
    own = schema.extension()
    known = set(own["properties"]) | {key for name in ("route", "scale", "rollout") for key in own["$defs"][name]["properties"]}
    assert known <= shown


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(_keys(item) for item in value.values()))
    return set().union(*(_keys(item) for item in value)) if isinstance(value, list) else set()
