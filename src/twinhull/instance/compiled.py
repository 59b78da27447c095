"""Compiled seccomp filters, kept in memory: libseccomp needs 20 ms for the default profile, two thirds of a container's start.

crun leaves the filter it compiled in its state folder and takes one in an annotation (crun's own cache needs a build with libgcrypt,
which Debian's isn't). The profile itself stays in the configuration, so a runtime that doesn't know the annotation compiles it as ever.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

_ANNOTATION = "run.oci.seccomp_bpf_data"
_MOST = 64
"""Filters kept; profiles given as text could be any number."""
_INSTRUCTION = 8
_filters: dict[str, str] = {}


def with_filter(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the filter of its profile, if that was compiled before."""
    found = _filters.get(_key(config))
    return config if found is None else config | {"annotations": {_ANNOTATION: found}}


def keep(config: dict[str, Any], path: Path) -> None:
    """Remember what the runtime compiled for this configuration; nothing happens if it left no filter."""
    key = _key(config)
    if not key or key in _filters:
        return
    try:
        data = path.read_bytes()
    except OSError:
        return
    if data and len(data) % _INSTRUCTION == 0:
        while len(_filters) >= _MOST:
            _filters.pop(next(iter(_filters)))
        _filters[key] = base64.b64encode(data).decode()


def _key(config: dict[str, Any]) -> str:
    """The profile's digest, "" without one. A listener or a notification needs more than the filter, so those are compiled each time."""
    profile = config["linux"].get("seccomp")
    if profile is None or "listenerPath" in profile or "flags" in profile:
        return ""
    return hashlib.sha256(json.dumps(profile, sort_keys=True).encode()).hexdigest()
