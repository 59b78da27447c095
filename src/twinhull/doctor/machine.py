"""What the checks may ask of a machine; tests answer with a fake instead.

Every question is harmless: files are read, programs asked for their version, and kernel features tried in namespaces that end
with the question.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from twinhull.sys import mounts, namespaces, proc

_TIMEOUT = 10.0
_PROBE_IDS = 0x7FFD_0000
"""Any range that isn't the identity; nothing is written with it."""


class Machine(Protocol):
    """The questions."""

    def release(self) -> str:
        """`uname -r`."""

    def read(self, path: str) -> str:
        """A file's text, "" if it can't be read."""

    def exists(self, path: str) -> bool:
        """Whether there is anything under the path."""

    def is_device(self, path: str) -> bool:
        """Whether it is a character device."""

    def find(self, program: str) -> str:
        """The program's path, "" if it isn't installed."""

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str]:
        """Exit status and both outputs together; 127 if it isn't installed."""

    def free_bytes(self, path: str) -> int:
        """Free space where the path, or its nearest existing parent, is."""

    def is_root(self) -> bool:
        """Whether features can be tried at all."""

    def can_idmap(self) -> bool:
        """Whether a bind mount can have its owners mapped, tried on the root file system."""

    def has_library(self, name: str) -> bool:
        """Whether a shared library can be loaded."""

    def has_group(self, name: str) -> bool:
        """Whether the group exists."""


class ThisMachine:
    """The real answers."""

    def release(self) -> str:
        return os.uname().release

    def read(self, path: str) -> str:
        try:
            return Path(path).read_text(errors="replace")
        except OSError:
            return ""

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def is_device(self, path: str) -> bool:
        try:
            return stat.S_ISCHR(os.stat(path).st_mode)
        except OSError:
            return False

    def find(self, program: str) -> str:
        return shutil.which(program, path=proc.clean_environment()["PATH"]) or ""

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str]:
        try:
            result = proc.run_blocking(argv, stdin=stdin.encode(), timeout=_TIMEOUT, check=False)
        except proc.ProcessError as error:
            return error.exit_status, error.message
        except (OSError, TimeoutError) as error:
            return 126, str(error)
        return result.status, (result.stdout + result.stderr).decode(errors="replace")

    def free_bytes(self, path: str) -> int:
        folder = path
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        return shutil.disk_usage(folder).free

    def is_root(self) -> bool:
        return os.geteuid() == 0

    def can_idmap(self) -> bool:
        try:
            namespace = namespaces.user_namespace(_PROBE_IDS)
        except Exception:  # any failure is the answer "no", with whatever reason
            return False
        try:
            os.close(mounts.idmapped_clone_with("/usr", namespace))
        except Exception:  # the same
            return False
        finally:
            os.close(namespace)
        return True

    def has_library(self, name: str) -> bool:
        try:
            ctypes.CDLL(name)
        except OSError:
            return False
        return True

    def has_group(self, name: str) -> bool:
        import grp

        with contextlib.suppress(KeyError):
            return bool(grp.getgrnam(name))
        return False
