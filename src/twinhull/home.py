"""Where a daemon keeps things, and the names of all kernel objects it makes.

Invariant: two daemons with different homes share no path and no kernel object name.
Everything that reaches a path or a kernel name goes through `Home`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

_SYSTEM_STATE = Path("/var/lib/twinhull")
_SYSTEM_RUN = Path("/run/twinhull")
_SYSTEM_CACHE = Path("/var/cache/twinhull")
_SYSTEM_CONFIG = Path("/etc/twinhull")


@dataclass(frozen=True, slots=True)
class Home:
    """All folders of one daemon, and its five-digit hexadecimal tag."""

    state: Path
    """Survives a reboot: database, writable layers, volumes, logs."""
    run: Path
    """Sockets, pid files, bundles; may vanish at a reboot."""
    cache: Path
    """Can be made again: erofs roots, bootstrapped bases."""
    config: Path
    """Read only by the daemon: config.toml, tls/."""
    images: Path | None
    """Root of containers/storage; None is the system's own (/var/lib/containers/storage)."""
    tag: str

    @property
    def socket(self) -> Path:
        """The API's UNIX socket."""
        return self.run / "twinhull.sock"

    @property
    def proxy_root(self) -> Path:
        """The root folder of the gateway's workers: all that they can reach by a path."""
        return self.run / "gateway" / "empty"

    @property
    def nft_table(self) -> str:
        """The one nftables table (family inet) of this daemon."""
        return f"twinhull-{self.tag}"

    @property
    def cgroup(self) -> str:
        """The parent cgroup, below each controller's root; every instance is a child named by its short id."""
        return f"twinhull-{self.tag}"

    def ifname(self, kind: str, number: int) -> str:
        """An interface name of at most 15 characters: kind is one letter (b bridge, v veth, t tap)."""
        return f"th{self.tag}{kind}{number:x}"

    def instance_state(self, instance_id: str) -> Path:
        """Folder for what an instance keeps between starts: upper, work, scratch.img, log."""
        return self.state / "instances" / instance_id[:12]

    def instance_run(self, instance_id: str) -> Path:
        """Folder for sockets, pid files and the bundle of a running instance."""
        return self.run / "i" / instance_id[:12]


def current() -> Home:
    """The home named by TWINHULL_HOME, or the system's."""
    value = os.environ.get("TWINHULL_HOME")
    return at(Path(value)) if value else _system()


def at(folder: Path) -> Home:
    """The home in one folder."""
    root = Path(os.path.abspath(folder))
    return Home(
        state=root / "state",
        run=root / "run",
        cache=root / "cache",
        config=root / "config",
        images=root / "images",
        tag=_tag(root),
    )


def assets() -> Path:
    """What `make setup` made, the same for every home: guest kernel, initrd, agent.

    TWINHULL_ASSETS, else build/guest of the checkout, else /usr/lib/twinhull/guest.
    """
    value = os.environ.get("TWINHULL_ASSETS")
    if value:
        return Path(value)
    checkout = Path(__file__).resolve().parents[2] / "build" / "guest"
    return checkout if checkout.parent.parent.joinpath("Makefile").exists() else Path("/usr/lib/twinhull/guest")


def _system() -> Home:
    return Home(_SYSTEM_STATE, _SYSTEM_RUN, _SYSTEM_CACHE, _SYSTEM_CONFIG, None, _tag(_SYSTEM_STATE))


def _tag(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root)).hexdigest()[:5]
