"""What of the address spaces of a guest's CPU is answered by QEMU's devices: the surface that a hostile guest has to work on.

Pure: reads what the monitor says to `info mtree -f` (QEMU has no such command in QMP itself). RAM and ROM aren't in it, nor addresses
that nothing answers. Called by `machine.py`.
"""

from __future__ import annotations

import re

from twinhull.instance.base import Region

COMMAND = "info mtree -f"
_SPACE = re.compile(r' AS "([^"]+)", root: (\S+)')
_REGION = re.compile(r"  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ([a-z/-]+)\): (.+?)(?: @[0-9a-f]+)?(?: KVM)?$")
_SPACES = {"memory": "memory", "I/O": "ports"}
_DEVICE = "i/o"


def parse(text: str) -> tuple[Region, ...]:
    """In the order of their addresses, memory first. What isn't understood is left out: the words are QEMU's own, for people."""
    found: set[Region] = set()
    space, root = "", ""
    for line in text.splitlines():
        if line.startswith("FlatView"):
            space, root = "", ""
        elif match := _SPACE.match(line):
            if match[1] in _SPACES:
                space, root = _SPACES[match[1]], match[2]
        elif space and (match := _REGION.match(line)) and match[3] == _DEVICE and match[4] != root:
            found.add(Region(space, int(match[1], 16), int(match[2], 16) - int(match[1], 16) + 1, match[4]))
    return tuple(sorted(found, key=lambda region: (region.space, region.start)))
