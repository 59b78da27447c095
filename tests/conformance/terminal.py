"""A command on a pseudo-terminal, as a user types it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from types import TracebackType

from tests.harness import Daemon


class Terminal:
    """`twinhull ARGV` on a terminal of `rows` × `cols`."""

    def __init__(self, daemon: Daemon, *argv: str, rows: int = 24, cols: int = 80) -> None:
        self.master, slave = pty.openpty()
        self.seen = ""
        self._size(rows, cols)
        self.process = daemon.popen(*argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=_own_terminal)
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    def send(self, text: str) -> None:
        """Type."""
        os.write(self.master, text.encode())

    def resize(self, rows: int, cols: int) -> None:
        """Change the size as a terminal emulator does."""
        self._size(rows, cols)
        os.kill(self.process.pid, signal.SIGWINCH)

    def expect(self, text: str, timeout: float = 30) -> None:
        """Read until `text` was shown."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} wasn't shown within {timeout:g} s, but {self.seen!r}"
            if not self._read(left):
                assert text in self.seen, f"{text!r} wasn't shown before the end, but {self.seen!r}"

    def wait(self, timeout: float = 30) -> int:
        """Read to the end; the exit status."""
        while self._read(timeout):
            pass
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end within {timeout:g} s; shown: {self.seen!r}") from None

    def _read(self, timeout: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], timeout)
        try:
            data = os.read(self.master, 65536) if ready else b""
        except OSError:  # EIO: the other side has closed
            data = b""
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def _size(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
