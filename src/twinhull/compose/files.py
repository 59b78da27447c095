"""Which files make an application, which variables fill them in, and what it is called: compose's rules of discovery.

Reads the file system, and the environment it is given; nothing else.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from twinhull.compose import dotenv
from twinhull.compose.text import MAX_BYTES
from twinhull.compose.tree import ComposeError, Mark

NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDES = ("compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml")
STDIN = "-"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)


def read(path: str, shown: str, mark: Mark | None = None) -> str:
    """A file's text. `shown`: its name in messages, `mark`: what names it. Raises ComposeError."""
    try:
        with sys.stdin.buffer if path == STDIN else open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ComposeError(Mark(shown, line), "not text in UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ComposeError(mark, f"read {shown}: {(reason or 'failed').lower()}") from None


def discover(files: Sequence[Path], environment: Mapping[str, str], folder: Path | None) -> list[str]:
    """The compose files in force: those given, those of COMPOSE_FILE, or the first found here or above with its override."""
    if files:
        return [str(file) for file in files]
    named = environment.get("COMPOSE_FILE", "")
    if named:
        separator = environment.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        base = str(folder) if folder else "."
        return [os.path.normpath(os.path.join(base, part)) if part != STDIN else part for part in named.split(separator) if part]
    start = os.path.abspath(folder) if folder else os.getcwd()
    place = start
    while True:
        found = _first(place, NAMES)
        if found:
            return [_shown(name, start) for name in (found, _first(place, OVERRIDES)) if name]
        if place == os.path.dirname(place):
            raise ComposeError(None, f"no compose file in {start} or above", "name one with -f, or make a compose.yaml")
        place = os.path.dirname(place)


def _first(folder: str, names: Sequence[str]) -> str:
    return next((path for name in names if os.path.isfile(path := os.path.join(folder, name))), "")


def _shown(path: str, start: str) -> str:
    """Short where it is in the current folder, absolute elsewhere."""
    return os.path.basename(path) if os.path.dirname(path) == start == os.getcwd() else path


def variables(environment: Mapping[str, str], env_files: Sequence[str | Path], folder: str) -> dict[str, str]:
    """The environment, and below it what --env-file names or else the folder's `.env` says. Raises ComposeError."""
    if not env_files:
        named = environment.get("COMPOSE_ENV_FILES", "")
        env_files = [part for part in named.split(",") if part]
    if not env_files:
        own = os.path.join(folder, ".env")
        disabled = environment.get("COMPOSE_DISABLE_ENV_FILE", "").lower() in ("1", "true")
        env_files = [own] if os.path.isfile(own) and not disabled else []
    found: dict[str, str] = {}
    for file in env_files:
        # a later file wins over an earlier one, and can refer to what that one has set
        known = found | dict(environment)
        found |= dotenv.parse(read(str(file), str(file)), str(file), known)
    return found | dict(environment)


def project_name(wanted: str, environment: Mapping[str, str], named: str, folder: str) -> str:
    """-p, COMPOSE_PROJECT_NAME, `name:`, or the folder's name. Raises ComposeError."""
    for source, name in (("-p", wanted), ("COMPOSE_PROJECT_NAME", environment.get("COMPOSE_PROJECT_NAME", "")), ("name", named)):
        if name:
            return checked(name, source)
    name = re.sub(r"[^a-z0-9_-]", "", os.path.basename(folder).lower()).lstrip("_-")
    if not name:
        raise ComposeError(None, f"no project name can be made of the folder {folder}", "give one with -p or with `name:` in the file")
    return name


def checked(name: str, source: str, mark: Mark | None = None) -> str:
    """A project's name, or ComposeError."""
    if not _NAME.fullmatch(name):
        raise ComposeError(mark, f"{source}: {name!r} is no project name: use lower-case letters, digits, - and _, a letter or digit first")
    return name
