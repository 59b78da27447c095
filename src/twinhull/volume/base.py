"""What is asked of the volume store and what it answers with; `engine/base.py` passes these on as they are."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class VolumeView:
    """A named volume."""

    name: str
    created_at: float
    driver: str = "local"
    mountpoint: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """`volume create`. name "": a random one."""

    name: str = ""
    driver: str = "local"
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
