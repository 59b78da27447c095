"""Makes the usual VM's template before anybody waits for it: the last step of `make setup`.

    python -m twinhull.instance.vm.prepare

For the daemon of TWINHULL_HOME, or the system's; it looks the template up by what it depends on, and makes another when that has changed.
Exit status 1, with the reason, if guests can't be restored here: then VMs boot.
"""

from __future__ import annotations

import asyncio
import sys
import time

from twinhull import home
from twinhull.errors import TwinhullError
from twinhull.instance.vm import template


def main() -> int:
    """The program."""
    started = time.monotonic()
    try:
        made = asyncio.run(template.prepare(home.current()))
    except TwinhullError as error:
        print(f"no template: {error}", file=sys.stderr)
        return 1
    template.settle()
    if not made:
        print(f"no template: {template.statistics()}", file=sys.stderr)
        return 1
    print(f"the template of the usual VM is there after {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
