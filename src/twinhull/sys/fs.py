"""Files written whole or not at all, and trees removed without following links."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def write_atomic(path: Path, data: bytes | str, mode: int = 0o644, *, sync: bool = True) -> None:
    """Write to a temporary name in the same folder, sync, rename. `sync=False` for what a reboot may lose."""
    raw = data.encode() if isinstance(data, str) else data
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            os.fchmod(file.fileno(), mode)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise


def remove_tree(path: Path) -> None:
    """Remove a folder and all below it; nothing happens if it isn't there. Never crosses a symbolic link."""
    shutil.rmtree(path, ignore_errors=False) if path.exists() or path.is_symlink() else None
