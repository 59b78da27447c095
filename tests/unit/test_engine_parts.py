"""engine/{filters,names,events,tasks}.py without a machine."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from twinhull.engine import names
from twinhull.engine.base import InstanceView
from twinhull.engine.events import Events
from twinhull.engine.filters import keep_instances
from twinhull.engine.tasks import Tasks
from twinhull.errors import UserError
from twinhull.spec.instance import InstanceSpec
from twinhull.store.db import Database


def _view(name: str, state: str = "running", code: int = 0, **labels: str) -> InstanceView:
    return InstanceView(name * 8, name, "img:1", "abc", "vm", state, 0.0, InstanceSpec("img:1", labels=labels), exit_code=code)


VIEWS = (_view("aa", x="1"), _view("bb", "exited", 3, x="2"), _view("cc", y=""))


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({}, "aa bb cc"),
        ({"name": ("a", "b")}, "aa bb"),
        ({"label": ("x",)}, "aa bb"),
        ({"label": ("x=2", "y")}, "bb cc"),
        ({"label": ("x",), "status": ("running",)}, "aa"),
        ({"exited": ("3",)}, "bb"),
        ({"ancestor": ("img",)}, "aa bb cc"),
        ({"id": ("cccc",)}, "cc"),
        ({"runtime": ("container",)}, ""),
    ],
)
def test_filters(filters: dict[str, tuple[str, ...]], kept: str) -> None:
    assert " ".join(view.name for view in keep_instances(VIEWS, filters)) == kept


def test_unknown_filter_names_the_known() -> None:
    with pytest.raises(UserError) as caught:
        keep_instances(VIEWS, {"nmae": ("x",)})
    assert "name" in caught.value.hint


def test_generated_names_are_valid_and_avoid_taken_ones() -> None:
    chooser = random.Random(1)
    taken: set[str] = set()
    for _ in range(3000):
        name = names.generate(taken, chooser.choice)
        assert name not in taken
        taken.add(names.check(name))


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", ".a", "é", "a" * 129, "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(UserError):
        names.check(name)


async def test_events_have_no_gap_and_no_duplicate_between_past_and_new(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    events = Events(database)
    events.emit("instance", "create", "1", "one")
    stream = events.stream(1, True, {"type": ("instance",)})
    first = await anext(stream)
    events.emit("image", "pull", "2", "two")
    events.emit("instance", "health_status", "1", "one", health="healthy")
    second = await anext(stream)
    assert (first.action, second.action, second.attributes) == ("create", "health_status", {"health": "healthy"})
    events.close()
    assert [event async for event in stream] == []
    database.close()


async def test_a_failing_task_takes_no_other_down() -> None:
    tasks = Tasks()
    done = asyncio.Event()

    async def fail() -> None:
        raise RuntimeError("planted")

    async def finish() -> None:
        done.set()

    tasks.spawn("bad", fail())
    tasks.spawn("good", finish())
    await asyncio.wait_for(done.wait(), 5)
    await tasks.close()
