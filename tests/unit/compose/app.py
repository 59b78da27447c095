"""Applications of a test, from text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from twinhull.compose import Loaded, resolve
from twinhull.spec.app import AppSpec, ServiceSpec
from twinhull.spec.instance import InstanceSpec


class App:
    """Files in a folder, and what they come to. The folder is called `app`, and so is the project."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "app"
        self.folder.mkdir()

    def write(self, text: str, name: str = "compose.yaml") -> Path:
        """A file, its folder made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def resolve(self, *texts: str, environment: Mapping[str, str] | None = None, profiles: Sequence[str] = (), **more: Any) -> Loaded:
        """The files of these texts, merged: compose.yaml, 1.yaml, …"""
        files = [self.write(text, f"{number}.yaml" if number else "compose.yaml") for number, text in enumerate(texts)]
        return resolve(files, environment=environment or {}, profiles=profiles, **more)

    def spec(self, *texts: str, **more: Any) -> AppSpec:
        """What the engine is asked for."""
        return self.resolve(*texts, **more).spec()

    def service(self, *lines: str, after: str = "", **more: Any) -> ServiceSpec:
        """The service `web` with the image x and these lines."""
        return self.spec("services:\n  web:\n    image: x\n" + "".join(f"    {line}\n" for line in lines) + after, **more).services["web"]

    def template(self, *lines: str, after: str = "", **more: Any) -> InstanceSpec:
        """Its template."""
        return self.service(*lines, after=after, **more).template

    def merged(self, *services: str) -> dict[str, Any]:
        """The resolved service `web` of several files, each given by its lines."""
        texts = [yaml.safe_dump({"services": {"web": yaml.load(each, Loader=yaml.BaseLoader) or {}}}) for each in services]
        found = self.resolve(*texts).tree["services"]["web"]
        assert isinstance(found, dict)
        return found
