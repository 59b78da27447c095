"""`resources: auto`: up at once, down slowly, within bounds, and never by what isn't known."""

from __future__ import annotations

import pytest

from twinhull.plan.resize import WINDOW, Size, Use, resize

NOW = 10_000.0
MIB = 1 << 20
BOUNDS = Size(0.1, 32 * MIB), Size(4.0, 1024 * MIB)


def used(cpus: float, memory: int, seconds: float = WINDOW) -> list[Use]:
    return [Use(NOW - seconds + 10 * n + 1, cpus, memory * MIB) for n in range(int(seconds / 10))]


def test_up_at_once_with_a_margin() -> None:
    result = resize(used(0.9, 200, 30), Size(0.5, 128 * MIB), BOUNDS, NOW)
    assert result.size == Size(1.05, 240 * MIB)
    assert result.reason == "used up to 0.90 CPUs and 200 MiB within 10 min"


def test_down_only_after_a_whole_window_and_if_it_is_worth_it() -> None:
    large = Size(2.0, 512 * MIB)
    assert resize(used(0.1, 50, 300), large, BOUNDS, NOW).size == large
    assert resize(used(0.1, 50), large, BOUNDS, NOW).size == Size(0.15, 64 * MIB)
    assert resize(used(1.6, 400), large, BOUNDS, NOW).size == large, "a tenth less isn't worth a change"


def test_the_window_is_the_owners() -> None:
    large, recent = Size(2.0, 512 * MIB), [Use(NOW - n, 0.1, 50 * MIB) for n in range(19, -1, -1)]
    assert resize(recent, large, BOUNDS, NOW).size == large
    result = resize(recent, large, BOUNDS, NOW, window=20.0)
    assert result.size == Size(0.15, 64 * MIB)
    assert result.reason == "used up to 0.10 CPUs and 50 MiB within 20 s"


def test_one_short_peak_of_cpu_does_not_count_one_of_memory_does() -> None:
    uses = [*used(0.1, 50)[:-1], Use(NOW - 1, 3.0, 300 * MIB)]
    assert resize(uses, Size(0.15, 64 * MIB), BOUNDS, NOW).size == Size(0.15, 352 * MIB)


def test_the_bounds_hold() -> None:
    assert resize(used(9.0, 5000), Size(1.0, 64 * MIB), BOUNDS, NOW).size == BOUNDS[1]
    assert resize(used(0.0, 1), Size(1.0, 640 * MIB), BOUNDS, NOW).size == BOUNDS[0]


@pytest.mark.parametrize("uses", [[], used(0.1, 10)[:-5]])
def test_what_is_not_known_changes_nothing(uses: list[Use]) -> None:
    assert resize(uses, Size(1.0, 640 * MIB), BOUNDS, NOW).reason == ""


def test_after_the_kernel_killed_there_is_more_memory() -> None:
    result = resize([], Size(1.0, 256 * MIB), BOUNDS, NOW, oom_at=NOW - 5)
    assert result.size == Size(1.0, 320 * MIB)
    assert result.reason == "it ran out of memory"
