"""`load`: files in, AppSpec out. The steps are in their own modules; this is their order."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from contextlib import ContextDecorator
from dataclasses import dataclass, replace
from pathlib import Path

from twinhull.compose import canonical, lower, lowernetwork, model
from twinhull.compose import environment as environments
from twinhull.compose import files as discovery
from twinhull.compose.profiles import choose
from twinhull.compose.tree import Map
from twinhull.spec.app import AppSpec, Note


class _Uncollected(ContextDecorator):
    """No cyclic garbage is made here, and looking for it would take more time than all the rest for a file of a thousand services."""

    def __enter__(self) -> None:
        self._enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_error: object) -> None:
        if self._enabled:
            gc.enable()


@dataclass(frozen=True)
class Loaded:
    """An application as its files say it. tree: canonical, merged, the services in force; files: absolute, in the order read."""

    name: str
    folder: str
    tree: Map
    files: tuple[str, ...]
    variables: Mapping[str, str]
    notes: tuple[Note, ...] = ()
    profiles: tuple[str, ...] = ()
    """Every profile that the files name, sorted."""

    @_Uncollected()
    def spec(self) -> AppSpec:
        """What the engine is asked for. Raises ComposeError."""
        return lower.lower(self.tree, self.name, self.folder, self.variables, self.notes)


def load(
    files: Sequence[Path] = (),
    *,
    project: str = "",
    profiles: Sequence[str] = (),
    env_files: Sequence[Path] = (),
    environment: Mapping[str, str],
    folder: Path | None = None,
    services: Sequence[str] = (),
) -> AppSpec:
    """The application that compose files describe.

    files: none means COMPOSE_FILE, or compose.yaml here or above, with its override; "-" is stdin. project: `-p`. env_files: instead of
    `.env`. environment: the caller's; wins over files. folder: the project's, if not the first file's (`--project-directory`).
    services: their profiles are active too. Raises ComposeError (a UserError): "FILE:LINE: what is wrong".
    """
    return resolve(
        files, project=project, profiles=profiles, env_files=env_files, environment=environment, folder=folder, services=services
    ).spec()


@_Uncollected()
def resolve(
    files: Sequence[Path] = (),
    *,
    project: str = "",
    profiles: Sequence[str] = (),
    env_files: Sequence[Path] = (),
    environment: Mapping[str, str],
    folder: Path | None = None,
    services: Sequence[str] = (),
    interpolate: bool = True,
) -> Loaded:
    """The same up to the resolved tree, for `config`. interpolate False: the files as they are, merged only."""
    here = _start(files, folder)
    first = discovery.variables(environment, env_files, here)
    names = discovery.discover(files, first, folder)
    root = here if folder or names[0] == discovery.STDIN else os.path.dirname(os.path.abspath(names[0]))
    variables = first if root == here else discovery.variables(first, env_files, root)
    reading = model.Reading(variables, root, interpolate)
    parsed = model.parse(names, reading)
    name = discovery.project_name(project, variables, model.declared_name(parsed, variables), root)
    reading = replace(reading, variables={**variables, "COMPOSE_PROJECT_NAME": name})
    tree = model.build(parsed, reading)
    known = sorted({str(word) for service in tree.sub("services").values() if interpolate for word in service.seq("profiles")})
    if interpolate:
        _choose(tree, profiles or _listed(variables.get("COMPOSE_PROFILES", "")), services)
        canonical.complete(tree, reading.paths)
        lowernetwork.settle(tree)
        environments.complete(tree.sub("services"), reading.variables)
    return Loaded(name, root, tree, tuple(reading.seen), reading.variables, tuple(reading.notes), tuple(known))


def _start(files: Sequence[Path], folder: Path | None) -> str:
    """Where the first `.env` is: the project's folder, as far as it can be known before the files are found."""
    if not folder and files and str(files[0]) != discovery.STDIN:
        return os.path.dirname(os.path.abspath(files[0]))
    return os.path.abspath(folder or os.getcwd())


def _choose(tree: Map, active: Sequence[str], wanted: Sequence[str]) -> None:
    if "services" in tree:
        tree["services"] = choose(tree.sub("services"), active, wanted)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
