"""`--filter` of `ps` and `images` as pure functions over views."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twinhull.engine.base import ImageView, InstanceView
from twinhull.errors import UserError

Filters = Mapping[str, tuple[str, ...]]


def keep_instances(views: tuple[InstanceView, ...], filters: Filters) -> tuple[InstanceView, ...]:
    """Those for which every key has a value that holds. Raises UserError for an unknown key."""
    _check(filters, _INSTANCE)
    return tuple(view for view in views if all(any(_INSTANCE[key](view, value) for value in values) for key, values in filters.items()))


def keep_images(views: tuple[ImageView, ...], filters: Filters) -> tuple[ImageView, ...]:
    """The same for images: reference, dangling, label."""
    _check(filters, _IMAGE)
    return tuple(view for view in views if all(any(_IMAGE[key](view, value) for value in values) for key, values in filters.items()))


def _check(filters: Filters, known: Mapping[str, object]) -> None:
    for key in filters:
        if key not in known:
            raise UserError(f"unknown filter {key!r}", f"use one of: {', '.join(sorted(known))}")


def _label(labels: Mapping[str, object], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _volume(view: InstanceView, name: str) -> bool:
    return any(name in (mount.source, mount.target) for mount in view.spec.mounts)


def _image_labels(view: ImageView) -> Mapping[str, object]:
    labels = view.config.get("Labels")
    return labels if isinstance(labels, dict) else {}


_INSTANCE: dict[str, Callable[[InstanceView, str], bool]] = {
    "name": lambda view, value: value.lstrip("/") in view.name,
    "id": lambda view, value: view.id.startswith(value),
    "status": lambda view, value: view.state == value,
    "label": lambda view, value: _label(view.spec.labels, value),
    "ancestor": lambda view, value: value in (view.image, view.image.partition(":")[0]) or view.image_id.startswith(value),
    "network": lambda view, value: any(address.network == value for address in view.addresses),
    "volume": _volume,
    "runtime": lambda view, value: view.runtime == value,
    "health": lambda view, value: view.health.status == value,
    "exited": lambda view, value: view.state == "exited" and str(view.exit_code) == value,
}

_IMAGE: dict[str, Callable[[ImageView, str], bool]] = {
    "reference": lambda view, value: any(value in name for name in view.names),
    "dangling": lambda view, value: (not view.names) == (value in ("true", "1")),
    "label": lambda view, value: _label(_image_labels(view), value),
}
