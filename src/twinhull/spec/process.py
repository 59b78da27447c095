"""What runs inside: an instance's wishes laid over its image's configuration, as Docker does it. Pure."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twinhull.errors import UserError
from twinhull.spec.instance import HealthCheck, InstanceSpec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The `config` object of an OCI image configuration (image-spec, config.md) with Docker's Healthcheck."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    volumes: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    health: HealthCheck | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> ImageConfig:
        """From the JSON object; absent and null keys are defaults."""
        return cls(
            entrypoint=tuple(raw.get("Entrypoint") or ()),
            command=tuple(raw.get("Cmd") or ()),
            env=tuple(raw.get("Env") or ()),
            user=raw.get("User") or "",
            workdir=raw.get("WorkingDir") or "",
            volumes=tuple(sorted(raw.get("Volumes") or {})),
            exposed=tuple(sorted(raw.get("ExposedPorts") or {})),
            labels=dict(raw.get("Labels") or {}),
            stop_signal=raw.get("StopSignal") or "",
            health=_health(raw.get("Healthcheck")),
        )


def argv(spec: InstanceSpec, image: ImageConfig) -> tuple[str, ...]:
    """Entrypoint plus command. An entrypoint given by the user drops the image's command."""
    if spec.entrypoint is None:
        words = image.entrypoint + (image.command if spec.command is None else spec.command)
    else:
        words = tuple(word for word in spec.entrypoint if word) + (spec.command or ())
    if not words:
        raise UserError(f"no command: image {spec.image} has neither entrypoint nor command", "add one: twinhull run IMAGE COMMAND")
    return words


def environment(spec: InstanceSpec, image: ImageConfig, hostname: str) -> tuple[str, ...]:
    """Image's, then the user's; PATH, HOSTNAME and (with a TTY) TERM where nobody sets them."""
    base = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={hostname}"]
    if spec.tty:
        base.append("TERM=xterm")
    return merge_environment(base, image.env, spec.env)


def merge_environment(*groups: Iterable[str]) -> tuple[str, ...]:
    """Later groups win; a first position is kept. An entry without "=" removes the variable."""
    merged: dict[str, str] = {}
    for entry in (entry for group in groups for entry in group):
        key, equals, value = entry.partition("=")
        if equals:
            merged[key] = value
        else:
            merged.pop(key, None)
    return tuple(f"{key}={value}" for key, value in merged.items())


def health(spec: InstanceSpec, image: ImageConfig) -> HealthCheck | None:
    """The user's check; its test may be empty, then the image's test runs at the user's times."""
    if spec.health is None:
        return image.health
    if spec.health.test or image.health is None:
        return spec.health
    own = spec.health
    return HealthCheck(image.health.test, own.interval, own.timeout, own.retries, own.start_period, own.start_interval)


def stop_signal(spec: InstanceSpec, image: ImageConfig) -> int:
    """Number of the signal that asks the workload to end; TERM by default."""
    return signal_number(spec.stop_signal or image.stop_signal or "TERM")


def signal_number(word: str) -> int:
    """From "TERM", "SIGTERM", "15" or "RTMIN+3". Raises UserError."""
    name = word.upper().removeprefix("SIG")
    if name.isdigit() and 1 <= int(name) <= 64:
        return int(name)
    base, plus, offset = name.partition("+")
    if base == "RTMIN" and (not plus or offset.isdigit()):
        return _realtime(word, int(offset or 0))
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise UserError(f"unknown signal {word!r}", "use a name such as TERM or a number from 1 to 64") from None


def _realtime(word: str, offset: int) -> int:
    number = 34 + offset  # SIGRTMIN as glibc and musl present it
    if number > 64:
        raise UserError(f"unknown signal {word!r}")
    return number


def _health(raw: Mapping[str, Any] | None) -> HealthCheck | None:
    if not raw or not raw.get("Test"):
        return None
    seconds = {key: (raw.get(key) or 0) / _NANOSECONDS for key in ("Interval", "Timeout", "StartPeriod", "StartInterval")}
    return HealthCheck(
        test=_test(raw["Test"]),
        interval=seconds["Interval"] or 30.0,
        timeout=seconds["Timeout"] or 30.0,
        retries=raw.get("Retries") or 3,
        start_period=seconds["StartPeriod"],
        start_interval=seconds["StartInterval"] or 5.0,
    )


def _test(raw: Sequence[str] | str) -> tuple[str, ...]:
    return ("CMD-SHELL", raw) if isinstance(raw, str) else tuple(raw)
