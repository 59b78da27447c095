"""How late a timer wakes: sleeps of one millisecond, and by how many seconds each was overslept. Prints one line of JSON."""

from __future__ import annotations

import json
import sys
import time

PERIOD = 0.001


def main() -> None:
    """argv[1]: how many sleeps."""
    print(json.dumps([round(late(), 7) for _ in range(int(sys.argv[1]))]))


def late() -> float:
    """Seconds beyond the period."""
    begin = time.perf_counter()
    time.sleep(PERIOD)
    return time.perf_counter() - begin - PERIOD
