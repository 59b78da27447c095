"""The resolved file as ordinary mappings, YAML or JSON. What it prints can be read again, and means the same."""

from __future__ import annotations

import json
from typing import Any

import yaml

from twinhull.compose import fields
from twinhull.compose.load import Loaded
from twinhull.compose.text import teach
from twinhull.compose.tree import Map, plain

_SECTIONS = ("services", "networks", "volumes", "configs", "secrets", "models", "jobs")


def resolved(loaded: Loaded) -> dict[str, Any]:
    """name, services, networks, volumes, …: long forms, absolute paths, the engine's names."""
    found: dict[str, Any] = {"name": loaded.name}
    for section in _SECTIONS:
        entries = plain(loaded.tree.sub(section))
        if not entries:
            continue
        if section in ("networks", "volumes"):
            entries = {key: _named(loaded.name, key, loaded.tree.sub(section).sub(key)) for key in entries}
        found[section] = entries
    found |= {key: plain(value) for key, value in loaded.tree.items() if key.startswith("x-")}
    return {key: _escaped(value) if key != "name" else value for key, value in found.items()}


def _named(app: str, key: str, config: Map) -> dict[str, Any]:
    own = fields.text(config, "name") or (key if fields.flag(config, "external") else f"{app}_{key}")
    return {"name": own, **{name: value for name, value in plain(config).items() if name != "name"}}


def _escaped(value: Any) -> Any:
    """Dollar signs doubled, so that they aren't taken for variables when the output is read."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value


def text(value: Any, form: str) -> str:
    """form: yaml or json."""
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


class _Dumper(yaml.CSafeDumper):
    """YAML that 1.1 and 1.2 readers take alike: no aliases, and every string quoted that either would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Everything is written out."""
        return True


teach(_Dumper)
