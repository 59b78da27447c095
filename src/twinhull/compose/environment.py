"""`env_file` and `label_file`: what they say becomes part of `environment` and `labels`. Reads those files, nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping

from twinhull.compose import dotenv, fields, files
from twinhull.compose.tree import ComposeError, Map, Mark


def complete(services: Map, variables: Mapping[str, str]) -> None:
    """Every service's environment and labels made whole, in place. Later files win over earlier, the service's own over files."""
    for service in services.values():
        if "env_file" in service or "environment" in service:
            _environment(service, variables)
        if "label_file" in service:
            _labels(service)


def _environment(service: Map, variables: Mapping[str, str]) -> None:
    found = Map(service.at("environment"))
    for entry, mark in service.seq("env_file").items():
        for key, value in _read(entry, mark, {**found, **variables}).items():
            found.put(key, value, mark)
    own = service.sub("environment")
    for key, value in own.items():
        given = variables.get(key) if value is None else value
        if given is None:
            found.pop(key, None)  # a name alone that nobody has set
        else:
            found.put(key, given, own.at(key))
    service.pop("env_file", None)
    if found:
        service.put("environment", found, service.at("environment"))
    else:
        service.pop("environment", None)


def _read(entry: Map, mark: Mark, variables: Mapping[str, str]) -> dict[str, str]:
    path, form = entry["path"], fields.text(entry, "format")
    if not os.path.exists(path) and not fields.flag(entry, "required", default=True):
        return {}
    if form not in ("", "raw"):
        raise ComposeError(entry.at("format"), f"format can't be {form!r}: use raw, or leave it out")
    text = files.read(path, os.path.relpath(path), mark)
    return dotenv.raw(text, os.path.relpath(path)) if form == "raw" else dotenv.parse(text, os.path.relpath(path), variables)


def _labels(service: Map) -> None:
    found = Map(service.at("label_file"))
    for path, mark in service.seq("label_file").items():
        for key, value in dotenv.parse(files.read(path, os.path.relpath(path), mark), os.path.relpath(path), {}).items():
            found.put(key, value, mark)
    own = service.sub("labels")
    for key, value in own.items():
        found.put(key, value, own.at(key))
    service.pop("label_file")
    service.put("labels", found, service.at("label_file"))
