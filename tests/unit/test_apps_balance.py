"""engine/apps/balance.py: when what an instance answers counts against it."""

from __future__ import annotations

import pytest

from twinhull.engine.apps.balance import is_fault


@pytest.mark.parametrize(
    ("errors", "requests", "bad"),
    [(0, 0, False), (2, 2, False), (3, 3, True), (3, 4, False), (9, 10, False), (10, 20, True), (10, 21, False), (6, 3, True)],
)
def test_half_of_many_or_all_of_a_few_failed(errors: int, requests: int, bad: bool) -> None:
    """An attempt that was repeated elsewhere may count as more than one error (6 of 3)."""
    assert is_fault(errors, requests) is bad
