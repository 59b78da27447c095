"""`volumes`, `tmpfs`, `configs` and `secrets` of a service as mounts and files. Pure."""

from __future__ import annotations

from typing import NamedTuple

from twinhull.compose import fields
from twinhull.compose.tree import ComposeError, Map, Mark
from twinhull.spec import units
from twinhull.spec.app import Note
from twinhull.spec.instance import FileSpec, MountSpec, MountType

_UNSUPPORTED = ("image", "cluster", "npipe")
"""Types of mounts that are in the table of what isn't honoured."""


class Sources(NamedTuple):
    """The sections of the file that mounts refer to, the engine's names of volumes, and the variables. notes: filled."""

    volumes: Map
    volume_names: dict[str, str]
    configs: Map
    secrets: Map
    variables: dict[str, str]
    notes: list[Note]


def mounts(service: Map, services: Map, sources: Sources) -> tuple[MountSpec, ...]:
    """Everything that is mounted, each target once. Raises ComposeError."""
    found: dict[str, MountSpec] = {}
    for other in service.seq("volumes_from"):
        for mount in _from(str(other), service, services, sources):
            found[mount.target] = mount
    own: dict[str, Mark] = {}
    for entry, mark in service.seq("volumes").items():
        if entry["type"] not in _UNSUPPORTED:
            _once(own, entry["target"], mark)
            found[entry["target"]] = _mount(entry, mark, sources)
    for text, mark in service.seq("tmpfs").items():
        mount = _tmpfs(text, mark)
        _once(own, mount.target, mark)
        found[mount.target] = mount
    return tuple(found.values())


def _once(seen: dict[str, Mark], target: str, mark: Mark) -> None:
    if target in seen:
        raise ComposeError(mark, f"{target} is mounted twice (first on line {seen[target].line})")
    seen[target] = mark


def _from(text: str, service: Map, services: Map, sources: Sources) -> list[MountSpec]:
    """`volumes_from`: what another service mounts."""
    name, _, access = text.partition(":")
    if name == "container":
        return []
    fields.known(service, "volumes_from", name, services, "service")
    other: Map = services[name]
    found = [_mount(entry, mark, sources) for entry, mark in other.seq("volumes").items() if entry["type"] not in _UNSUPPORTED]
    return [MountSpec(m.type, m.target, m.source, True, m.subpath, m.no_copy) if access == "ro" else m for m in found]


def _mount(entry: Map, mark: Mark, sources: Sources) -> MountSpec:
    kind = MountType(entry["type"])
    target, read_only = entry["target"], fields.flag(entry, "read_only")
    if kind is MountType.BIND:
        return MountSpec(kind, target, entry["source"], read_only)
    if kind is MountType.TMPFS:
        options = entry.sub("tmpfs")
        size, mode = fields.size(options, "size"), fields.mode(options, "mode", 0o1777)
        return MountSpec(kind, target, read_only=read_only, tmpfs_size=size, tmpfs_mode=mode)
    source = fields.text(entry, "source")
    if not source:
        return MountSpec(kind, target, read_only=read_only)
    if source not in sources.volumes:
        raise ComposeError(
            mark, f"volume {source!r} isn't defined in the file", f"add it under `volumes:`, or write ./{source} for a folder"
        )
    options = entry.sub("volume")
    subpath = fields.text(options, "subpath")
    folder = bound_folder(sources.volumes[source])
    if folder:
        return MountSpec(MountType.BIND, target, f"{folder}/{subpath}" if subpath else folder, read_only)
    return MountSpec(kind, target, sources.volume_names[source], read_only, subpath, fields.flag(options, "nocopy"))


def bound_folder(volume: Map) -> str:
    """The folder that a volume of the local driver is only another name for (`o: bind`), or ""."""
    options = volume.sub("driver_opts")
    return fields.text(options, "device") if "bind" in fields.text(options, "o").split(",") else ""


def _tmpfs(text: str, mark: Mark) -> MountSpec:
    target, _, options = text.partition(":")
    if not target.startswith("/"):
        raise ComposeError(mark, f"the path inside must be absolute: {target!r}")
    size, mode, read_only = 0, 0o1777, False
    for option in options.split(",") if options else ():
        key, _, value = option.partition("=")
        try:
            if key == "size":
                size = units.size(value)
            elif key == "mode":
                mode = int(value, 8)
        except ValueError:
            raise ComposeError(mark, f"tmpfs option {option!r}: use size=64m or mode=1777") from None
        read_only = read_only or key == "ro"
    return MountSpec(MountType.TMPFS, target, read_only=read_only, tmpfs_size=size, tmpfs_mode=mode)


def files(service: Map, sources: Sources, secret_values: dict[str, str]) -> tuple[FileSpec, ...]:
    """Configs and secrets as files; secrets given by the environment go to `secret_values`. Raises ComposeError."""
    found = [_config(entry, mark, sources) for entry, mark in service.seq("configs").items()]
    found += [_secret(entry, mark, sources, secret_values) for entry, mark in service.seq("secrets").items()]
    seen: dict[str, Mark] = {}
    for file, mark in zip(found, [*service.seq("configs").marks, *service.seq("secrets").marks], strict=True):
        _once(seen, file.target, mark)
    return tuple(found)


def _config(entry: Map, mark: Mark, sources: Sources) -> FileSpec:
    name = fields.text(entry, "source")
    fields.known(entry, "source", name, sources.configs, "config")
    config: Map = sources.configs[name]
    target = _target(entry, name, "/")
    if "file" in config:
        return _file(entry, target, source=config["file"])
    if "environment" in config:
        return _file(entry, target, content=_value(f"configs.{name}", config, sources))
    if "content" in config:
        return _file(entry, target, content=fields.text(config, "content"))
    if not fields.flag(config, "external"):
        raise ComposeError(sources.configs.at(name), f"config {name!r} needs one of file, content and environment")
    return _file(entry, target)


def _secret(entry: Map, mark: Mark, sources: Sources, secret_values: dict[str, str]) -> FileSpec:
    name = fields.text(entry, "source")
    fields.known(entry, "source", name, sources.secrets, "secret")
    secret: Map = sources.secrets[name]
    target = _target(entry, name, "/run/secrets/")
    if "file" in secret:
        return _file(entry, target, source=secret["file"], secret=True)
    if "environment" in secret:
        secret_values[name] = _value(f"secrets.{name}", secret, sources)
    elif not fields.flag(secret, "external"):
        raise ComposeError(sources.secrets.at(name), f"secret {name!r} needs one of file and environment")
    return _file(
        entry, target, source=f"secret:{fields.text(secret, 'name', name)}" if name not in secret_values else f"secret:{name}", secret=True
    )


def _value(key: str, resource: Map, sources: Sources) -> str:
    """Of a variable. One that isn't set stops `up`, but not what only looks at the file."""
    variable, mark = str(resource["environment"]), resource.at("environment")
    note = Note(str(mark), f"{key}.environment", f"environment variable {variable} isn't set", fatal=True)
    if variable not in sources.variables and note not in sources.notes:
        sources.notes.append(note)
    return sources.variables.get(variable, "")


def _target(entry: Map, name: str, folder: str) -> str:
    target = fields.text(entry, "target") or name
    return target if target.startswith("/") else folder + target


def _file(entry: Map, target: str, *, source: str = "", content: str = "", secret: bool = False) -> FileSpec:
    uid, gid = fields.whole(entry, "uid"), fields.whole(entry, "gid")
    return FileSpec(target, source, content, uid, gid, fields.mode(entry, "mode", 0o444), secret)
