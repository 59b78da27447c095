"""The probes as one file that Python runs inside an instance: `python3 probes.pyz run|syscalls|timer …`."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

from twinhull.compare import probes

PATH = "/tmp/probes.pyz"
_MAIN = "import importlib, sys\nimportlib.import_module(f'probes.{sys.argv.pop(1)}').main()\n"


@functools.cache
def archive() -> bytes:
    """A zip."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        for path in sorted(Path(probes.__path__[0]).glob("*.py")):
            made.write(path, f"probes/{path.name}")
        made.writestr("__main__.py", _MAIN)
    return packed.getvalue()
