"""The REST API: `create_app(engine, config, stop)` and what docs/api.md says."""

from __future__ import annotations

from twinhull.daemon.api.app import create_app

__all__ = ["create_app"]
