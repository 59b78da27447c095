"""Numbers and sentences for people. Pure."""

from __future__ import annotations

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def value(number: float, unit: str) -> str:
    """ "12.3 ms", "34.1 MB", "1.2 GB/s", "5,296 /s"; three figures."""
    if unit == "s":
        return _scaled(number, _TIMES)
    if unit in ("bytes", "B/s"):
        return _scaled(number, _SIZES) + ("/s" if unit == "B/s" else "")
    return f"{_three(number)} /s" if unit == "1/s" else _three(number)


def _scaled(number: float, scale: tuple[tuple[float, str], ...]) -> str:
    factor, word = next(((factor, word) for factor, word in scale if abs(number) >= factor), scale[-1])
    return f"{_three(number / factor)} {word}"


def _three(number: float) -> str:
    """Three figures that mean something, and no zeros after the point for whole numbers."""
    if number == 0:
        return "0"
    size = abs(number)
    return f"{number:,.0f}" if size >= 100 else f"{number:.1f}" if size >= 10 else f"{number:.2f}"


def listed(words: list[str]) -> str:
    """ "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""
