"""Secrets of a workload that can reconnect: its guest gets them as read-only volumes, so that its memory has none but what was read.

Others are put into the guest's memory (agent/PROTOCOL.md, FILE), where a snapshot would keep them. The files lie in a tmpfs of the
daemon's mount namespace until QEMU's jail has its own binds of them; afterwards they are nowhere else. Called by `machine.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from twinhull.instance.base import HostMount, InjectedFile, Launch
from twinhull.sys import mounts

_PRIVATE = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC


@contextmanager
def shared(launch: Launch) -> Iterator[Launch]:
    """The launch with its secrets as mounts, whose files are there within this context; unchanged if it doesn't reconnect."""
    secrets = [file for file in launch.files if file.secret] if launch.reconnect else []
    if not secrets:
        yield launch
        return
    launch.paths.run.mkdir(mode=0o711, parents=True, exist_ok=True)
    folder = _folder(launch)
    folder.mkdir(mode=0o700, exist_ok=True)
    mounts.mount("twinhull", folder, "tmpfs", _PRIVATE, "mode=700")
    try:
        binds = tuple(_write(folder / str(number), file, launch.id_base) for number, file in enumerate(secrets))
        yield replace(launch, files=tuple(file for file in launch.files if not file.secret), mounts=(*launch.mounts, *binds))
    finally:
        mounts.unmount(folder)


def holds(launch: Launch, source: Path) -> bool:
    """Whether a mount's source is one of those files; they belong to the instance's ids as the host counts them."""
    return source.parent == _folder(launch)


def _folder(launch: Launch) -> Path:
    return launch.paths.run / "secrets"


def _write(path: Path, file: InjectedFile, base: int) -> HostMount:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(file.content)
        os.fchown(descriptor, base + file.uid, base + file.gid)
        os.fchmod(descriptor, file.mode)
    return HostMount(file.target, path, read_only=True)
