"""Which runtimes the tests run on: container and vm always, sandbox where the product offers it.

A hull that can't work on a machine is said in the header of the run. It isn't a skipped test.
"""

from __future__ import annotations

from twinhull.instance.runtimes import sandbox_trouble


def working() -> list[str]:
    """The runtimes to parametrise with."""
    return ["container", "vm", *([] if sandbox_trouble() else ["sandbox"])]


def remarks() -> list[str]:
    """What the header says besides."""
    trouble = sandbox_trouble()
    return [f"sandbox can't run here: {trouble}"] if trouble else []
