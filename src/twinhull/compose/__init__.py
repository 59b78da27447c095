"""Reads compose files: text with positions in, an `AppSpec` out. Runs in the client; touches files and the environment, never the daemon.

    text ─▶ tree ─▶ interpolate ─▶ schema ─▶ canonical ─▶ include, extends, merge ─▶ lower ─▶ AppSpec
    (yaml)  (values with a Mark each)       (long forms only)                       (support: what can't be honoured)

`load` is the way in. Whatever is wrong with a file is a ComposeError whose message begins with FILE:LINE; nothing else is raised.
"""

from __future__ import annotations

from twinhull.compose.load import Loaded, load, resolve
from twinhull.compose.tree import ComposeError

__all__ = ["ComposeError", "Loaded", "load", "resolve"]
