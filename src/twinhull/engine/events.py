"""What happened: written to the database and told to whoever listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

from twinhull.engine.base import Event
from twinhull.store.db import Database, EventRow

_QUEUE = 1024
"""Events a slow listener may lag behind before its stream ends."""


class Events:
    """A log with subscribers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: set[asyncio.Queue[Event | None]] = set()
        self.called: list[Callable[[Event], None]] = []
        """Called at once with every event, by the parts of this engine; must not raise and not wait."""

    def emit(self, kind: str, action: str, id: str = "", name: str = "", **attributes: str) -> None:
        """Record one event now."""
        event = Event(time.time(), kind, action, id, name, attributes)
        self._database.add_event(EventRow(event.at, kind, action, id, name, attributes))
        for queue in list(self._listeners):
            self._tell(queue, event)
        for call in self.called:
            call(event)

    async def stream(self, since: float, follow: bool, filters: Mapping[str, tuple[str, ...]]) -> AsyncIterator[Event]:
        """Past events from `since` (0: none), then, with follow, new ones; no gap and no duplicate between the two."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(_QUEUE + 1)
        self._listeners.add(queue)
        try:
            past = self._database.events(since) if since else []
            for row in past:
                if matches(event := Event(row.at, row.kind, row.action, row.id, row.name, row.attributes), filters):
                    yield event
            while follow and (new := await queue.get()) is not None:
                if matches(new, filters):
                    yield new
        finally:
            self._listeners.discard(queue)

    def close(self) -> None:
        """End all streams."""
        for queue in list(self._listeners):
            self._end(queue)

    def _tell(self, queue: asyncio.Queue[Event | None], event: Event) -> None:
        if queue.qsize() >= _QUEUE:
            self._end(queue)
        else:
            queue.put_nowait(event)

    def _end(self, queue: asyncio.Queue[Event | None]) -> None:
        self._listeners.discard(queue)
        if not queue.full():
            queue.put_nowait(None)


def matches(event: Event, filters: Mapping[str, tuple[str, ...]]) -> bool:
    """Values of one key are alternatives; all keys must hold. Keys: type, event, instance (or container), image, network, volume, label."""
    return all(any(_holds(event, key, value) for value in values) for key, values in filters.items())


def _holds(event: Event, key: str, value: str) -> bool:
    if key == "type":
        return event.kind == value
    if key in ("event", "action"):
        return event.action == value or event.action.startswith(f"{value}:")
    if key == "label":
        name, equals, wanted = value.partition("=")
        return name in event.attributes and (not equals or event.attributes[name] == wanted)
    kind = "instance" if key == "container" else key
    if event.kind == kind:
        return event.name == value or (bool(value) and event.id.startswith(value))
    return event.attributes.get(key) == value
