"""A workload file: the user's application, when it is ready, and the load on it. Parsed here, once.

command: [python3, -m, http.server, "8000"]      # left out: the image's own
memory: 256M                                     # left out: no limit
ready: {http: ":8000/"}                          # or: {command: [pg_isready]}; left out: as soon as it runs
load: [wrk, -t1, -c16, -d5s, "http://{address}:8000/"]      # runs in the tools image, in a container
rate: 'Requests/sec:\\s+([0-9.]+)'                # a pattern whose first group is a figure that the load prints
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from twinhull.errors import UserError

_KEYS = ("image", "command", "memory", "ready", "load", "rate")
_SIZE = re.compile(r"(\d+)([kmg]?)b?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_HTTP = re.compile(r":(\d+)(/\S*)?")


@dataclass(frozen=True, slots=True)
class Definition:
    """`port`, `path`: of the ready check over HTTP; `check`: of the one by a command inside; `memory` in bytes."""

    command: tuple[str, ...] = ()
    memory: int = 0
    port: int = 0
    path: str = "/"
    check: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    rate: str = ""

    @property
    def http(self) -> bool:
        """Whether it is ready when it answers a request."""
        return self.port > 0

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """From the file's object. Raises UserError that names the key."""
        for key in raw:
            if key not in _KEYS:
                raise UserError(f"workload: unknown key {key!r}", f"use {', '.join(_KEYS)}")
        ready = raw.get("ready") or {}
        if not isinstance(ready, Mapping) or set(ready) - {"http", "command"}:
            raise UserError("workload: ready is {http: ':PORT/path'} or {command: [...]}")
        match = _HTTP.fullmatch(str(ready.get("http", "")))
        if ready.get("http") and not match:
            raise UserError(f"workload: ready.http {ready['http']!r}: use ':PORT/path'")
        try:
            re.compile(str(raw.get("rate", "")))
        except re.error as error:
            raise UserError(f"workload: rate is no pattern: {error}") from error
        return cls(
            command=_words(raw, "command"),
            memory=_size(str(raw.get("memory", "0"))),
            port=int(match[1]) if match else 0,
            path=(match[2] or "/") if match else "/",
            check=_words(ready, "command"),
            load=_words(raw, "load"),
            rate=str(raw.get("rate", "")),
        )

    def value(self, said: str) -> float:
        """The figure in the load's output. Raises UserError."""
        match = re.search(self.rate, said)
        if not match or not match.groups():
            raise UserError(f"the load's output doesn't match {self.rate!r}", "the pattern needs a group around the figure")
        return float(match[1])


def read(path: Path) -> dict[str, Any]:
    """A file's object, checked. Raises UserError."""
    import yaml

    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"read {path}: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a workload is a mapping with the keys {', '.join(_KEYS)}")
    Definition.parse(raw)
    return raw


def _words(raw: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = raw.get(key) or ()
    if isinstance(value, str):
        return ("/bin/sh", "-c", value)
    if not isinstance(value, list | tuple) or not all(isinstance(word, str | int | float) for word in value):
        raise UserError(f"workload: {key} is a list of words, or one line for a shell")
    return tuple(str(word) for word in value)


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UserError(f"workload: memory {text!r}: use a size such as 256M")
    return int(match[1]) * _FACTORS[match[2].lower()]
