"""--filter for lists that the daemon gives whole. Several values of a key are alternatives; all keys must match, as for instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinhull.cli.parse import usage

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments


def pick(args: Arguments, objects: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The objects that match. Raises UsageError for a key that isn't in `keys`."""
    wanted: dict[str, list[str]] = {}
    for text in args.many("filter"):
        key, equals, value = text.partition("=")
        if key not in keys or not equals:
            raise usage(args.command, f"--filter {text}: use {', '.join(f'{known}=…' for known in keys)}")
        wanted.setdefault(key, []).append(value)
    return [item for item in objects if all(any(_matches(item, key, value) for value in values) for key, values in wanted.items())]


def _matches(item: dict[str, Any], key: str, value: str) -> bool:
    if key == "label":
        name, equals, content = value.partition("=")
        labels = item.get("labels") or {}
        return name in labels and (not equals or labels[name] == content)
    if key == "dangling":
        return bool(item.get("used_by")) != (value.lower() in ("true", "1"))
    if key == "internal":
        return bool(item.get("internal")) == (value.lower() in ("true", "1"))
    # a part of the name is enough, as in Docker; an id's beginning
    return str(item.get(key, "")).startswith(value) if key == "id" else value in str(item.get(key, ""))
