"""A folder for compose files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.compose.app import App


@pytest.fixture
def app(tmp_path: Path) -> App:
    """An application's folder."""
    return App(tmp_path)
