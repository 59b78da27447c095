"""-v, --mount, --tmpfs, --secret and --config → MountSpec and FileSpec as JSON objects. Pure; ValueError says what would be right."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

from twinhull.cli import values

if TYPE_CHECKING:
    from collections.abc import Iterable

_IGNORED = ("rw", "z", "Z", "U", "rprivate", "private", "rslave", "slave", "cached", "delegated", "consistent", "async", "sync")
"""Options of -v that change nothing here: no SELinux labels are set, ownership is mapped anyway, propagation is private."""
_TMPFS_IGNORED = ("rw", "noexec", "exec", "nosuid", "suid", "nodev", "dev", "noatime")
_MOUNT_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "read_only",
    "ro": "read_only",
    "volume-nocopy": "no_copy",
    "nocopy": "no_copy",
    "volume-subpath": "subpath",
    "subpath": "subpath",
    "tmpfs-size": "tmpfs_size",
    "tmpfs-mode": "tmpfs_mode",
    "bind-propagation": "",
    "consistency": "",
}
_FILE_KEYS = {
    "source": "source",
    "src": "source",
    "file": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "uid": "uid",
    "gid": "gid",
    "mode": "mode",
    "type": "",
}


def volume(text: str, cwd: str) -> dict[str, Any]:
    """`-v [SOURCE:]TARGET[:OPTIONS]`. A source that begins with /, . or ~ is a host path (from `cwd`), else a volume's name."""
    source, target, options = _split_volume(text)
    _absolute(target)
    found: dict[str, Any] = {"type": "volume", "target": target}
    if source:
        found |= {"type": "bind", "source": _path(source, cwd)} if source[0] in "/.~" else {"source": source}
    for option in options:
        _volume_option(found, option)
    return found


def _split_volume(text: str) -> tuple[str, str, list[str]]:
    parts = text.split(":")
    if len(parts) == 1:
        return "", parts[0], []
    if len(parts) > 3 or "" in parts[:2]:
        raise ValueError("use [SOURCE:]TARGET[:ro]")
    return parts[0], parts[1], parts[2].split(",") if len(parts) == 3 else []


def _volume_option(found: dict[str, Any], option: str) -> None:
    if option in ("ro", "readonly"):
        found["read_only"] = True
    elif option == "nocopy":
        found["no_copy"] = True
    elif option.startswith(("subpath=", "volume-subpath=")):
        found["subpath"] = option.partition("=")[2]
    elif option not in _IGNORED:
        raise ValueError(f"unknown option {option!r}: use ro, nocopy or subpath=…")


def mount(text: str, cwd: str) -> dict[str, Any]:
    """`--mount type=…,source=…,target=…[,readonly][,tmpfs-size=…][,tmpfs-mode=…][,volume-subpath=…]`."""
    given = _known(values.keyed(text), _MOUNT_KEYS)
    kind = given.setdefault("type", "volume")
    if kind not in ("bind", "volume", "tmpfs"):
        raise ValueError(f"type {kind!r}: use bind, volume or tmpfs")
    if not given.get("target"):
        raise ValueError("target=… is missing")
    _absolute(given["target"])
    return _mount_values(dict(given), kind, cwd)


def _mount_values(found: dict[str, Any], kind: str, cwd: str) -> dict[str, Any]:
    for flag in ("read_only", "no_copy"):
        if flag in found:
            found[flag] = values.boolean(found[flag] or "true")
    if "tmpfs_size" in found:
        found["tmpfs_size"] = values.size(found["tmpfs_size"])
    if "tmpfs_mode" in found:
        found["tmpfs_mode"] = values.octal(found["tmpfs_mode"])
    if kind == "bind":
        if not found.get("source"):
            raise ValueError("source=… is missing")
        found["source"] = _path(found["source"], cwd)
    elif kind == "tmpfs" and found.get("source"):
        raise ValueError("a tmpfs has no source")
    return found


def tmpfs(text: str) -> dict[str, Any]:
    """`--tmpfs PATH[:size=64m,mode=1777,ro]`."""
    target, _, options = text.partition(":")
    _absolute(target)
    found: dict[str, Any] = {"type": "tmpfs", "target": target}
    for key, value in values.keyed(options) if options else ():
        if key == "size":
            found["tmpfs_size"] = values.size(value)
        elif key == "mode":
            found["tmpfs_mode"] = values.octal(value)
        elif key == "ro":
            found["read_only"] = True
        elif key not in _TMPFS_IGNORED:
            raise ValueError(f"unknown option {key!r}: use size=… or mode=…")
    return found


def file(text: str, cwd: str, *, secret: bool) -> dict[str, Any]:
    """`--secret`/`--config`: PATH, or source=PATH[,target=…][,uid=…][,gid=…][,mode=0400].

    Secrets go below /run/secrets and configs below /, unless the target is absolute.
    """
    given = _known(values.keyed(text) if "=" in text else [("source", text)], _FILE_KEYS)
    if not given.get("source"):
        raise ValueError("source=PATH is missing")
    source = _path(given["source"], cwd)
    target = given.get("target") or posixpath.basename(source)
    found: dict[str, Any] = {"source": source, "target": posixpath.join("/run/secrets" if secret else "/", target)}
    for key in ("uid", "gid"):
        if key in given:
            found[key] = values.integer(given[key])
    if "mode" in given:
        found["mode"] = values.octal(given["mode"])
    return found | {"secret": True} if secret else found


def _known(given: Iterable[tuple[str, str]], names: dict[str, str]) -> dict[str, str]:
    """Keys by their one name. Keys that change nothing here are dropped, unknown ones refused."""
    found = {}
    for key, value in given:
        if key not in names:
            from twinhull.cli.suggest import nearest

            near = nearest(key, names)
            raise ValueError(f"unknown key {key!r}" + (f": did you mean {near}?" if near else ""))
        if names[key]:
            found[names[key]] = value
    return found


def _absolute(target: str) -> None:
    if not target.startswith("/"):
        raise ValueError(f"the path inside must be absolute: {target!r}")


def _path(source: str, cwd: str) -> str:
    """An absolute host path."""
    if source == "~" or source.startswith("~/"):
        source = posixpath.expanduser(source)
    return posixpath.normpath(posixpath.join(cwd, source))
