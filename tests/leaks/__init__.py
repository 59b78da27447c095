"""One leak checker for all tests: what of a home's is on this machine, and what wasn't there before.

    before = snapshot(home)
    …
    assert_clean(home, before)      # waits a moment for work in the background, then fails with one line per leak

Nothing is looked up by program name: a thing belongs to a home because its path, tag or cgroup says so.
"""

from tests.leaks.checker import Leak, LeakError, assert_clean, difference, snapshot

__all__ = ["Leak", "LeakError", "assert_clean", "difference", "snapshot"]
