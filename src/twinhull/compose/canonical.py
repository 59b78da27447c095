"""One file's tree with every short form made long and every relative path absolute, so that merging and lowering know one shape only.

In: a tree that the schema has accepted. Out: the same tree, changed in place. Paths are relative to the folder that the caller names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from twinhull.compose import shortforms
from twinhull.compose.tree import ComposeError, Map, Mark, Seq

Change = Callable[[Any, Mark], Any]

_SERVICE: dict[str, Change] = {
    "annotations": shortforms.mapping,
    "command": shortforms.words,
    "configs": lambda value, _mark: shortforms.each_keyed(value, "source"),
    "depends_on": shortforms.depends_on,
    "dns": shortforms.strings,
    "dns_search": shortforms.strings,
    "entrypoint": shortforms.words,
    "environment": shortforms.mapping,
    "expose": lambda value, _mark: shortforms.expose(value),
    "extends": lambda value, mark: shortforms.keyed(value, mark, "service"),
    "extra_hosts": shortforms.extra_hosts,
    "group_add": shortforms.strings,
    "label_file": shortforms.strings,
    "labels": shortforms.mapping,
    "models": shortforms.nulls,
    "networks": shortforms.nulls,
    "ports": lambda value, _mark: shortforms.ports(value),
    "secrets": lambda value, _mark: shortforms.each_keyed(value, "source"),
    "sysctls": shortforms.mapping,
    "tmpfs": shortforms.strings,
}
_BUILD: dict[str, Change] = {
    "additional_contexts": shortforms.mapping,
    "args": shortforms.mapping,
    "extra_hosts": shortforms.extra_hosts,
    "labels": shortforms.mapping,
    "no_cache_filter": shortforms.strings,
    "secrets": lambda value, _mark: shortforms.each_keyed(value, "source"),
    "ssh": shortforms.mapping,
}
_WATCH: dict[str, Change] = {"ignore": shortforms.strings, "include": shortforms.strings}
_HOOK: dict[str, Change] = {"command": shortforms.words, "environment": shortforms.mapping}
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/", "docker-image://", "oci-layout://", "target:", "service:")


class Paths:
    """Makes paths absolute. `home`: what ~ stands for."""

    def __init__(self, folder: str, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._home = environment.get("HOME", "")

    def __call__(self, path: str) -> str:
        """A host path from the folder."""
        if path == "~" or path.startswith("~/"):
            path = self._home + path[1:]
        return os.path.normpath(os.path.join(self.folder, path))

    def context(self, path: str) -> str:
        """A build context: an address of a repository stays."""
        return path if path.startswith(_REMOTE) or "://" in path else self(path)


def apply(tree: Map, paths: Paths) -> Map:
    """See the module's docstring. Raises ComposeError."""
    for service in tree.sub("services").values():
        _service(service, paths)
    for section in ("networks", "volumes", "configs", "secrets"):
        entries = tree.sub(section)
        for name in list(entries):
            if entries[name] is None:
                entries[name] = Map(entries.at(name))
            _resource(entries[name], paths)
    return tree


def complete(tree: Map, paths: Paths) -> None:
    """Defaults that would hide what an earlier file says if they were filled in before merging, in place."""
    for service in tree.sub("services").values():
        build = service.get("build")
        if isinstance(build, Map) and not build.get("context"):
            build.put("context", paths("."), build.mark)
        for dependency in service.sub("depends_on").values():
            if "required" not in dependency:
                dependency.put("required", True, dependency.mark)


def _change(holder: Map, changes: Mapping[str, Change]) -> None:
    for key in holder.keys() & changes.keys():
        if holder[key] is not None or key not in ("command", "entrypoint"):
            holder[key] = changes[key](holder[key], holder.at(key))


def _service(service: Map, paths: Paths) -> None:
    _change(service, _SERVICE)
    if "build" in service:
        service["build"] = _build(shortforms.keyed(service["build"], service.at("build"), "context"), paths)
    if "env_file" in service:
        service["env_file"] = _env_files(service["env_file"], service.at("env_file"), paths)
    if "label_file" in service:
        _each_path(service["label_file"], paths)
    if "volumes" in service:
        service["volumes"] = _volumes(service["volumes"], paths)
    for key in ("deploy", "develop"):
        if key in service and service[key] is None:
            service[key] = Map(service.at(key))
    _change(service.sub("deploy"), {"labels": shortforms.mapping})
    for rule in service.sub("develop").seq("watch"):
        _change(rule, _WATCH)
        rule["path"] = paths(rule["path"])
        _change(rule.sub("exec"), _HOOK)
    for key in ("pre_start", "post_start", "pre_stop"):
        for hook in service.seq(key):
            _change(hook, _HOOK)
    _health(service.sub("healthcheck"))
    extends = service.get("extends")
    if isinstance(extends, Map) and "file" in extends:
        extends["file"] = paths(extends["file"])
    if service.get("pull_policy") == "if_not_present":
        service["pull_policy"] = "missing"


def _health(check: Map) -> None:
    test = check.get("test")
    if isinstance(test, str):
        found = Seq(check.at("test"))
        for word in ("NONE",) if test == "NONE" else ("CMD-SHELL", test):
            found.add(word, found.mark)
        check["test"] = found
    elif isinstance(test, Seq) and test and test[0] not in ("CMD", "CMD-SHELL", "NONE"):
        raise ComposeError(check.at("test"), f"healthcheck.test begins with CMD, CMD-SHELL or NONE, not {test[0]!r}")


def _build(build: Map, paths: Paths) -> Map:
    _change(build, _BUILD)
    if build.get("context"):
        build["context"] = paths.context(build["context"])
    contexts = build.sub("additional_contexts")
    for name, context in contexts.items():
        if context is not None:
            contexts[name] = paths.context(context)
    return build


def _env_files(value: Any, mark: Mark, paths: Paths) -> Seq:
    source = value
    if not isinstance(value, Seq):
        source = Seq(mark)
        source.add(value, mark)
    found = shortforms.each_keyed(source, "path")
    for entry in found:
        entry["path"] = paths(entry["path"])
    return found


def _each_path(value: Seq, paths: Paths) -> None:
    for index, item in enumerate(value):
        value[index] = paths(item)


def _volumes(value: Seq, paths: Paths) -> Seq:
    found = Seq(value.mark)
    for item, mark in value.items():
        entry = item if isinstance(item, Map) else shortforms.volume(item, mark)
        _mount(entry, mark, paths)
        found.add(entry, mark)
    return found


def _mount(entry: Map, mark: Mark, paths: Paths) -> None:
    target = str(entry.get("target") or "")
    if not target.startswith("/"):
        raise ComposeError(mark, f"the path inside must be absolute: {target!r}" if target else "the volume needs the key 'target'")
    entry.put("target", os.path.normpath("/" + target.lstrip("/")), entry.at("target"))
    if entry["type"] == "bind":
        if not entry.get("source"):
            raise ComposeError(mark, "a bind needs the key 'source'")
        entry["source"] = paths(entry["source"])
    if entry["type"] == "tmpfs" and entry.get("source"):
        raise ComposeError(mark, "a tmpfs has no source")


def _resource(resource: Map, paths: Paths) -> None:
    _change(resource, {"labels": shortforms.mapping})
    external = resource.get("external")
    if isinstance(external, Map):
        if "name" in external:
            resource.put("name", external["name"], external.at("name"))
        resource["external"] = True
    if isinstance(resource.get("file"), str):
        resource["file"] = paths(resource["file"])
    options = resource.sub("driver_opts")
    if "bind" in str(options.get("o", "")).split(",") and options.get("device"):
        options["device"] = paths(str(options["device"]))
