"""From files to one resolved tree: documents, `include`, `extends` and merging, each file with its own folder and variables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from twinhull.compose import canonical, files, interpolate, schema, text
from twinhull.compose.merge import merge
from twinhull.compose.tree import ComposeError, Map, Mark, Seq, copy
from twinhull.spec.app import Note

SECTIONS = ("services", "networks", "volumes", "configs", "secrets", "models", "jobs")
MAX_INCLUDES = 100
"""Files of one application, so that includes that multiply come to an end."""
MAX_EXTENDS = 50
"""Services between one and the last that it extends."""
_REMOTE = ("oci://", "git@", "https://", "http://", "git://", "ssh://", "github.com/")


@dataclass(frozen=True)
class Reading:
    """What holds while a group of files is read. chain: the files whose includes led here; notes, seen, bases: shared by all groups."""

    variables: Mapping[str, str]
    folder: str
    interpolate: bool = True
    chain: tuple[str, ...] = ()
    notes: list[Note] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    bases: dict[str, Map] = field(default_factory=dict)

    @property
    def paths(self) -> canonical.Paths:
        """Relative paths from this group's folder."""
        return canonical.Paths(self.folder, self.variables)

    def missing(self, mark: Mark, key: str, name: str) -> None:
        """Note a variable that isn't set."""
        note = Note(str(mark), key, f"variable {name} isn't set: nothing takes its place")
        if note not in self.notes:
            self.notes.append(note)


Parsed = list[tuple[str, Map]]
"""Documents with the absolute path of each one's file."""


def parse(names: Sequence[str], reading: Reading, mark: Mark | None = None) -> Parsed:
    """The documents of a group of files as they are written, never none. mark: what names the files. Raises ComposeError."""
    found = [(path, document) for name in names for path, document in _documents(name, reading, mark)]
    if not found:
        raise ComposeError(Mark(names[0] if names[0] != files.STDIN else "stdin"), "the file is empty")
    return found


def build(parsed: Parsed, reading: Reading) -> Map:
    """Documents completed and merged, the first one in place. Raises ComposeError."""
    found: Map | None = None
    for path, document in parsed:
        complete = _complete(document, path, reading)
        found = complete if found is None else merge(found, complete)
    assert found is not None
    return found


def declared_name(parsed: Parsed, variables: Mapping[str, str]) -> str:
    """The last `name:`, its variables filled in, or ""."""
    found = ""
    for _, document in parsed:
        value = document.get("name")
        if not value:
            continue
        try:
            found = files.checked(interpolate.substitute(str(value), variables), "name", document.at("name"))
        except ValueError as error:
            raise ComposeError(document.at("name"), f"name: {error}") from None
    return found


def _documents(name: str, reading: Reading, mark: Mark | None) -> Parsed:
    path = name if name == files.STDIN else os.path.abspath(name)
    shown = "stdin" if name == files.STDIN else name
    if path in reading.chain:
        raise ComposeError(mark or Mark(shown), f"include goes round in a circle: {' → '.join((*reading.chain, path))}")
    reading.seen.append(path)
    if len(reading.seen) > MAX_INCLUDES:
        raise ComposeError(mark or Mark(shown), f"more than {MAX_INCLUDES} files")
    return [(path, document) for document in text.parse(files.read(path, shown, mark), shown)]


def _complete(document: Map, path: str, reading: Reading) -> Map:
    """A document with what it includes and extends."""
    if not reading.interpolate:
        return document
    prepare(document, reading)
    included = _included(document, path, reading)
    services = document.sub("services")
    for name in list(services):
        services[name] = _extended(services, name, path, reading, ())
    return merge(included, document) if included is not None else document


def prepare(document: Map, reading: Reading) -> Map:
    """Variables filled in, checked against the specification, long forms only."""
    interpolate.tree(document, reading.variables, reading.missing)
    schema.settle(document)
    schema.check(document)
    return canonical.apply(document, reading.paths)


def _included(document: Map, path: str, reading: Reading) -> Map | None:
    """Everything that the document's `include` brings, merged; the document itself goes on top of it."""
    entries = document.pop("include", None)
    if not isinstance(entries, Seq):
        return None
    found = Map(entries.mark)
    for entry, mark in entries.items():
        source = entry if isinstance(entry, Map) else Map(mark)
        paths = entry.get("path") if isinstance(entry, Map) else entry
        names = [_local(str(name), mark, reading) for name in (paths if isinstance(paths, Seq) else [paths]) if name]
        if not names:
            raise ComposeError(mark, "include needs a path")
        below = _below(source, names[0], path, reading)
        model = build(parse(names, below, mark), below)
        for section in SECTIONS:
            if section in model:
                part = Map(mark)
                part.put(section, model[section], mark)
                merge(found, part)
    return found


def _below(source: Map, first: str, path: str, reading: Reading) -> Reading:
    """How the files of one include are read: from their own folder, with their own `.env` below our variables."""
    folder = reading.paths(source["project_directory"]) if source.get("project_directory") else os.path.dirname(first)
    given = source.get("env_file")
    env_files = [reading.paths(str(name)) for name in (given if isinstance(given, Seq) else [given]) if name and name != os.devnull]
    variables = files.variables(reading.variables, env_files, folder if given is None else os.devnull)
    return replace(reading, folder=folder, variables=variables, chain=(*reading.chain, path))


def _local(name: str, mark: Mark, reading: Reading) -> str:
    if name.startswith(_REMOTE):
        raise ComposeError(mark, f"{name!r} isn't on this machine", "fetch it first, and name the file")
    return reading.paths(name)


def _extended(services: Map, name: str, path: str, reading: Reading, chain: tuple[tuple[str, str], ...]) -> Map:
    """The service over the one that it extends, and so on."""
    service: Map = services[name]
    extends = service.get("extends")
    if not isinstance(extends, Map):
        return service
    mark = service.at("extends")
    if (path, name) in chain or len(chain) > MAX_EXTENDS:
        raise ComposeError(mark, f"extends goes round in a circle: {' → '.join(step for _, step in (*chain, (path, name)))}")
    wanted, base_path, others = str(extends["service"]), path, services
    if extends.get("file"):
        base_path = _local(str(extends["file"]), mark, reading)
        others = _base(base_path, mark, reading).sub("services") if base_path != path else services
    if wanted not in others:
        raise ComposeError(mark, f"service {name!r} extends {wanted!r}, which {os.path.basename(base_path)} doesn't have")
    below = reading if base_path == path else replace(reading, folder=os.path.dirname(base_path))
    base: Map = copy(_extended(others, wanted, base_path, below, (*chain, (path, name))))
    del service["extends"]
    holder, over = Map(mark), Map(mark)
    holder.put("services", _holding(name, base, mark), mark)
    over.put("services", _holding(name, service, service.mark), mark)
    result: Map = merge(holder, over)["services"][name]
    services[name] = result
    return result


def _holding(name: str, service: Map, mark: Mark) -> Map:
    found = Map(mark)
    found.put(name, service, mark)
    return found


def _base(path: str, mark: Mark, reading: Reading) -> Map:
    """A file that services extend from, read once, its paths relative to its own folder."""
    if path not in reading.bases:
        below = replace(reading, folder=os.path.dirname(path))
        shown = os.path.relpath(path) if not os.path.isabs(mark.file) else path
        found = Map(Mark(shown))
        for document in text.parse(files.read(path, shown, mark), shown):
            merge(found, prepare(document, below))
        reading.bases[path] = found
    return reading.bases[path]
