"""The nearest known word to a mistyped one. Loaded only once something is wrong."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that looks most like this one, or "". Case and a word that begins another count in its favour."""
    words = list(known)
    by_lower = {candidate.lower(): candidate for candidate in words}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return by_lower[close[0]]
    stem = word.lower().strip("-")
    begins = [candidate for candidate in words if len(stem) > 2 and candidate.lower().strip("-").startswith(stem)]
    return min(begins, key=len) if begins else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for the user, or ""."""
    found = nearest(word, known)
    return f"did you mean {found}?" if found else ""
