"""The access log's size kept in bounds. HAProxy holds the file open, so it is copied away and emptied, not renamed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def rotate(path: Path, most: int, files: int) -> bool:
    """Once `path` has more than `most` bytes: NAME.1 … NAME.(files-1) are its past, the newest first. Whether it was done.

    Lines that are written between copy and emptying are lost: microseconds of them.
    """
    try:
        if path.stat().st_size <= most:
            return False
    except FileNotFoundError:
        return False
    for number in range(files - 1, 0, -1):
        older = _past(path, number)
        if number == 1:
            partial = path.with_name(f".{path.name}.partial")
            shutil.copyfile(path, partial)
            os.replace(partial, older)
        elif _past(path, number - 1).exists():
            os.replace(_past(path, number - 1), older)
    os.truncate(path, 0)
    return True


def _past(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
