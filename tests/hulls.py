"""Which runtimes the tests run on: container and vm always, sandbox where a real start of runsc succeeds.

A hull that can't work on a machine is said in the header of the run. It isn't a skipped test.
"""

from __future__ import annotations

import functools
import subprocess

_PROBE = "mount -t tmpfs none /proc/sys/net; exec runsc --network=none --ignore-cgroups --platform=ptrace do /bin/true"


@functools.cache
def sandbox_trouble() -> str:
    """Why runsc can't be used here; "" if it can: it was started and ran a program."""
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", _PROBE], capture_output=True, text=True, timeout=20, input="", check=False
        )
    except subprocess.TimeoutExpired:
        return "runsc doesn't end within 20 s"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def working() -> list[str]:
    """The runtimes to parametrise with."""
    return ["container", "vm", *([] if sandbox_trouble() else ["sandbox"])]


def remarks() -> list[str]:
    """What the header says besides."""
    trouble = sandbox_trouble()
    return [f"sandbox can't run here: {trouble}"] if trouble else []
