"""Volumes of services that nobody named: of the file (`volumes: [/data]`) and of the image (VOLUME). Pure.

Each slot of a service has its own, which passes from an instance to its replacement, as with docker compose; `up --renew-anon-volumes`
begins another generation for those that are replaced anyway. In a service's template a name has {slot} where the number goes: braces
can't be part of a volume's name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import replace

from twinhull.spec.app import SERVICE_LABEL, SLOT_LABEL, ServiceSpec
from twinhull.spec.instance import InstanceSpec, MountSpec, MountType

_SLOT = "{slot}"
_READABLE = 60


def named(app: str, service: ServiceSpec, declared: Collection[str]) -> InstanceSpec:
    """The service's template with names for all its anonymous volumes. declared: the image's VOLUMEs; what is mounted there goes before."""
    template = service.template
    taken = {mount.target for mount in template.mounts}
    declared = sorted(target for target in declared if target not in taken and target.strip("/"))
    mounts = (*template.mounts, *(MountSpec(MountType.VOLUME, target) for target in declared))
    return replace(template, mounts=tuple(_named(mount, app, service) for mount in mounts))


def _named(mount: MountSpec, app: str, service: ServiceSpec) -> MountSpec:
    if mount.type is not MountType.VOLUME or mount.source:
        return mount
    readable = re.sub(r"[^a-zA-Z0-9_-]+", "-", mount.target).strip("-")[:_READABLE]
    digest = hashlib.sha256(mount.target.encode()).hexdigest()[:6]  # /a/b and /a-b look alike
    generation = f".{service.generation}" if service.generation else ""
    return replace(mount, source=f"{app}_{service.name}.{_SLOT}.{readable}-{digest}{generation}")


def of_slot(mounts: Iterable[MountSpec], slot: int) -> tuple[MountSpec, ...]:
    """For the instance with that number. 0: a one-off, which has volumes of its own that nobody inherits."""
    return tuple(
        replace(mount, source=mount.source.replace(_SLOT, str(slot)) if slot else "") if is_own(mount) else mount for mount in mounts
    )


def is_own(mount: MountSpec) -> bool:
    """Whether each slot has its own."""
    return mount.type is MountType.VOLUME and _SLOT in mount.source


def labels(service: str, slot: int) -> dict[str, str]:
    """Of such a volume, beside the application's: `down -v` finds it by them."""
    return {SERVICE_LABEL: service, SLOT_LABEL: str(slot)}
