"""A workload file: the user's application, when it is ready, and the load on it. Parsed here, once.

command: [python3, -m, http.server, "8000"]      # left out: the image's own
memory: 256M                                     # left out: no limit
ready: {http: ":8000/", host: shop.localhost}    # or: {command: [pg_isready]}; left out: as soon as it runs
load: [wrk, -t1, -c16, -d5s, "http://{address}:8000/"]      # runs in the tools image, in a container; or {http: ":8000/", host: …}
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
_WRK = ("wrk", "-t1", "-c8", "-d2s", "--latency")
"""The load of `load: {http: …}`."""
_RATE = r"Requests/sec:\s+([0-9.]+)"


@dataclass(frozen=True, slots=True)
class Page:
    """What is asked for over HTTP. `host`: of the Host header, "": the address."""

    port: int
    path: str = "/"
    host: str = ""

    @classmethod
    def parse(cls, raw: Mapping[str, Any], key: str) -> Self:
        """Of {http: ":PORT/path", host: NAME}. Raises UserError."""
        match = _HTTP.fullmatch(str(raw.get("http", "")))
        if not match:
            raise UserError(f"workload: {key}.http {raw.get('http')!r}: use ':PORT/path'")
        return cls(int(match[1]), match[2] or "/", str(raw.get("host", "")))

    @property
    def load(self) -> tuple[str, ...]:
        """Requests for it, one after the other on eight connections."""
        headers = ("-H", f"Host: {self.host}") if self.host else ()
        return (*_WRK, *headers, f"http://{{address}}:{self.port}{self.path}")


@dataclass(frozen=True, slots=True)
class Definition:
    """`page`: of the ready check over HTTP; `check`: of the one by a command inside; `target`: what the default load asks for, if it is
    that one; `memory` in bytes."""

    command: tuple[str, ...] = ()
    memory: int = 0
    page: Page | None = None
    check: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    target: Page | None = None
    rate: str = ""

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """From the file's object. Raises UserError that names the key."""
        for key in raw:
            if key not in _KEYS:
                raise UserError(f"workload: unknown key {key!r}", f"use {', '.join(_KEYS)}")
        ready = raw.get("ready") or {}
        if not isinstance(ready, Mapping) or set(ready) - {"http", "host", "command"}:
            raise UserError("workload: ready is {http: ':PORT/path', host: NAME} or {command: [...]}")
        load = raw.get("load")
        if isinstance(load, Mapping) and set(load) - {"http", "host"}:
            raise UserError("workload: load is a list of words, one line for a shell, or {http: ':PORT/path', host: NAME}")
        target = Page.parse(load, "load") if isinstance(load, Mapping) else None
        try:
            re.compile(str(raw.get("rate", "")))
        except re.error as error:
            raise UserError(f"workload: rate is no pattern: {error}") from error
        return cls(
            command=_words(raw, "command"),
            memory=_size(str(raw.get("memory", "0"))),
            page=Page.parse(ready, "ready") if ready.get("http") else None,
            check=_words(ready, "command"),
            load=target.load if target else _words(raw, "load"),
            target=target,
            rate=_RATE if target else str(raw.get("rate", "")),
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


def over(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says, over what follows from a service. Raises UserError."""
    if "image" in given:
        raise UserError("workload: a service says itself what its image is", "leave the key image out")
    return {**default, **given}


def tcp_port(config: Mapping[str, Any]) -> int:
    """The lowest TCP port that an image configuration exposes, 0 if none."""
    exposed = config.get("ExposedPorts") or {}
    numbers = [int(word.partition("/")[0]) for word in exposed if word.endswith("/tcp") or word.isdigit()]
    return min(numbers, default=0)


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
