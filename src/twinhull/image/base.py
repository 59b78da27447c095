"""What is asked of the image store and what it answers with; `engine/base.py` passes these on as they are."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ImageView:
    """`image inspect`/`ls`. id: hex without "sha256:". digests: "name@sha256:…". size: bytes unpacked."""

    id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    created_at: float
    size: int
    architecture: str = ""
    config: dict[str, object] = field(default_factory=dict)
    """The OCI image configuration's `config` object (Entrypoint, Cmd, Env, User, WorkingDir, ExposedPorts, Volumes, Labels,
    Healthcheck, StopSignal, ArgsEscaped)."""
    layers: tuple[str, ...] = ()
    """diff ids, base first."""


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """`image build`. context: absolute folder on the daemon's machine."""

    context: str
    containerfile: str = ""
    tags: tuple[str, ...] = ()
    target: str = ""
    args: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    """id → absolute file, for RUN --mount=type=secret."""
    no_cache: bool = False
    pull: bool = False


@dataclass(frozen=True, slots=True)
class BootstrapSpec:
    """`image bootstrap debian:bookworm`. packages: extra ones; date: SOURCE_DATE_EPOCH in seconds (0: the release's own).

    mirror "": the host's own apt sources. refresh: ask the archive again even if a cached root of the same inputs is there.
    """

    distribution: str = "debian"
    suite: str = "bookworm"
    variant: str = "minbase"
    packages: tuple[str, ...] = ()
    mirror: str = ""
    date: int = 0
    tag: str = ""
    refresh: bool = False
