"""Where a mount's source is, for those who mount it: an opened file, not a path that somebody could change on the way.

A workload that has a volume may exchange any folder of it for a link while another instance that mounts a subfolder is being started.
So what lies in the volume store is opened without following links (the engine has resolved it inside the volume before); whoever loses
that race gets an error. What the user names elsewhere is the host's own, with its links.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twinhull.errors import TemporaryError
from twinhull.instance.base import Launch
from twinhull.sys import mounts


def straight(launch: Launch, source: Path) -> Path:
    """The path without links on its way, or, in the volume store, as it was found: there `opened` refuses links."""
    store = Path(os.path.realpath(launch.paths.state.parents[1] / "volumes"))
    return source if source.is_relative_to(store) else Path(os.path.realpath(source))


@contextmanager
def opened(source: Path) -> Iterator[int]:
    """An O_PATH descriptor of `straight`'s answer. Raises TemporaryError if it leads through a link by now, OSError."""
    try:
        descriptor = mounts.open_straight(source)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise TemporaryError(f"mount {source}: it was exchanged for a link just now", "start it again") from None
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)
