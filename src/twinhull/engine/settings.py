"""What the machine's owner allows; made by the daemon from its configuration file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """accelerator: auto, kvm or tcg. The rest is off unless the owner says otherwise."""

    accelerator: str = "auto"
    allow_privileged: bool = False
    allow_unconfined: bool = False
