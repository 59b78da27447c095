"""What the machine's owner allows; made by the daemon from its configuration file."""

from __future__ import annotations

from dataclasses import dataclass, field

from twinhull.gateway.settings import Settings as GatewaySettings


@dataclass(frozen=True, slots=True)
class Settings:
    """accelerator: auto, kvm or tcg. The rest is off unless the owner says otherwise."""

    accelerator: str = "auto"
    allow_privileged: bool = False
    allow_unconfined: bool = False
    network_pools: tuple[str, ...] = ()
    """Where subnets are taken from; empty: the built-in ones."""
    log_max_size: int = 16 * 1024 * 1024
    log_max_files: int = 3
    parked: int = 0
    """VMs of one shape that may wait for their instances; 0: none."""
    parked_memory: int = 256 * 1024 * 1024
    """Bytes for all of them."""
    scale_cpus: float = 0.0
    scale_memory: int = 0
    """CPUs and bytes for all instances together, by what they ask for; 0: no bound."""
    use_window: float = 600.0
    """Seconds of use that sizes which follow it go by."""
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
