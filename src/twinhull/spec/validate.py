"""Checks of an instance's specification that need no machine. Raises UserError, one clear sentence each. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace

from twinhull.errors import UserError
from twinhull.spec.instance import InstanceSpec, MountSpec, MountType, NetworkAttachment, NetworkMode, PortMapping
from twinhull.spec.process import signal_number

DEFAULT_NETWORK = "default"
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_LEAST_MEMORY = 6 * 1024 * 1024
"""Docker's own lower bound."""


def normalize(spec: InstanceSpec) -> InstanceSpec:
    """The same specification with defaults filled in and targets made canonical, or a UserError."""
    _check_words(spec)
    _check_resources(spec)
    mounts = tuple(_mount(mount) for mount in spec.mounts)
    files = tuple(replace(file, target=_target(file.target)) for file in spec.files)
    _check_unique([*(mount.target for mount in mounts), *(file.target for file in files)], "mount target")
    ports = tuple(_port(port) for port in spec.ports)
    _check_unique((f"{p.host_ip}:{p.host_port}/{p.protocol}" for p in ports if p.host_port), "host port")
    return replace(spec, mounts=mounts, files=files, ports=ports, networks=_networks(spec))


def _check_words(spec: InstanceSpec) -> None:
    if not spec.image:
        raise UserError("no image given")
    if spec.hostname and not _HOSTNAME.fullmatch(spec.hostname):
        raise UserError(f"invalid hostname {spec.hostname!r}")
    if spec.workdir and not spec.workdir.startswith("/"):
        raise UserError(f"working directory {spec.workdir!r} is not absolute")
    if spec.stop_signal:
        signal_number(spec.stop_signal)
    for entry in spec.env:
        if entry.startswith("=") or not entry or "\0" in entry:
            raise UserError(f"invalid environment entry {entry.split('=')[0]!r}")
    for word in (*(spec.entrypoint or ()), *(spec.command or ())):
        if "\0" in word:
            raise UserError("a command's words can't contain NUL")
    if spec.auto_remove and spec.restart.when != "no":
        raise UserError("--rm and a restart policy contradict each other", "leave one of them out")


def _check_resources(spec: InstanceSpec) -> None:
    limits = spec.resources
    if limits.memory and limits.memory < _LEAST_MEMORY:
        raise UserError(f"memory limit {limits.memory} is below the minimum of {_LEAST_MEMORY} bytes (6 MiB)")
    if limits.memory_swap > 0 and limits.memory_swap < limits.memory:
        raise UserError("memory plus swap can't be less than memory")
    if limits.cpus < 0 or limits.pids < 0 or limits.cpu_shares < 0:
        raise UserError("limits can't be negative")
    for name in ("read_bps", "write_bps", "read_iops", "write_iops"):
        if getattr(limits, name) < 0:
            raise UserError(f"{name} can't be negative")


def _mount(mount: MountSpec) -> MountSpec:
    target = _target(mount.target)
    if mount.type is MountType.BIND and not mount.source.startswith("/"):
        raise UserError(f"bind source {mount.source!r} is not an absolute path")
    if mount.type is MountType.VOLUME and mount.source and not _VOLUME.fullmatch(mount.source):
        raise UserError(f"invalid volume name {mount.source!r}", "for a folder give an absolute path")
    if mount.subpath.startswith("/") or ".." in mount.subpath.split("/"):
        raise UserError(f"subpath {mount.subpath!r} leaves its volume")
    return replace(mount, target=target)


def _target(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise UserError(f"mount target {path!r} is not an absolute path")
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if clean == "/":
        raise UserError("nothing can be mounted on /")
    return clean


def _port(port: PortMapping) -> PortMapping:
    if not 1 <= port.container_port <= 65535 or not 0 <= port.host_port <= 65535:
        raise UserError(f"port {port.host_port}:{port.container_port} is out of range")
    if port.protocol not in ("tcp", "udp"):
        raise UserError(f"unknown protocol {port.protocol!r}: use tcp or udp")
    return port


def _networks(spec: InstanceSpec) -> tuple[NetworkAttachment, ...]:
    if spec.network_mode is not NetworkMode.BRIDGE:
        if spec.networks:
            raise UserError(f"network mode {spec.network_mode} can't be combined with networks")
        if spec.ports:
            raise UserError(f"ports can't be published with network mode {spec.network_mode}")
        return ()
    _check_unique((attachment.network for attachment in spec.networks), "network")
    return spec.networks or (NetworkAttachment(DEFAULT_NETWORK),)


def _check_unique(words: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for word in words:
        if word in seen:
            raise UserError(f"{what} {word} is given twice")
        seen.add(word)
